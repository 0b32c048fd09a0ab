"""Numbers computed anew from the files of an evaluation are those of its report."""

import contextlib
import io
import json
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from detectron2.structures import Instances
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import nn

from maft.data.catalog import dataset
from maft.data.coco_format import panoptic_table
from maft.data.reading import panoptic_colours, read_labels, read_panoptic_ids
from maft.errors import UserError
from maft.evaluation import evaluate_dataset
from maft.evaluation.panoptic import PanopticEvaluator
from maft.evaluation.predictions import PredictionWriter
from maft.evaluation.semantic import SemanticEvaluator

NAME = "coco_panoptic_val"
SIZE = (24, 32)
COUNT = 5


@pytest.fixture
def truth(tmp_path, monkeypatch):
    """Five images of three segments each, as COCO's panoptic release has them; pixels say label and segment."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    row = dataset(NAME)
    labels = row.classes
    for folder in (row.images, row.labels, row.panoptic_root, "coco/annotations"):
        (tmp_path / folder).mkdir(parents=True)
    draws = np.random.default_rng(0)
    images, panoptic, instances = [], [], []
    stuff = [index for index in range(len(labels)) if index not in labels.things]
    for number in range(1, COUNT + 1):
        places = np.zeros(SIZE, dtype=np.int64)
        places[:12, :16], places[12:, 8:] = 1, 2
        chosen = [draws.choice(stuff), *draws.choice(labels.things, 2, replace=False)]
        pixels = np.stack([np.array(chosen)[places], places, places * 0], axis=-1).astype(np.uint8)
        stem = f"{number:012d}"
        # The reader goes by the content, and JPEG would change the numbers.
        Image.fromarray(pixels).save(tmp_path / row.images / f"{stem}.jpg", "PNG")
        Image.fromarray(pixels[..., 0]).save(tmp_path / row.labels / f"{stem}.png")
        Image.fromarray(panoptic_colours(places + 7)).save(tmp_path / row.panoptic_root / f"{stem}.png")
        images.append({"id": number, "file_name": f"{stem}.jpg", "height": SIZE[0], "width": SIZE[1]})
        segments = [
            {
                "id": place + 7,
                "category_id": labels.category_ids[label],
                "iscrowd": 0,
                "area": int((places == place).sum()),
            }
            for place, label in enumerate(chosen)
        ]
        panoptic.append({"image_id": number, "file_name": f"{stem}.png", "segments_info": segments})
        for place in (1, 2):
            code = coco_mask.encode(np.asfortranarray(places == place, dtype=np.uint8))
            code["counts"] = code["counts"].decode()
            entry = {"image_id": number, "category_id": labels.category_ids[chosen[place]], "segmentation": code}
            instances.append({**entry, "id": len(instances) + 1, "iscrowd": 0})
    named = [{"id": id_, "name": name} for id_, name in zip(labels.category_ids, labels.names())]
    (tmp_path / row.panoptic_json).write_text(
        json.dumps({"images": images, "annotations": panoptic, "categories": named})
    )
    (tmp_path / row.instances_json).write_text(
        json.dumps({"images": images, "annotations": instances, "categories": named})
    )
    return tmp_path


class PixelReader(nn.Module):
    """Reads label and segment of every pixel, wrong in a stripe and in the class of some segments."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.proposer = SimpleNamespace(needs_targets=False, check_records=lambda records: None)
        self.calls, self.stop_at = 0, -1

    @contextmanager
    def using_vocabulary(self, vocabulary, things=None):
        self.things, self.count = things, len(vocabulary)
        yield

    def forward(self, batch):
        if self.calls == self.stop_at:
            raise KeyboardInterrupt
        self.calls += 1
        return [self._result(record["image"].long(), record["image_id"]) for record in batch]

    def _result(self, image, number):
        labels, places = image[0].clone(), image[1].clone()
        labels[:3], places[:3] = 0, 3
        if number % 2:
            labels[places == 2] = (labels[places == 2] + 1) % self.count
        segments = [{"id": place + 1, "category_id": int(labels[places == place][0])} for place in range(4)]
        segments = [{**one, "isthing": self.things[one["category_id"]]} for one in segments]
        labels[-2:] = -1
        found = Instances(SIZE)
        found.pred_masks = torch.stack([places == one["id"] - 1 for one in segments])
        found.pred_classes = torch.tensor([one["category_id"] for one in segments])
        found.scores = torch.linspace(0.9, 0.5, len(segments))
        return {"sem_seg_labels": labels, "panoptic_seg": ((places + 1).int(), segments), "instances": found}


@pytest.fixture
def cfg(truth, plain_cfg):
    cfg = plain_cfg
    cfg.DATASETS.TEST = [NAME]
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = SIZE
    cfg.TEST.SAVE_PREDICTIONS = True
    cfg.MODEL.INFERENCE.PANOPTIC = cfg.MODEL.INFERENCE.INSTANCE = True
    return cfg


def written(cfg):
    return Path(cfg.OUTPUT_DIR) / "inference" / NAME / "predictions"


def contents(cfg):
    return {
        str(file.relative_to(written(cfg))): file.read_bytes() for file in written(cfg).rglob("*") if file.is_file()
    }


@pytest.fixture
def report(cfg):
    return evaluate_dataset(cfg, PixelReader(), NAME)


def test_semantic_numbers_from_the_label_maps(cfg, truth, report):
    row = dataset(NAME)
    evaluator = SemanticEvaluator.of_dataset(cfg, row)
    label_of = {value: label for label, value in enumerate(row.classes.category_ids)} | {255: -1}
    files = sorted((written(cfg) / "semantic").glob("*.png"))
    assert len(files) == COUNT
    for file in files:
        with Image.open(file) as picture:
            assert picture.mode == "P"
        labels = np.vectorize(label_of.__getitem__)(read_labels(file))
        evaluator.add(torch.from_numpy(labels), torch.from_numpy(read_labels(truth / row.labels / file.name)))
    again = evaluator.evaluate()["sem_seg"]
    assert 0 < again["mIoU"] < 100
    assert {name: again[name] for name in ("mIoU", "pACC")} == {
        name: report["sem_seg"][name] for name in ("mIoU", "pACC")
    }
    listed = json.loads((written(cfg) / "semantic.json").read_text())["categories"]
    assert [entry["id"] for entry in listed] == list(row.classes.category_ids)


def test_panoptic_numbers_from_the_maps_and_their_table(cfg, truth, report):
    row = dataset(NAME)
    table = json.loads((written(cfg) / "panoptic.json").read_text())
    panoptic_table(table, "written")
    label_of = {id_: label for label, id_ in enumerate(row.classes.category_ids)}
    assert [image["id"] for image in table["images"]] == [entry["image_id"] for entry in table["annotations"]]
    annotations = json.loads((truth / row.panoptic_json).read_text())["annotations"]
    evaluator = PanopticEvaluator(row.classes.names(), row.things)
    for true, found in zip(annotations, table["annotations"], strict=True):
        both = []
        for entry, folder in ((true, truth / row.panoptic_root), (found, written(cfg) / "panoptic")):
            segments = [{**part, "category_id": label_of[part["category_id"]]} for part in entry["segments_info"]]
            both += [torch.from_numpy(read_panoptic_ids(folder / entry["file_name"])), segments]
        evaluator.add(*both)
    again = evaluator.evaluate()["panoptic_seg"]
    assert 0 < again["PQ"] < 100 and again == report["panoptic_seg"]


def test_average_precision_from_the_results(cfg, truth, report):
    row = dataset(NAME)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = json.loads((truth / row.instances_json).read_text())
        for entry in coco.dataset["annotations"]:
            entry["area"] = float(coco_mask.area(entry["segmentation"]))
            entry["bbox"] = coco_mask.toBbox(entry["segmentation"]).tolist()
        coco.createIndex()
        found = json.loads((written(cfg) / "instances.json").read_text())
        measured = COCOeval(
            coco, coco.loadRes([{k: v for k, v in one.items() if k != "bbox"} for one in found]), "segm"
        )
        measured.evaluate()
        measured.accumulate()
        measured.summarize()
    things = {row.classes.category_ids[label] for label in row.classes.things}
    assert {one["category_id"] for one in found} <= things
    assert 0 < report["segm"]["AP"] < 100 and 100 * measured.stats[0] == pytest.approx(report["segm"]["AP"])


def test_nothing_is_written_unasked(cfg):
    cfg.TEST.SAVE_PREDICTIONS = False
    evaluate_dataset(cfg, PixelReader(), NAME)
    assert not written(cfg).exists()


def test_an_interrupted_evaluation_writes_the_same(cfg, report, monkeypatch):
    whole = contents(cfg)
    assert len(whole) == 2 * COUNT + 3
    monkeypatch.setattr("maft.evaluation.progress.SAVE_SECONDS", 0)
    stopped = PixelReader()
    stopped.stop_at = 3
    with pytest.raises(KeyboardInterrupt):
        evaluate_dataset(cfg, stopped, NAME)
    part = written(cfg) / "unfinished_0_of_1.jsonl"
    # Killed, it may have written more than its state knows.
    with open(part, "ab") as file:
        file.write(b'{"half a line')
    cfg.TEST.RESUME = True
    continued = PixelReader()
    evaluate_dataset(cfg, continued, NAME)
    assert continued.calls == COUNT - 3 and contents(cfg) == whole


def test_predictions_that_are_gone_are_named(cfg, monkeypatch):
    monkeypatch.setattr("maft.evaluation.progress.SAVE_SECONDS", 0)
    stopped = PixelReader()
    stopped.stop_at = 2
    with pytest.raises(KeyboardInterrupt):
        evaluate_dataset(cfg, stopped, NAME)
    (written(cfg) / "unfinished_0_of_1.jsonl").unlink()
    cfg.TEST.RESUME = True
    with pytest.raises(UserError, match="is gone: set TEST.RESUME False"):
        evaluate_dataset(cfg, PixelReader(), NAME)


def _evaluate_share(rank, cfg):
    dist.init_process_group("gloo", init_method=f"file://{cfg.OUTPUT_DIR}_meeting", rank=rank, world_size=2)
    evaluate_dataset(cfg, PixelReader(), NAME)
    dist.destroy_process_group()


def test_two_processes_write_the_same_as_one(cfg, report):
    alone = contents(cfg)
    for file in written(cfg).rglob("*.json"):
        file.unlink()
    torch.multiprocessing.start_processes(_evaluate_share, (cfg,), nprocs=2, start_method="fork")
    assert contents(cfg) == alone


def test_the_values_are_those_of_the_original_maps(tmp_path):
    """COCO-Stuff counts its classes from 1 in tables and from 0 in maps."""
    row = dataset("coco_stuff_val")
    records = [{"file_name": "/x/1.jpg", "image_id": 1, "height": 1, "width": 3}]
    unseen = row.classes.unseen
    writer = PredictionWriter(tmp_path, row, records, unseen, ["semantic"])
    # The words of the protocol "unseen_only" index the unseen classes.
    writer.process(records, [{"sem_seg_labels": torch.tensor([[0, len(unseen) - 1, -1]])}])
    writer.evaluate()
    expected = [row.classes.category_ids[unseen[place]] - 1 for place in (0, -1)]
    assert read_labels(tmp_path / "semantic/1.png").tolist() == [[*expected, 255]]


def test_images_of_one_name_in_several_folders_keep_their_folders(tmp_path):
    row = dataset("miniature_val")
    records = [
        {"file_name": f"/x/{name}.png", "image_id": name, "height": 1, "width": 1}
        for name in ("a/one", "b/one", "b/c/two")
    ]
    writer = PredictionWriter(tmp_path, row, records, range(24), ["semantic"])
    writer.process(records, [{"sem_seg_labels": torch.tensor([[label]])} for label in range(3)])
    for label, record in enumerate(records):
        assert read_labels(tmp_path / f"semantic/{record['image_id']}.png").item() == label
