"""A predictor and a picture for it."""

import numpy as np
import pytest

from maft.predictor import Predictor


@pytest.fixture(scope="module")
def predictor(tiny_configs):
    return Predictor.from_config(tiny_configs / "maft.yaml")


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
