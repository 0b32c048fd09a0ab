"""Real photographs (environment variable MAFT_SAMPLES) through preparation, catalogue and checks."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from maft.data import load_items
from maft.data.checking import check_dataset


def test_coco_panoptic_samples(root: Path, prepare: Callable[..., str], samples_dir: Path) -> None:
    (root / "coco").mkdir()
    for part in (samples_dir / "coco").iterdir():
        (root / "coco" / part.name).symlink_to(part)
    count = len(list((root / "coco" / "val2017").iterdir()))
    assert f"coco_133_val label maps: {count}" in prepare("coco_panoptic", "--splits", "val")
    report = check_dataset("coco_panoptic_val")
    assert report.problems == [] and len(report.good) == count
    assert report.pixels[report.names.index("person")] > 0
    item = load_items("coco_panoptic_val")[0]
    with Image.open(item["file_name"]) as image:
        assert image.size == (item["width"], item["height"])


def test_ade_samples_as_your_own_data(tmp_path: Path, samples_dir: Path) -> None:
    for part, source in (("images", "images"), ("masks", "annotations")):
        (tmp_path / part).symlink_to(samples_dir / "ade" / source)
    table = (samples_dir / "ade" / "objectInfo150.txt").read_text().splitlines()[1:]
    names = ["other", *(line.split("\t")[-1].strip() for line in table)]
    (tmp_path / "classes.txt").write_text("\n".join(names))
    report = check_dataset(f"folder:{tmp_path}")
    assert report.problems == [] and report.ignored == 0
    assert {"sky", "building, edifice"} <= {names[index] for index in np.flatnonzero(report.pixels)}
