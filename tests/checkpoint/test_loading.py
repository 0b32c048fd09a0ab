"""Which files a model starts from, and which of them provides which part."""

import pytest
import torch
from detectron2.config import get_cfg

from maft.checkpoint.io import write_safetensors
from maft.checkpoint.loading import initial_weights
from maft.config import add_maft_config
from maft.errors import UserError

HOST = ("proposer.a", "vocabulary_encoder.void_embedding", "classifier.text_transfer.a")
ADAPTER = ("vocabulary_encoder.void_embedding", "classifier.text_transfer.a", "classifier.head.a")


@pytest.fixture
def cfg(tmp_path):
    """A second stage: the host's checkpoint, every tensor 1, and the warm-up stage's, every tensor 2."""
    for name, parts, value in (("host", HOST, 1.0), ("warm_up", ADAPTER, 2.0)):
        write_safetensors(tmp_path / f"{name}.safetensors", {part: torch.full((1,), value) for part in parts}, {})
    cfg = get_cfg()
    add_maft_config(cfg)
    cfg.MODEL.WEIGHTS = str(tmp_path / "host.safetensors")
    cfg.MODEL.WEIGHTS_MAY_LACK = ["classifier.head."]
    cfg.MODEL.CLASSIFIER.WEIGHTS = str(tmp_path / "warm_up.safetensors")
    return cfg


def joined(cfg):
    """What is in the model after all files are read, by name."""
    return {item.part + name: value.item() for item in initial_weights(cfg) for name, value in item.state.items()}


def test_the_warm_up_stage_gives_the_classifier_and_the_host_everything_else(cfg):
    assert joined(cfg) == {
        "proposer.a": 1.0,
        "vocabulary_encoder.void_embedding": 1.0,
        "classifier.text_transfer.a": 2.0,
        "classifier.head.a": 2.0,
    }


def test_a_trained_model_keeps_its_classifier_and_needs_no_warm_up_file(cfg, tmp_path):
    trained = {name: torch.full((1,), 3.0) for name in {*HOST, *ADAPTER}}
    write_safetensors(tmp_path / "trained.safetensors", trained, {})
    cfg.MODEL.WEIGHTS = str(tmp_path / "trained.safetensors")
    cfg.MODEL.CLASSIFIER.WEIGHTS = str(tmp_path / "missing.safetensors")
    assert set(joined(cfg).values()) == {3.0}


def test_the_classifiers_file_may_be_the_only_one(cfg):
    cfg.MODEL.WEIGHTS = ""
    assert joined(cfg) == {"classifier.text_transfer.a": 2.0, "classifier.head.a": 2.0}


def test_a_missing_warm_up_file_is_refused_by_name(cfg):
    cfg.MODEL.CLASSIFIER.WEIGHTS = "warm_up/model_final"
    with pytest.raises(UserError, match="warm_up/model_final"):
        initial_weights(cfg)
