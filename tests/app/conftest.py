"""An answer that is drawn by hand, and the shipped model."""

import numpy as np
import pytest

from maft.app.answers import Answer
from maft.predictor import Instance, Prediction, Predictor


@pytest.fixture(scope="session")
def predictor():
    return Predictor.from_pretrained("miniature")


@pytest.fixture(scope="session")
def index_folder(predictor, tmp_path_factory):
    """An index of drawn scenes."""
    from maft.data.photos import PhotoMapper
    from maft.index.making import Collection, make_index
    from maft.miniature.dataset import materialise

    scenes = materialise(tmp_path_factory.mktemp("world"), "val", 6)
    records = [{"file_name": str(file)} for file in sorted(scenes.rglob("images/*.*g"))]
    folder = tmp_path_factory.mktemp("index") / "scenes"
    make_index(predictor.cfg, predictor.model, folder, Collection(records, PhotoMapper(predictor.cfg)))
    return folder


@pytest.fixture(scope="session")
def on_sam(random_sam):
    """The shipped model on the masks of a random SAM."""
    # Thresholds that random masks pass.
    options = {
        "PRETRAINED": random_sam("sam"),
        "POINTS_PER_SIDE": 2,
        "IOU_THRESHOLD": -1000.0,
        "STABILITY_THRESHOLD": 0.0,
    }
    changed = [part for key, value in options.items() for part in (f"MODEL.PROPOSER.SAM.{key}", str(value))]
    of_masks = ["MODEL.PROPOSER.NAME", "SAM", "MODEL.ENSEMBLE.NAME", "ClassifierAlone"]
    return Predictor.from_pretrained("miniature", of_masks + changed)


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
