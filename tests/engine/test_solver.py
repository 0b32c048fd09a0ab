import logging

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.solver.build import get_default_optimizer_params
from torch import nn

from maft.config_keys import add_maft_config
from maft.engine.solver import build_optimizer, clip_gradients, parameter_groups
from maft.errors import UserError


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_maft_config(cfg)
    cfg.SOLVER.update(BASE_LR=1e-3, WEIGHT_DECAY=0.05)
    return cfg


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.head = nn.ModuleDict({"norm": nn.LayerNorm(4), "linear": nn.Linear(4, 4), "queries": nn.Embedding(2, 4)})
        self.void_embedding = nn.Parameter(torch.zeros(1, 4))
        self.relative_position_bias_table = nn.Parameter(torch.zeros(9, 2))
        self.tied = self.head["linear"]
        self.frozen = nn.Linear(4, 4).requires_grad_(False)


def settings(groups):
    return {name: (group["lr"], group["weight_decay"]) for group in groups for name in group["names"]}


def test_decay_follows_the_type_of_module_and_rates_follow_names(cfg):
    cfg.SOLVER.LR_MULTIPLIERS = [["backbone", 0.1]]
    cfg.SOLVER.WEIGHT_DECAY_EMBED = 0.01
    assert settings(parameter_groups(Model(), cfg.SOLVER)) == {
        "backbone.0.weight": (1e-4, 0.05),
        "backbone.0.bias": (1e-4, 0.05),
        "backbone.1.weight": (1e-4, 0.0),
        "backbone.1.bias": (1e-4, 0.0),
        "head.norm.weight": (1e-3, 0.0),
        "head.norm.bias": (1e-3, 0.0),
        "head.linear.weight": (1e-3, 0.05),
        "head.linear.bias": (1e-3, 0.05),
        "head.queries.weight": (1e-3, 0.01),
        "void_embedding": (1e-3, 0.0),
        "relative_position_bias_table": (1e-3, 0.0),
    }


def test_biases_follow_detectron2s_own_keys_in_its_own_way(cfg):
    cfg.SOLVER.update(BIAS_LR_FACTOR=2.0, WEIGHT_DECAY_BIAS=0.3, WEIGHT_DECAY_NORM=0.2)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, 4))
    theirs = get_default_optimizer_params(
        model, base_lr=1e-3, weight_decay=0.05, weight_decay_norm=0.2, bias_lr_factor=2.0, weight_decay_bias=0.3
    )
    names = {parameter: name for name, parameter in model.named_parameters()}
    expected = {names[p]: (group["lr"], group["weight_decay"]) for group in theirs for p in group["params"]}
    assert settings(parameter_groups(model, cfg.SOLVER)) == expected


def test_open_clip_rule_decays_matrices_only(cfg):
    cfg.SOLVER.DECAY_ONLY_MATRICES = True
    found = settings(parameter_groups(Model(), cfg.SOLVER))
    assert found["head.linear.weight"][1] == 0.05
    assert found["head.linear.bias"][1] == 0.0


def test_multipliers_of_all_matches_multiply_and_an_idle_one_is_reported(cfg, caplog):
    cfg.SOLVER.LR_MULTIPLIERS = [["head", 0.5], ["linear", 0.2], ["typo", 2.0]]
    with caplog.at_level(logging.WARNING):
        found = settings(parameter_groups(Model(), cfg.SOLVER))
    assert found["head.linear.weight"][0] == pytest.approx(1e-4)
    assert "'typo'" in caplog.text


def test_nothing_to_train_is_a_users_mistake(cfg):
    with pytest.raises(UserError, match="FROZEN False"):
        build_optimizer(cfg, nn.Linear(2, 2).requires_grad_(False))


def test_adamw_takes_betas_and_eps_from_the_config(cfg):
    cfg.SOLVER.BETAS, cfg.SOLVER.EPS = [0.9, 0.98], 1e-6
    optimizer = build_optimizer(cfg, Model())
    assert isinstance(optimizer, torch.optim.AdamW)
    assert {(group["betas"], group["eps"]) for group in optimizer.param_groups} == {((0.9, 0.98), 1e-6)}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("full_model", [0.6, 0.8]), ("norm", [1.0, 1.0]), ("value", [1.0, 1.0]), (None, [3.0, 4.0])],
)
def test_clipping(cfg, kind, expected):
    clip = cfg.SOLVER.CLIP_GRADIENTS
    clip.ENABLED, clip.CLIP_TYPE, clip.CLIP_VALUE = kind is not None, kind or "value", 1.0
    parameters = [nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))]
    for parameter, value in zip(parameters, [3.0, 4.0]):
        parameter.grad = torch.tensor([value])
    norm = clip_gradients(parameters, clip)
    assert [float(parameter.grad) for parameter in parameters] == pytest.approx(expected, rel=1e-5)
    assert (norm is None) == (kind != "full_model")


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("kind", ["ADAMW", "SGD"])
def test_every_step_is_seen_in_the_versions_of_the_parameters(cfg, kind, fused):
    cfg.SOLVER.update(OPTIMIZER=kind, FUSED=fused)
    model = Model()
    optimizer = build_optimizer(cfg, model)
    assert bool(optimizer.defaults["fused"]) == fused
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.grad = torch.ones_like(parameter)
    before = [parameter._version for parameter in trained]
    optimizer.step()
    assert all(parameter._version > version for parameter, version in zip(trained, before))


@pytest.mark.gpu
def test_a_gpu_has_the_fused_optimiser_and_resumes_from_the_other(cfg):
    model, other = Model().cuda(), Model()
    for parameter in other.parameters():
        parameter.grad = torch.ones_like(parameter)
    plain, optimizer = build_optimizer(cfg, other), build_optimizer(cfg, model)
    plain.step()
    assert optimizer.defaults["fused"] and not plain.defaults["fused"]
    optimizer.load_state_dict({**optimizer.state_dict(), "state": plain.state_dict()["state"]})
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert all(parameter.isfinite().all() for parameter in model.parameters())
