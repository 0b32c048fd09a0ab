"""Images of one name in two folders are not mixed, and none is looked for outside its folder."""

import json

import numpy as np
import pytest
from PIL import Image

from maft.config import load_config
from maft.errors import UserError
from maft.mining.run import MiningTask, mine


def test_two_images_of_one_name_are_refused(tmp_path):
    names = ["train/0001.png", "val/0001.png"]
    for name in names:
        (tmp_path / name).parent.mkdir()
        Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / name)
    captions = {
        "images": [{"id": number, "file_name": name} for number, name in enumerate(names)],
        "annotations": [{"id": n, "image_id": n, "caption": "a dog on grass"} for n in range(2)],
    }
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    cfg = load_config("configs/quickstart/mining.yaml", ["MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path / "out")])
    with pytest.raises(UserError, match="1 names stand for several images, the first is '0001'"):
        mine(cfg, MiningTask("proposals", str(tmp_path / "captions.json"), 1, str(tmp_path)))


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "a/../../secret.png"])
def test_captions_name_images_of_their_folder(tmp_path, name):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "secret.png")
    captions = {
        "images": [{"id": 1, "file_name": name}],
        "annotations": [{"id": 1, "image_id": 1, "caption": "a dog on grass"}],
    }
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    cfg = load_config("configs/quickstart/mining.yaml", ["MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path / "out")])
    with pytest.raises(UserError, match=r"captions\.json names the file '.*', which does not lie below .*images"):
        mine(cfg, MiningTask("proposals", str(tmp_path / "captions.json"), 1, str(tmp_path / "images")))
