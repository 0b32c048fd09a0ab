"""One command prepares every dataset; its table names what exists."""

from importlib import import_module

import numpy as np
import pytest
from PIL import Image

from maft.cli import prepare
from maft.data.catalog import TABLE
from maft.errors import UserError
from maft.miniature import DEFAULT_COUNTS


def test_every_name_has_its_preparation():
    assert prepare.COUNTS == DEFAULT_COUNTS
    for name, (module, _) in prepare.DATASETS.items():
        assert callable(getattr(import_module(f"maft.data.preparation.{module}"), f"prepare_{name}"))
    assert {row.prepare for row in TABLE} - {"", "miniature"} <= set(prepare.DATASETS)


def test_the_miniature_world_is_drawn_where_datasets_are_looked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    prepare.main(["miniature", "--train", "2", "--val", "1"])
    assert f"train: {tmp_path}/miniature/train\n" in capsys.readouterr().out
    assert len(list((tmp_path / "miniature/train/masks_seen_0").iterdir())) == 2


def test_a_preparation_prints_what_it_left(tmp_path, capsys):
    for part, kind, type_ in (
        ("leftImg8bit", "leftImg8bit", np.uint8),
        ("gtFine", "gtFine_labelIds", np.uint8),
        ("gtFine", "gtFine_instanceIds", np.uint16),
    ):
        file = tmp_path / f"cityscapes/{part}/val/aachen/aachen_000000_000019_{kind}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 7, type_)).save(file)
    prepare.main(["cityscapes", "--root", str(tmp_path), "--workers", "1", "--splits", "val"])
    assert "label maps: 1 (PUBLISHED: 500)" in capsys.readouterr().out


def test_mistakes(tmp_path):
    with pytest.raises(UserError, match="invalid choice: 'coco'"):
        prepare.main(["coco"])
    with pytest.raises(UserError, match="nowhere does not exist.*DETECTRON2_DATASETS"):
        prepare.main(["voc", "--root", str(tmp_path / "nowhere")])
    with pytest.raises(UserError, match="--workers 0"):
        prepare.main(["voc", "--root", str(tmp_path), "--workers", "0"])
