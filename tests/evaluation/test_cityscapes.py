"""Cityscapes' average precision and IoU against its own scripts, which read files, on drawn streets."""

import builtins

import numpy as np
import pytest
import torch
from detectron2.structures import Instances
from PIL import Image

from maft.data.catalog import dataset
from maft.errors import UserError
from maft.evaluation import CityscapesInstanceEvaluator, SemanticEvaluator

official = pytest.importorskip("cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling")
pixelwise = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
ROW = dataset("cityscapes_panoptic_val")
SIZE = (60, 90)


@pytest.fixture
def streets(tmp_path, monkeypatch):
    """Six images with instances large and small, groups, void and caravans, and predictions near them and astray."""
    # cityscapesscripts calls a function that numpy 2.4 no longer has, and cannot write what it matched under numpy 2.
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)
    monkeypatch.setattr(official, "writeDict2JSON", lambda *_: None)
    generator = np.random.default_rng(0)
    things = ROW.classes.things
    ids = ROW.classes.category_ids
    records, outputs = [], []
    for index in range(6):
        truth = np.full(SIZE, 7, np.int32)
        truth[:, :9] = generator.choice([0, 4, 29, 29000])
        masks, classes, scores = [], [], []
        for number in range(12):
            top, left = generator.integers(0, 50, 2)
            height, width = generator.integers(4, 30, 2)
            box = np.zeros(SIZE, bool)
            box[top : top + height, left : left + width] = True
            label = int(generator.choice(things[:4]))
            truth[box] = ids[label] if number % 5 == 0 else ids[label] * 1000 + number
            for shift in generator.integers(-2, 3, int(generator.integers(0, 3))):
                masks.append(np.roll(box, shift, 1))
                classes.append(label if generator.random() < 0.8 else int(generator.integers(19)))
                scores.append(round(float(generator.random()), 1))
        masks.append(np.zeros(SIZE, bool))
        stem = tmp_path / f"city_{index:06}_000000"
        Image.fromarray(truth.astype(np.uint16)).save(f"{stem}_gtFine_instanceIds.png")
        records.append({"file_name": stem.name, "sem_seg_file_name": f"{stem}{ROW.label_suffix}"})
        found = Instances(SIZE, pred_masks=torch.from_numpy(np.stack(masks)))
        found.pred_classes, found.scores = torch.tensor([*classes, 13]), torch.tensor([*scores, 0.5])
        outputs.append({"instances": found})
    return records, outputs


def official_precision(records, outputs, folder):
    """The numbers of cityscapesscripts, from the files that it asks for."""
    lists = []
    for record, output in zip(records, outputs):
        found, lines = output["instances"], []
        for number in range(len(found)):
            name = f"{record['file_name']}_{number}.png"
            Image.fromarray(found.pred_masks[number].numpy().astype(np.uint8) * 255).save(folder / name)
            label = ROW.classes.category_ids[int(found.pred_classes[number])]
            lines.append(f"{name} {label} {found.scores[number].item()}")
        lists.append(folder / f"{record['file_name']}_pred.txt")
        lists[-1].write_text("\n".join(lines))
    official.args.predictionPath, official.args.gtInstancesFile = str(folder), str(folder / "gtInstances.json")
    official.args.quiet, official.args.JSONOutput = True, False
    truths = [record["sem_seg_file_name"].replace("labelTrainIds", "instanceIds") for record in records]
    return official.evaluateImgLists([str(file) for file in lists], truths, official.args)["averages"]


@pytest.mark.filterwarnings("ignore:Mean of empty slice")
def test_average_precision_is_that_of_cityscapesscripts(streets, tmp_path):
    evaluator = CityscapesInstanceEvaluator.of_dataset(ROW)
    evaluator.process(*(part[:2] for part in streets))
    continued = CityscapesInstanceEvaluator.of_dataset(ROW)
    continued.load_state(evaluator.state())
    continued.process(*(part[2:] for part in streets))
    ours, theirs = continued.evaluate()["segm"], official_precision(*streets, tmp_path)
    assert 5 < ours["cityscapes_AP"] < 95
    assert ours["cityscapes_AP"] == pytest.approx(100 * theirs["allAp"], abs=1e-9)
    assert ours["cityscapes_AP50"] == pytest.approx(100 * theirs["allAp50%"], abs=1e-9)
    for name, values in theirs["classes"].items():
        assert ours[f"cityscapes_AP-{name}"] == pytest.approx(100 * values["ap"], abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("overlaps", [10, 5])
def test_a_class_whose_predictions_are_all_excused_has_no_precision(tmp_path, overlaps):
    car = ROW.classes.category_ids.index(26)
    truth = np.full(SIZE, 7, np.uint16)
    truth[:20, :20], truth[30:] = 26000, 0
    Image.fromarray(truth).save(tmp_path / "a_gtFine_instanceIds.png")
    mask = torch.zeros(1, *SIZE, dtype=torch.bool)
    # All of it void, or 7 of 10 rows: then it counts as wrong from IoU 0.7 on.
    mask[0, 40:50] = True
    if overlaps == 5:
        mask = mask.roll(-13, 1)
    found = Instances(SIZE, pred_masks=mask, pred_classes=torch.tensor([car]), scores=torch.tensor([0.9]))
    evaluator = CityscapesInstanceEvaluator.of_dataset(ROW)
    evaluator.process(
        [{"file_name": "a", "sem_seg_file_name": f"{tmp_path}/a{ROW.label_suffix}"}], [{"instances": found}]
    )
    results = evaluator.evaluate()["segm"]
    assert results["cityscapes_AP-car"] == results["cityscapes_AP"] == results["cityscapes_AP50"] == 0
    assert np.isnan(results["cityscapes_AP-person"])


def test_iou_is_that_of_cityscapesscripts(tmp_path, monkeypatch):
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)
    generator = np.random.default_rng(0)
    ids = np.array([*ROW.classes.category_ids, 0])
    evaluator = SemanticEvaluator(ROW.classes.names(), ROW.ignore_label)
    matrix = pixelwise.generateMatrix(pixelwise.args)
    statistics = pixelwise.generateInstanceStats(pixelwise.args)
    for index in range(3):
        truth, found = generator.integers(0, 20, SIZE), generator.integers(0, 17, SIZE)
        found = np.where(generator.random(SIZE) < 0.5, truth % 19, found)
        for name, values in (("labelIds", ids[truth]), ("instanceIds", ids[truth]), ("found", ids[found])):
            Image.fromarray(values.astype(np.uint8)).save(tmp_path / f"a_{index:06}_000000_gtFine_{name}.png")
        truths, predictions = (str(tmp_path / f"a_{index:06}_000000_gtFine_{k}.png") for k in ("labelIds", "found"))
        pixelwise.evaluatePair(predictions, truths, matrix, statistics, {}, pixelwise.args)
        evaluator.add(torch.from_numpy(found), torch.from_numpy(np.where(truth == 19, ROW.ignore_label, truth)))
    scores = {id_: pixelwise.getIouScoreForLabel(id_, matrix, pixelwise.args) for id_ in pixelwise.args.evalLabels}
    named = {pixelwise.id2label[id_].name: value for id_, value in scores.items()}
    theirs = pixelwise.getScoreAverage(named, pixelwise.args)
    assert 0.3 < theirs < 0.9
    assert evaluator.evaluate()["sem_seg"]["mIoU_or_predicted"] == pytest.approx(100 * theirs, abs=1e-9)


def test_mistakes_are_one_sentence(streets, tmp_path, monkeypatch):
    evaluator = CityscapesInstanceEvaluator.of_dataset(ROW)
    records, outputs = streets
    Image.fromarray(np.full(SIZE, 99, np.uint16)).save(tmp_path / f"{records[0]['file_name']}_gtFine_instanceIds.png")
    with pytest.raises(UserError, match="is not an instance map of Cityscapes: it holds the unknown id 99"):
        evaluator.process(records[:1], outputs[:1])
    Image.fromarray(np.full((2, 3), 7, np.uint16)).save(tmp_path / f"{records[0]['file_name']}_gtFine_instanceIds.png")
    with pytest.raises(UserError, match="differ in size"):
        evaluator.process(records[:1], outputs[:1])
    Image.fromarray(np.full(SIZE, 7, np.uint8)).save(tmp_path / f"{records[0]['file_name']}_gtFine_instanceIds.png")
    with pytest.raises(UserError, match=r"is not an instance map \(16 bit\)"):
        evaluator.process(records[:1], outputs[:1])
    known = builtins.__import__

    def without(name, *arguments):
        if name.startswith("cityscapesscripts"):
            raise ImportError(name)
        return known(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"cityscapesscripts, which is not installed: .*maft\[cityscapes\]"):
        CityscapesInstanceEvaluator.of_dataset(ROW)
