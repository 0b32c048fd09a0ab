import pytest
import torch
from detectron2.config import get_cfg
from golden.engine import learning_rates
from torch import nn

from maft.config_keys import add_maft_config
from maft.engine.schedules import build_scheduler
from maft.errors import UserError


def config(**options):
    cfg = get_cfg()
    add_maft_config(cfg)
    cfg.SOLVER.update(BASE_LR=1.0, MAX_ITER=100, WARMUP_ITERS=0)
    cfg.SOLVER.update(options)
    return cfg


def scheduler(**options):
    cfg = config(**options)
    return build_scheduler(cfg, torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=cfg.SOLVER.BASE_LR))


def rates(iterations, **options):
    return [group[0] for group in learning_rates(scheduler(**options), iterations)]


def test_poly_decays_from_the_first_iteration():
    assert rates([0, 50, 99], POLY_POWER=0.9) == pytest.approx([1.0, 0.5**0.9, 0.01**0.9])


def test_poly_warms_up_linearly_and_ends_on_the_given_share():
    values = rates([0, 5, 10, 95], WARMUP_ITERS=10, WARMUP_FACTOR=0.1, POLY_POWER=1.0, END_FACTOR=0.2)
    assert values == pytest.approx([0.1, 0.55 * 0.95, 0.9, 0.2])


def test_cosine_warms_up_then_falls_over_the_rest():
    values = rates([0, 9, 10, 55, 100], LR_SCHEDULER_NAME="WarmupThenCosineLR", WARMUP_ITERS=10)
    assert values == pytest.approx([0.1, 1.0, 1.0, 0.5, 0.0])


def test_multistep_is_that_of_detectron2():
    values = rates([0, 59, 60, 80], LR_SCHEDULER_NAME="WarmupMultiStepLR", STEPS=(60, 80), GAMMA=0.1)
    assert values == pytest.approx([1.0, 1.0, 0.1, 0.01])


def test_values_that_detectron2_refuses_are_one_sentence():
    with pytest.raises(UserError, match="WarmupCosineLR does not go with SOLVER's other values"):
        scheduler(LR_SCHEDULER_NAME="WarmupCosineLR", BASE_LR=1.0, BASE_LR_END=2.0)


def test_stepping_gives_the_same_rates_as_the_closed_form():
    stepped, closed = scheduler(WARMUP_ITERS=3, WARMUP_FACTOR=0.5), scheduler(WARMUP_ITERS=3, WARMUP_FACTOR=0.5)
    seen = []
    for _ in range(6):
        seen.append(stepped.get_last_lr())
        stepped.optimizer.step()
        stepped.step()
    assert seen == learning_rates(closed, range(6))


@pytest.mark.parametrize("name", ["fcclip", "maftp", "warmup", "fcclip_maskadapter", "maftp_maskadapter"])
def test_recorded_rates_of_the_official_training_scripts(golden_dir, name):
    from golden.case import GoldenCase

    case = GoldenCase.read(golden_dir / "maskadapter" / f"optimizer_{name}.json")
    solver = case.config["SOLVER"]
    options = {
        key: solver[key]
        for key in ("LR_SCHEDULER_NAME", "MAX_ITER", "STEPS", "GAMMA", "WARMUP_FACTOR", "WARMUP_ITERS", "WARMUP_METHOD")
    }
    values = rates(
        case.inputs["iterations"].tolist(),
        POLY_POWER=solver["POLY_LR_POWER"],
        END_FACTOR=solver["POLY_LR_CONSTANT_ENDING"],
        **options,
    )
    assert values == pytest.approx(case.outputs["lr_factor"].tolist(), rel=1e-9)
