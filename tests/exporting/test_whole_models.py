"""Whole models and image towers, as small as they get, compute in other runtimes what they do here.

`export` itself compares, at sizes and batches that were not traced, and raises where an output differs.
"""

import os

import pytest

from maft.exporting.checking import TOLERANCE
from maft.exporting.run import export
from maft.predictor import Predictor

long = pytest.mark.skipif(not os.environ.get("MAFT_EXPORT"), reason="long: make export-test runs it")
ONE_LAYER = ["MODEL.PROPOSER.Mask2Former.ENCODER_LAYERS", "1", "MODEL.PROPOSER.Mask2Former.DECODER_LAYERS", "1"]


@pytest.mark.parametrize(
    "recipe, part, format",
    [
        ("maft", "image-tower", "pt2"),
        pytest.param("maft", "image-tower", "onnx", marks=long),
        pytest.param("maft", "model", "onnx", marks=long),
        pytest.param("mask_adapter", "model", "onnx", marks=long),
    ],
)
def test_what_is_written_computes_the_same(recipe, part, format, tmp_path):
    predictor = Predictor.from_config(f"quickstart/{recipe}", ["MODEL.START_FROM", "[]", *ONE_LAYER])
    _, difference = export(
        predictor.model, predictor.vocabulary(["bear", "tree", "sky"]), tmp_path, part=part, format=format
    )
    assert difference <= TOLERANCE
