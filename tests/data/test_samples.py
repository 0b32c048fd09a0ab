"""Real photographs (environment variable MAFT_SAMPLES) through preparation, catalogue and checks."""

import csv
import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from maft.data.catalog import class_names, dataset
from maft.data.checking import check_dataset
from maft.data.mappers import SegmentationMapper
from maft.data.records import dataset_records
from maft.evaluation import PanopticEvaluator, SemanticEvaluator


def test_coco_panoptic_samples(root: Path, prepare: Callable[..., str], samples_dir: Path) -> None:
    (root / "coco").mkdir()
    for part in (samples_dir / "coco").iterdir():
        (root / "coco" / part.name).symlink_to(part)
    count = len(list((root / "coco" / "val2017").iterdir()))
    assert f"coco_133_val label maps: {count}" in prepare("coco_panoptic", "--splits", "val")
    report = check_dataset("coco_panoptic_val")
    assert report.problems == [] and len(report.good) == count
    assert report.pixels[report.names.index("person")] > 0
    record = dataset_records("coco_panoptic_val")[0]
    with Image.open(record["file_name"]) as image:
        assert image.size == (record["width"], record["height"])


def test_coco_samples_through_mapper_and_evaluators(root: Path, prepare: Callable[..., str], samples_dir: Path) -> None:
    """The mapped targets of real images, given back as predictions at the same size, are perfect."""
    (root / "coco").mkdir()
    for part in (samples_dir / "coco").iterdir():
        (root / "coco" / part.name).symlink_to(part)
    prepare("coco_panoptic", "--splits", "val")
    row = dataset("coco_panoptic_val")
    panoptic = SegmentationMapper([], targets="panoptic", num_classes=row.num_classes, ignore_label=row.ignore_label)
    semantic = SegmentationMapper([], targets="semantic", num_classes=row.num_classes, ignore_label=row.ignore_label)
    names = class_names(row.name)
    measured = (
        SemanticEvaluator(names, row.ignore_label),
        PanopticEvaluator(names, [index in row.classes.things for index in range(len(names))]),
    )
    for record in dataset_records(row.name)[:6]:
        segments, classes = panoptic(record), semantic(record)
        assert segments is not None and classes is not None
        # The semantic map names the pixels of crowds, which are no segment to learn.
        labelled = segments["sem_seg"] != row.ignore_label
        assert labelled.any() and torch.equal(segments["sem_seg"][labelled], classes["sem_seg"][labelled])
        kept = [segment for segment in record["segments_info"] if not segment.get("iscrowd")]
        assert segments["instances"].gt_classes.tolist() == [segment["category_id"] for segment in kept]
        assert [int(mask.sum()) for mask in segments["instances"].gt_masks] == [segment["area"] for segment in kept]
        numbers = torch.arange(1, len(kept) + 1)[:, None, None]
        prediction = {
            "sem_seg_labels": classes["sem_seg"],
            "panoptic_seg": (
                (segments["instances"].gt_masks * numbers).sum(dim=0),
                [{"id": index + 1, "category_id": segment["category_id"]} for index, segment in enumerate(kept)],
            ),
        }
        for evaluator in measured:
            evaluator.process([record], [prediction])
    assert measured[0].evaluate()["sem_seg"]["mIoU"] == 100
    assert measured[1].evaluate()["panoptic_seg"]["PQ"] == pytest.approx(100)


def test_ade_samples_as_your_own_data(tmp_path: Path, samples_dir: Path) -> None:
    for part, source in (("images", "images"), ("masks", "annotations")):
        (tmp_path / part).symlink_to(samples_dir / "ade" / source)
    table = (samples_dir / "ade" / "objectInfo150.txt").read_text().splitlines()[1:]
    names = ["other", *(line.split("\t")[-1].strip() for line in table)]
    (tmp_path / "classes.txt").write_text("\n".join(names))
    report = check_dataset(f"folder:{tmp_path}")
    assert report.problems == [] and report.ignored == 0
    assert {"sky", "building, edifice"} <= {names[index] for index in np.flatnonzero(report.pixels)}


def test_ade_samples_train_and_are_evaluated_as_your_own_data(
    tmp_path: Path, samples_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The quickstart's MAFT on the photographs, named by the classes that occur in them."""
    repository = Path(__file__).parents[2]
    data, output = tmp_path / "own", tmp_path / "out"
    table = (samples_dir / "ade" / "objectInfo150.txt").read_text().splitlines()[1:]
    words = ["other", *(line.split("\t")[-1].split(",")[0].strip() for line in table)]
    maps = {path.name: np.asarray(Image.open(path)) for path in (samples_dir / "ade" / "annotations").iterdir()}
    present = np.unique(np.concatenate([labels.ravel() for labels in maps.values()]))
    (data / "masks").mkdir(parents=True)
    (data / "images").symlink_to(samples_dir / "ade" / "images")
    (data / "classes.txt").write_text("\n".join(words[index] for index in present))
    for name, labels in maps.items():
        Image.fromarray(np.searchsorted(present, labels).astype(np.uint8)).save(data / "masks" / name)

    overrides = {
        "DATASETS.TRAIN": f"['folder:{data}']", "DATASETS.TEST": f"['folder:{data}']", "OUTPUT_DIR": output,
        "SOLVER.IMS_PER_BATCH": 2, "SOLVER.MAX_ITER": 3, "SOLVER.LOG_PERIOD": 1, "TEST.VISUALIZE": 2,
    }  # fmt: skip
    arguments = ["--config-file", "configs/quickstart/maft.yaml", "--num-gpus", "0"]
    arguments += [str(word) for pair in overrides.items() for word in pair]
    monkeypatch.chdir(repository)
    monkeypatch.setattr(sys, "argv", ["train_net.py", *arguments])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path("tools/train_net.py", run_name="__main__")
    assert stop.value.code == 0

    logged = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    losses = [line["total_loss"] for line in logged if "total_loss" in line]
    assert len(losses) == 3 and np.isfinite(losses).all()
    (report,) = (output / "inference").iterdir()
    results = json.loads((report / "results.json").read_text())["results"]["sem_seg"]
    assert 0 < results["pACC"] <= 100
    with (report / "per_class.csv").open() as file:
        assert [row["name"] for row in csv.DictReader(file)] == [words[index] for index in present]
    pictures = sorted((report / "pictures").iterdir())
    assert len(pictures) == 2
    for path, name in zip(pictures, sorted(maps), strict=False):
        height, width = maps[name].shape
        with Image.open(path) as picture:
            assert picture.width > 3 * width and picture.height > height
