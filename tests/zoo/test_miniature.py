"""The shipped model knows its world as well as its training left it."""

import numpy as np

from maft.miniature import miniature_classes, render_scene
from maft.predictor import Predictor
from maft.zoo import MINIATURE, pretrained


def test_it_names_nearly_every_pixel_of_scenes_that_it_never_saw(monkeypatch, tmp_path):
    # What it starts from is found from any folder.
    monkeypatch.chdir(tmp_path)
    predictor = Predictor.from_pretrained(pretrained(MINIATURE))
    classes = miniature_classes()
    scenes = [render_scene(index, "val") for index in range(8)]
    labels = np.stack([predictor(scene.image, list(classes.names)).labels for scene in scenes])
    truth = np.stack([scene.sem_seg for scene in scenes])
    # 94.5 % on all 200 scenes of the split.
    assert (labels == truth)[truth != 255].mean() > 0.9


def test_it_is_small():
    assert (pretrained(MINIATURE) / "model.safetensors").stat().st_size < 3e6
