"""Seeded mutations of what a model starts from, resumes from and is asked: a correct run or one sentence."""

import io
import json

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from robustness.harness import ROOT, fuzz, one_sentence_at_most
from robustness.mutations import mutated_bytes, mutated_json, odd_values
from safetensors.torch import save
from torch import nn

from maft.checkpoint.io import write_safetensors
from maft.checkpoint.loading import InitialWeights
from maft.clip.text_files import read_embeddings
from maft.config_keys import default_config
from maft.data.reading import read_image, read_labels, read_panoptic_ids
from maft.engine.checkpointer import Checkpointer
from maft.predictor import Predictor

PARTS = ("clip", "proposer", "classifier")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz_models")


@pytest.fixture(scope="module")
def predictor():
    return Predictor.from_config(ROOT / "configs/quickstart/maft.yaml")


@pytest.fixture(scope="module")
def photo():
    return np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)


def small_model():
    return nn.ModuleDict({part: nn.ModuleDict({"head": nn.Linear(2, 2), "body": nn.Linear(2, 2)}) for part in PARTS})


@fuzz
@given(data=st.data())
def test_start_from(folder, data):
    write_safetensors(folder / "whole.safetensors", small_model().state_dict())
    write_safetensors(folder / "part.safetensors", nn.Linear(2, 2).state_dict())
    rules = [
        {"FILE": str(folder / "whole.safetensors"), "TAKE": ["proposer", "classifier.head"], "MAY_LACK": ["clip"]},
        {"FILE": str(folder / "part.safetensors"), "INTO": "clip.head"},
        {"FILE": str(folder / "whole.safetensors"), "TAKE": "proposer.head", "INTO": "clip.body"},
    ]
    words = [
        "proposer.",
        "proposer.head.weight",
        "clip",
        "",
        ".",
        "*",
        "proposer..head",
        "https://h.org/x",
        "~",
        "head",
    ]
    cfg = default_config()
    cfg.MODEL.START_FROM = data.draw(mutated_json(rules))
    for rule in cfg.MODEL.START_FROM if isinstance(cfg.MODEL.START_FROM, list) else []:
        if isinstance(rule, dict) and data.draw(st.booleans()):
            rule[data.draw(st.sampled_from(["TAKE", "INTO", "FILE", "MAY_LACK"]))] = data.draw(st.sampled_from(words))
    model = small_model()
    with one_sentence_at_most():
        InitialWeights.from_config(cfg).load_into(model, ())
        assert all(value.isfinite().all() for value in model.state_dict().values())


@fuzz
@given(data=st.data())
def test_words(predictor, photo, data):
    names = st.one_of(
        st.text(max_size=20),
        st.sampled_from(
            ["cat", "Cat", "cat, kitten", ",", "a" * 400, "{}", "<|endoftext|>", "\ud800", "\x00", "猫", "́"]
        ),
        odd_values(),
    )
    words = data.draw(st.one_of(st.lists(names, max_size=5), st.text(max_size=3), odd_values()))
    with one_sentence_at_most():
        found = predictor(photo, words)
        assert found.labels.shape == photo.shape[:2] and found.labels.max() < len(found.class_names)
    # Nothing of a refused call stays.
    assert predictor(photo, ["cat", "dog"]).class_names == ("cat", "dog")


MODES = [
    "1",
    "L",
    "P",
    "LA",
    "PA",
    "RGB",
    "RGBA",
    "RGBX",
    "CMYK",
    "YCbCr",
    "LAB",
    "HSV",
    "I",
    "F",
    "I;16",
    "La",
    "RGBa",
]


@fuzz
@given(data=st.data())
def test_pictures(folder, predictor, data):
    size = data.draw(st.tuples(*[st.sampled_from([1, 2, 3, 33, 400])] * 2))
    picture = Image.new(data.draw(st.sampled_from(MODES)), size)
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP", "PPM"]))
    stream = io.BytesIO()
    try:
        picture.save(stream, kind)
    except (OSError, ValueError, KeyError):
        # No such mode in this format.
        with one_sentence_at_most():
            predictor(picture, ["cat"])
        return
    content = stream.getvalue()
    (folder / "picture").write_bytes(data.draw(mutated_bytes(content)) if data.draw(st.booleans()) else content)
    for read in (read_image, read_labels, read_panoptic_ids):
        with one_sentence_at_most():
            assert read(folder / "picture").shape[:2]
    with one_sentence_at_most():
        found = predictor(folder / "picture", ["cat", "dog"])
        assert found.labels.shape == found.image.shape[:2]


ROWS = {"rows": torch.ones(2, 8)}


@fuzz
@given(data=st.data())
def test_kept_texts(folder, data):
    texts = data.draw(st.one_of(st.just(["a", "b"]), mutated_json(["a", "b"])))
    content = save(ROWS, {"texts": json.dumps(texts)})
    (folder / "rows.safetensors").write_bytes(data.draw(mutated_bytes(content)))
    with one_sentence_at_most():
        found = read_embeddings(folder / "rows.safetensors", 8)
        assert all(isinstance(text, str) and row.shape == (8,) and row.isfinite().all() for text, row in found.items())


@fuzz
@given(data=st.data())
def test_checkpoints_of_a_run(folder, data):
    """The newest intact one, an older one, or a sentence."""
    root = folder / "run"
    run = Checkpointer(root, CfgNode(default_config()))
    model = small_model().state_dict()
    state = {"seed": 1, "optimizer": {"state": {}, "param_groups": []}, "scaler": {}, "loader": {}, "schedule": {}}
    for iteration in (1, 2):
        run.save(model, {**state, "iteration": iteration})
    newest = run.folder / "iter_0000002"
    broken = data.draw(
        st.sampled_from([newest / "trainer.pt", newest / "model.safetensors", run.folder / "last_checkpoint"])
    )
    content = broken.read_bytes()
    broken.write_bytes(data.draw(mutated_bytes(content)))
    with one_sentence_at_most():
        folder_read, tensors, read = run.latest()
        assert tensors.keys() == model.keys() and read["iteration"] in (1, 2)
        assert folder_read == newest or broken.read_bytes() != content
