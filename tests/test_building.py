"""From a config to a model on a device."""

import pytest
import torch
from detectron2.structures import Instances

import maft.building
from maft.building import build_model
from maft.config import load_config
from maft.errors import UserError


def test_a_device_that_is_not_there_is_refused(tiny_configs):
    cfg = load_config(tiny_configs / "maft.yaml", ["MODEL.DEVICE", "cuda:99"])
    with pytest.raises(UserError, match=r"MODEL.DEVICE is cuda:99, but PyTorch sees \d+ GPUs here"):
        build_model(cfg)


def test_a_model_larger_than_the_memory_is_refused(tiny_configs, monkeypatch):
    def architecture(cfg):
        return lambda cfg, **clip: torch.empty(1 << 55)

    monkeypatch.setattr(maft.building, "_architecture", architecture)
    with pytest.raises(UserError, match="does not fit into the memory"):
        build_model(load_config(tiny_configs / "maft.yaml"))


@pytest.mark.parametrize("training", [True, False])
def test_cudnn_looks_for_fast_algorithms_in_training_where_the_config_asks(tiny_configs, monkeypatch, training):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    build_model(load_config(tiny_configs / "freeseg.yaml", ["CUDNN_BENCHMARK", "True"]), training=training)
    assert torch.backends.cudnn.benchmark == training


def test_two_losses_of_one_name_are_refused(tiny_configs):
    model = build_model(load_config(tiny_configs / "maft.yaml")).train()
    model.losses["Another"] = model.losses["MaskAwareLoss"]
    instances = Instances((64, 64), gt_classes=torch.tensor([0]), gt_masks=torch.ones(1, 64, 64, dtype=torch.bool))
    with pytest.raises(UserError, match="Another returns 'loss_mask_aware', which another loss returns too"):
        model([{"image": torch.zeros(3, 64, 64, dtype=torch.uint8), "instances": instances}])
