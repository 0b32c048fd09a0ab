"""Checkpoints that are complete in themselves, and what a predictor is not made from."""

import numpy as np
import pytest
import torch
from PIL import Image

from maft.building import build_model
from maft.checkpoint.loading import InitialWeights
from maft.config import load_config
from maft.data.mappers import SegmentationMapper
from maft.data.photos import PhotoMapper
from maft.engine.checkpointer import Checkpointer
from maft.errors import UserError
from maft.miniature import render_scene
from maft.predictor import Predictor

WORDS = ["a red disc", "grass", "sky"]


@pytest.fixture(scope="module")
def checkpoint(tiny_configs, tmp_path_factory):
    """A checkpoint as training writes it, with a CLIP that is not the shipped one."""
    folder = tmp_path_factory.mktemp("run")
    rules = [{"FILE": "stage_one"}, {"FILE": "R-103.pkl", "INTO": "proposer.backbone"}]
    cfg = load_config(tiny_configs / "maft.yaml", ["MODEL.WEIGHTS", "other", "MODEL.START_FROM", str(rules)])
    torch.manual_seed(1)
    model = build_model(cfg, InitialWeights())
    state = {name: value + 0.01 for name, value in model.state_dict().items()}
    return Checkpointer(folder, cfg).save_final(state), state


def test_a_checkpoint_folder_needs_neither_clip_nor_the_weights_it_was_trained_from(checkpoint, image):
    folder, state = checkpoint
    predictor = Predictor.from_pretrained(folder, ["MODEL.CLIP.PRETRAINED", "nowhere.pt"])
    for name, value in predictor.model.state_dict().items():
        assert torch.equal(value, state[name])
    assert predictor(image, WORDS).labels.shape == (40, 60)


def test_a_checkpoint_folder_is_loaded_strictly(checkpoint, tmp_path):
    from maft.checkpoint.io import write_safetensors

    folder, state = checkpoint
    (tmp_path / "config.yaml").write_text((folder / "config.yaml").read_text())
    # Stage 2 may start without a classifier; its own checkpoint may not be without one.
    kept = {name: value for name, value in state.items() if not name.startswith("classifier.")}
    write_safetensors(tmp_path / "model.safetensors", kept)
    with pytest.raises(UserError, match=r"lacks 80 of its tensors \(classifier\."):
        Predictor.from_pretrained(tmp_path)


def test_folders_that_are_no_checkpoints(checkpoint, tmp_path):
    with pytest.raises(UserError, match=r"holds 0 \.safetensors files"):
        Predictor.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UserError, match=r"no config\.yaml beside it"):
        Predictor.from_pretrained(tmp_path)


def test_an_unknown_device_is_refused_by_name(tiny_configs):
    with pytest.raises(UserError, match="MODEL.DEVICE is 'tpu'"):
        Predictor.from_config(tiny_configs / "freeseg.yaml", overrides=["MODEL.DEVICE", "tpu"])


@pytest.mark.parametrize("path", [None, 0, b"x", ["a"], "x" * 5000, "a\0b", "nowhere"])
@pytest.mark.parametrize("way", ["from_config", "from_pretrained", "from_path"])
def test_paths_that_lead_to_no_model(way, path):
    with pytest.raises(UserError):
        getattr(Predictor, way)(path)


@pytest.mark.parametrize("overrides", [[1, 2], ["MODEL.DEVICE", None], 5])
def test_overrides_are_texts(tiny_configs, overrides):
    with pytest.raises(UserError, match="Overrides are texts KEY VALUE, not "):
        Predictor.from_config(tiny_configs / "maft.yaml", overrides)


def test_a_model_that_was_saved_is_the_same(predictor, image, tmp_path):
    again = Predictor.from_pretrained(predictor.save_pretrained(tmp_path / "new" / "model"))
    np.testing.assert_array_equal(again(image, WORDS).confidence, predictor(image, WORDS).confidence)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be saved in .*file"):
        predictor.save_pretrained(tmp_path / "file")


def test_a_model_goes_to_the_hub_and_comes_back_with_its_origin(predictor, image, hub_server, tmp_path):
    from maft.zoo.cache import ORIGIN

    folder = predictor.save_pretrained(tmp_path / "model")
    (folder / ORIGIN).write_text('{"file": "MAFT.pt", "link": "https://example.org/1", "licence": "none stated"}')
    assert Predictor.from_pretrained(folder).push_to_hub("org/mine", private=True) == f"{hub_server.url}/org/mine"
    assert "converted from: MAFT.pt" in hub_server.repositories["org/mine"]["README.md"].decode()
    again = Predictor.from_pretrained("org/mine", revision="main")
    np.testing.assert_array_equal(again(image, WORDS).labels, predictor(image, WORDS).labels)


def test_the_shipped_model_is_made_by_its_name():
    assert len(Predictor.from_pretrained("miniature", device="cpu").vocabulary()) > 3
    with pytest.raises(UserError, match="output/demo/none does not exist"):
        Predictor.from_pretrained("output/demo/none")
    with pytest.raises(UserError, match="no revisions"):
        Predictor.from_pretrained("miniature", revision="main")
    with pytest.raises(UserError, match="miniatur"):
        Predictor.from_pretrained("miniatur")


def test_a_model_sees_photos_in_the_order_of_channels_that_it_sees_datasets_in(tmp_path):
    pixels = render_scene(13, "val", 5).image
    Image.fromarray(pixels).save(tmp_path / "scene.png")
    turned = Predictor.from_pretrained("miniature", ["INPUT.FORMAT", "BGR"])
    plain = Predictor.from_pretrained("miniature")(np.ascontiguousarray(pixels[..., ::-1]))
    for image in (pixels, tmp_path / "scene.png"):
        assert np.array_equal(turned(image).confidence, plain.confidence)
    record = {"file_name": str(tmp_path / "scene.png")}
    mapped = SegmentationMapper.from_config(turned.cfg, is_train=False)(record)
    assert torch.equal(PhotoMapper(turned.cfg)(record)["image"], mapped["image"])
