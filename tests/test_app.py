"""The demo app: what its fields mean and what it shows."""

import sys

import numpy as np
import pytest

from maft.app import build_app, label, split_names
from maft.errors import UserError
from maft.predictor import Prediction


class RedOrRest:
    """Labels red pixels as the first word and the rest as the second."""

    def __call__(self, image, names):
        labels = (image[..., 0] < 128).astype(np.int64)
        return Prediction(image, labels, np.ones(labels.shape, np.float32), tuple(names))


def test_one_class_a_line_or_between_semicolons():
    assert split_names("cat, kitten\n\n dog ; sky \n") == ["cat, kitten", "dog", "sky"]


def test_shows_overlay_and_shares():
    image = np.zeros((40, 40, 3), np.uint8)
    image[:10, :, 0] = 255
    picture, rows = label(RedOrRest(), image, "roof\nwall")
    assert picture.ndim == 3 and picture.dtype == np.uint8
    assert rows == [["wall", 75.0, 1.0], ["roof", 25.0, 1.0]]


def test_no_image_is_said():
    with pytest.raises(UserError, match="no image"):
        label(RedOrRest(), None, "cat")


def test_without_gradio_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[app\]'"):
        build_app(RedOrRest())
