"""An answer that is drawn by hand, and the shipped model."""

import numpy as np
import pytest

from maft.app.answers import Answer
from maft.predictor import Instance, Prediction, Predictor


@pytest.fixture(scope="session")
def predictor():
    return Predictor.from_pretrained("miniature")


@pytest.fixture()
def answer():
    """Sky above (sure), a dog on grass below (less sure), and a corner without a label."""
    labels = np.zeros((40, 40), np.int64)
    labels[20:] = 1
    labels[25:35, 5:15] = 2
    labels[:4, :4] = -1
    confidence = np.choose(labels + 1, [0, 0.9, 0.6, 0.3]).astype(np.float32)
    segments = tuple(
        {"id": label + 1, "label": label, "name": name, "isthing": label == 2, "area": 1, "score": score}
        for label, (name, score) in enumerate([("sky", 0.9), ("grass, lawn", 0.6), ("dog", 0.3)])
    )
    wide = np.zeros((40, 40), bool)
    wide[22:38, 2:18] = True
    instances = (
        Instance(2, "dog", 0.3, (5, 25, 15, 35), labels == 2),
        Instance(1, "grass, lawn", 0.2, (2, 22, 18, 38), wide),
    )
    image = np.zeros((40, 40, 3), np.uint8)
    prediction = Prediction(
        image, labels, confidence, ("sky", "grass, lawn", "dog"), (labels + 1).astype(np.int32), segments, instances
    )
    return Answer(prediction, (True, True, False), ())
