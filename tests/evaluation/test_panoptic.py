"""Panoptic quality by hand, on real annotations and against the recording of COCO's code."""

import json

import numpy as np
import pytest
import torch
from golden.runner import run_case
from PIL import Image

from maft.errors import UserError
from maft.evaluation import PanopticEvaluator


def segment(identifier, category, crowd=0):
    return {"id": identifier, "category_id": category, "iscrowd": crowd}


def evaluate(truth, true_segments, found, found_segments):
    evaluator = PanopticEvaluator(["thing", "stuff", "absent"], [True, False, True])
    evaluator.add(torch.tensor([truth]), true_segments, torch.tensor([found]), found_segments)
    return evaluator.evaluate()["panoptic_seg"]


def test_by_hand():
    # Thing 5 (4 pixels) is found with IoU 3/5, stuff 6 is missed because its prediction has the wrong class.
    truth, found = [5, 5, 5, 5, 6, 6, 6], [1, 1, 1, 0, 1, 2, 2]
    results = evaluate(truth, [segment(5, 0), segment(6, 1)], found, [segment(1, 0), segment(2, 0)])
    assert results["PQ-thing"] == pytest.approx(100 * 0.6 / 1.5)
    assert results["PQ-stuff"] == 0
    assert results["PQ"] == pytest.approx(100 * 0.6 / 1.5 / 2)
    assert results["SQ_th"] == pytest.approx(60) and results["RQ_th"] == pytest.approx(100 / 1.5)
    assert results["PQ_st"] == 0


def test_an_overlap_of_exactly_one_half_is_no_match():
    results = evaluate([5, 5, 5, 5], [segment(5, 0)], [1, 1, 0, 0], [segment(1, 0)])
    assert results["PQ"] == 0


def test_void_is_left_out_of_union_and_false_positives():
    results = evaluate([5, 5, 0, 0, 0, 0], [segment(5, 0)], [1, 1, 1, 2, 2, 2], [segment(1, 0), segment(2, 0)])
    assert results["PQ"] == pytest.approx(100)


def test_a_crowd_is_neither_missed_nor_makes_false_positives():
    truth = [5, 5, 9, 9, 9, 9]
    true_segments = [segment(5, 0), segment(9, 0, crowd=1)]
    results = evaluate(truth, true_segments, [1, 1, 2, 2, 3, 3], [segment(1, 0), segment(2, 0), segment(3, 0)])
    assert results["PQ"] == pytest.approx(100)
    # A prediction of another class on the crowd is a false positive of that class.
    results = evaluate(truth, true_segments, [1, 1, 2, 2, 2, 2], [segment(1, 0), segment(2, 1)])
    assert results["PQ-thing"] == pytest.approx(100) and results["PQ"] == pytest.approx(50)


def test_nothing_predicted_at_all():
    results = evaluate([5, 5], [segment(5, 0)], [0, 0], [])
    assert results["PQ"] == 0


def test_state_continues_where_it_was_saved():
    first, second = (PanopticEvaluator(["a"], [True]) for _ in range(2))
    ids = torch.tensor([[5, 5, 5]])
    first.add(ids, [segment(5, 0)], ids, [segment(5, 0)])
    second.load_state(first.state())
    second.add(ids, [segment(5, 0)], ids, [])
    assert second.evaluate()["panoptic_seg"]["RQ"] == pytest.approx(100 / 1.5)


def test_recorded_case(golden_dir):
    result = run_case(golden_dir / "maskadapter" / "panoptic_quality.json")
    assert result.status == "pass", result.detail


def test_real_annotations_as_their_own_prediction_are_perfect(samples_dir):
    folder = samples_dir / "coco"
    table = json.loads((folder / "annotations" / "panoptic_val2017.json").read_text())
    index = {category["id"]: place for place, category in enumerate(table["categories"])}
    evaluator = PanopticEvaluator(
        [category["name"] for category in table["categories"]],
        [bool(category["isthing"]) for category in table["categories"]],
    )
    for annotation in table["annotations"][:4]:
        segments = [{**s, "category_id": index[s["category_id"]]} for s in annotation["segments_info"]]
        file = folder / "panoptic_val2017" / annotation["file_name"]
        ids = np.asarray(Image.open(file)).astype(np.int64) @ np.array([1, 256, 65536])
        record = {"file_name": file.name, "pan_seg_file_name": str(file), "segments_info": segments}
        evaluator.process([record], [{"panoptic_seg": (torch.from_numpy(ids), segments)}])
    results = evaluator.evaluate()["panoptic_seg"]
    assert results["PQ"] == results["PQ_th"] == results["PQ_st"] == pytest.approx(100)
    with pytest.raises(UserError, match="differ in size"):
        evaluator.process([record], [{"panoptic_seg": (torch.zeros(3, 3), [])}])


def test_a_segment_that_the_annotation_does_not_list_is_refused():
    truth = torch.zeros(8, 8, dtype=torch.int32)
    truth[:4], truth[4:] = 5, 300
    predicted = torch.where(truth == 5, 1, 2).int()
    segments = [{"id": 1, "category_id": 0}, {"id": 2, "category_id": 0}]
    with pytest.raises(UserError, match="segment 300, which its annotation does not list"):
        PanopticEvaluator(["a", "b"], [True, False]).add(truth, [{"id": 5, "category_id": 0}], predicted, segments)
