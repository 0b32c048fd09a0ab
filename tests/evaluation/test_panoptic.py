"""Panoptic quality by hand, on real annotations and against the recording of COCO's code."""

import json

import numpy as np
import pytest
import torch
from golden.runner import run_case
from PIL import Image

from maft.data.reading import read_panoptic_ids
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


def test_recorded_case_of_panopticapi(golden_dir):
    result = run_case(golden_dir / "panopticapi" / "panoptic_quality.json")
    assert result.status == "pass", result.detail


def test_stated_areas_count_by_the_rule_of_panopticapi():
    # Segment 5 was 6 pixels large before 6 covered two of them; 7 is covered entirely.
    truth = torch.tensor([[5, 5, 5, 5, 6, 6]])
    true_segments = [{**segment(5, 0), "area": 6}, {**segment(7, 1), "area": 1}, {**segment(6, 1), "area": 2}]
    expected = {"panopticapi": (4 / 6, 1 / 1.5), "pixels": (1, 1 / 1.5)}
    for rule, qualities in expected.items():
        evaluator = PanopticEvaluator(["a", "b"], [True, False], rule=rule)
        evaluator.add(truth, true_segments, truth, [segment(5, 0), segment(6, 1)])
        results = evaluator.evaluate()["panoptic_seg"]
        assert (results["PQ-a"], results["PQ-b"]) == pytest.approx(tuple(100 * q for q in qualities)), rule


def test_the_last_crowd_of_a_class_excuses_by_the_rule_of_panopticapi():
    truth = torch.tensor([[5, 5, 6, 6, 7]])
    crowds = [segment(5, 0, crowd=1), segment(6, 0, crowd=1), segment(7, 1, crowd=1)]
    found = [segment(1, 0), segment(2, 0)]
    for rule, false_positives in (("panopticapi", 1), ("pixels", 0)):
        evaluator = PanopticEvaluator(["a", "b"], [True, False], rule=rule)
        evaluator.add(truth, crowds, torch.tensor([[1, 1, 2, 2, 0]]), found)
        assert evaluator.table[2].tolist() == [false_positives, 0], rule


def counted_pixel_by_pixel(truth, true_segments, found, found_segments, classes):
    """(4, C) sums of one image, straight from the definition: sets of pixels, one segment after the other."""
    pixels = {}
    for owner, ids in (("true", truth), ("found", found)):
        for place, value in enumerate(ids.flatten().tolist()):
            pixels.setdefault((owner, value), set()).add(place)
    void = pixels.get(("true", 0), set())
    table = np.zeros((4, classes))
    matched = set()
    for one in true_segments:
        mask, hits = pixels.get(("true", one["id"]), set()), 0
        for other in found_segments if not one["iscrowd"] else ():
            shown = pixels[("found", other["id"])]
            union = one["area"] + len(shown) - len(shown & mask) - len(shown & void)
            if one["category_id"] == other["category_id"] and len(shown & mask) / union > 0.5:
                table[:2, one["category_id"]] += len(shown & mask) / union, 1
                matched.add(other["id"])
                hits += 1
        table[3, one["category_id"]] += not hits and not one["iscrowd"]
    last = {one["category_id"]: one["id"] for one in true_segments if one["iscrowd"]}
    for other in found_segments:
        shown, crowd = pixels[("found", other["id"])], last.get(other["category_id"])
        excused = len(shown & void) + len(shown & pixels.get(("true", crowd), set()) if crowd else ())
        table[2, other["category_id"]] += other["id"] not in matched and excused <= 0.5 * len(shown)
    return table


def disturbed(ids, segments, generator):
    """A prediction: the truth moved by some pixels, some of its segments left out and some of another class."""
    moved = np.roll(ids, tuple(generator.integers(-9, 9, 2)), (0, 1))
    classes = [s["category_id"] for s in segments]
    kept = [
        segment(s["id"], generator.choice(classes) if generator.random() < 0.2 else s["category_id"])
        for s in segments
        if generator.random() < 0.8 and (moved == s["id"]).any()
    ]
    return np.where(np.isin(moved, [s["id"] for s in kept]), moved, 0), kept


def assert_counted_by_definition(images, classes):
    generator = np.random.default_rng(0)
    evaluator, expected = PanopticEvaluator([str(c) for c in range(classes)], [True] * classes), np.zeros((4, classes))
    for ids, segments in images:
        found, found_segments = disturbed(ids, segments, generator)
        evaluator.add(torch.from_numpy(ids), segments, torch.from_numpy(found), found_segments)
        expected += counted_pixel_by_pixel(ids, segments, found, found_segments, classes)
    assert min(expected.sum(axis=1)) > 5
    np.testing.assert_allclose(evaluator.table.numpy(), expected, atol=1e-12)


def test_real_images_of_coco_are_counted_by_definition(samples_dir):
    folder = samples_dir / "coco"
    table = json.loads((folder / "annotations" / "panoptic_val2017.json").read_text())
    index = {category["id"]: place for place, category in enumerate(table["categories"])}
    images = [
        (
            read_panoptic_ids(str(folder / "panoptic_val2017" / annotation["file_name"])),
            [{**s, "category_id": index[s["category_id"]]} for s in annotation["segments_info"]],
        )
        for annotation in table["annotations"][:8]
    ]
    assert_counted_by_definition(images, len(index))


def test_real_images_of_ade_are_counted_by_definition(samples_dir):
    images = []
    for file in sorted((samples_dir / "ade" / "annotations").glob("*.png")):
        ids = np.asarray(Image.open(file)).astype(np.int32)
        # As in the official annotation, where stuff was measured before instances were laid over it.
        segments = [
            {**segment(int(v), int(v) - 1, crowd=int(v % 4 == 0)), "area": int((ids == v).sum() * (1 + v % 3 / 10))}
            for v in np.unique(ids)[1:]
        ]
        images += [(ids, [*segments, {**segment(1000, 3), "area": 50}])] * 3
    assert_counted_by_definition(images, 150)


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
