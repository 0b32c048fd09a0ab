"""Models by id of the hub, from a hub on this machine."""

import os

import numpy as np
import pytest

from maft.building import build_model
from maft.checkpoint.io import write_safetensors
from maft.config import load_config, self_contained
from maft.errors import UserError
from maft.predictor import Predictor
from maft.zoo import pretrained


@pytest.fixture(scope="module")
def checkpoint(tiny_configs, tmp_path_factory):
    """A folder with a small model, as training leaves it."""
    cfg = load_config(tiny_configs / "maft.yaml")
    folder = tmp_path_factory.mktemp("run") / "model_final"
    write_safetensors(folder / "model.safetensors", build_model(cfg).state_dict())
    (folder / "config.yaml").write_text(self_contained(cfg).dump())
    return folder


@pytest.fixture
def published(hub_server, checkpoint):
    files = {file.name: file.read_bytes() for file in checkpoint.iterdir()}
    hub_server.repositories["org/small"] = {**files, "train.py": b"print('code')"}
    return hub_server


def test_model_and_config_come_and_no_code_does(published):
    folder = pretrained("org/small")
    assert sorted(os.listdir(folder)) == ["config.yaml", "model.safetensors"]
    image = np.zeros((40, 60, 3), np.uint8)
    assert Predictor.from_pretrained(folder)(image, ["cat", "dog"]).labels.shape == (40, 60)


def test_what_is_in_the_cache_serves_without_the_hub(published, monkeypatch):
    folder = pretrained("org/small")

    def unreachable(_):
        raise OSError

    monkeypatch.setattr("maft.zoo.hub.check_reachable", unreachable)
    assert pretrained("org/small") == folder
    with pytest.raises(
        UserError, match="org/other is no folder here and not in the cache of the hub, which is out of reach"
    ):
        pretrained("org/other")


@pytest.mark.parametrize(
    ("source", "revision", "sentence"),
    [
        ("org/none", None, "org/none is no folder here and no repository of the hub, or a private one"),
        ("org/small", "v9", "org/small has no revision 'v9'"),
        ("org/empty", None, r"org/empty of the hub is no model of maft: it lacks model\.safetensors and config\.yaml"),
        ("org/small/more", None, "'org/small/more' names no repository of the hub, as org/name does"),
        ("org/ small", None, "'org/ small' names no repository"),
    ],
)
def test_what_the_hub_does_not_have(published, source, revision, sentence):
    published.repositories["org/empty"] = {"README.md": b""}
    with pytest.raises(UserError, match=sentence):
        pretrained(source, revision=revision)
