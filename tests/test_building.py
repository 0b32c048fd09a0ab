"""From a config to a model on a device."""

import logging

import pytest
import torch
from detectron2.structures import Instances
from safetensors.torch import save_file

import maft.building
from maft.building import build_model
from maft.config import load_config
from maft.errors import UserError
from maft.packaged import configs


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


@pytest.mark.parametrize(("pretrained", "untrained"), [("", False), ("random", True)])
def test_the_text_tower_of_a_classifier_s_own_clip_is_trained_without_a_file(tmp_path, caplog, pretrained, untrained):
    own = ["MODEL.CLASSIFIER.MaskCLIPpp.OWN_CLIP", "tiny_vit"]
    own += ["MODEL.CLASSIFIER.MaskCLIPpp.OWN_PRETRAINED", pretrained, "MODEL.CLASSIFIER.FROZEN", "True"]
    own += ["MODEL.DEVICE", "cpu"]
    cfg = load_config(configs() / "quickstart/mask_clip_pp.yaml", own)
    # As released: of the CLIP nothing but the image tower.
    given = {
        name: value
        for name, value in build_model(cfg).state_dict().items()
        if name.startswith("classifier.") and (".clip." not in name or ".visual." in name)
    }
    save_file(given, tmp_path / "released.safetensors")
    cfg = load_config(configs() / "quickstart/mask_clip_pp.yaml", own)
    cfg.MODEL.START_FROM += [{"FILE": str(tmp_path / "released.safetensors"), "TAKE": "classifier"}]
    caplog.clear()
    caplog.set_level(logging.INFO)
    build_model(cfg)
    assert ("Nothing gives or has trained" in caplog.text) == untrained
    assert ("pretrained, as MODEL.CLASSIFIER names them" in caplog.text) != untrained
    if untrained:
        with pytest.raises(UserError, match=r"nothing gives the weights of the classifier \(such as classifier.clip"):
            build_model(cfg, training=True)
    else:
        build_model(cfg, training=True)
