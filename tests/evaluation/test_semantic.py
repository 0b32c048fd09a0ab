"""The semantic evaluator: equal to Detectron2's, both protocols, recorded cases, and wrong input."""

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import SemSegEvaluator
from golden.runner import run_case
from PIL import Image

from maft.errors import UserError
from maft.evaluation import SemanticEvaluator
from maft.evaluation.report import definition

NAMES = [f"class {index}" for index in range(6)]


@pytest.fixture
def images(tmp_path):
    """Records with label maps on disk, and random scores; class 4 never true, class 5 nowhere."""
    draws = np.random.default_rng(0)
    records, scores = [], []
    for index in range(4):
        labels = draws.choice([0, 1, 2, 3, 255], (24, 31)).astype(np.uint8)
        Image.fromarray(labels).save(tmp_path / f"{index}.png")
        records.append({"file_name": f"{index}.jpg", "sem_seg_file_name": str(tmp_path / f"{index}.png")})
        values = torch.from_numpy(draws.normal(size=(6, 24, 31)))
        values[5] = -9
        scores.append({"sem_seg": values})
    return records, scores


def test_equals_detectron2(images):
    records, outputs = images
    DatasetCatalog.register("semantic_test", lambda: records)
    MetadataCatalog.get("semantic_test").set(stuff_classes=NAMES, ignore_label=255)
    try:
        # Its own loading function does not run under NumPy 2.
        theirs = SemSegEvaluator(
            "semantic_test",
            distributed=False,
            sem_seg_loading_fn=lambda file, dtype: np.asarray(Image.open(file)).astype(dtype),
        )
        theirs.reset()
        theirs.process(records, outputs)
        expected = theirs.evaluate()["sem_seg"]
    finally:
        DatasetCatalog.remove("semantic_test")
        MetadataCatalog.remove("semantic_test")
    ours = SemanticEvaluator(NAMES, 255)
    ours.process(records, outputs)
    found = ours.evaluate()["sem_seg"]
    shared = [name for name in expected if "ound" not in name and "Iou" not in name]
    assert len(shared) == 4 + 2 * len(NAMES)
    for name in shared:
        assert found[name] == pytest.approx(expected[name], rel=1e-12, nan_ok=True), name
    assert found["mIoU_or_predicted"] == pytest.approx(expected["mIoU"] * 4 / 5)


def test_label_maps_and_score_maps_give_the_same(images):
    records, outputs = images
    by_scores, by_labels = SemanticEvaluator(NAMES, 255), SemanticEvaluator(NAMES, 255)
    by_scores.process(records, outputs)
    by_labels.process(records, [{"sem_seg_labels": output["sem_seg"].argmax(dim=0)} for output in outputs])
    assert torch.equal(by_scores.confusion.counts, by_labels.confusion.counts)


def test_ignored_pixels_do_not_count(images):
    records, outputs = images
    before, after = SemanticEvaluator(NAMES, 255), SemanticEvaluator(NAMES, 255)
    before.process(records, outputs)
    for record, output in zip(records, outputs):
        ignored = torch.from_numpy(np.array(Image.open(record["sem_seg_file_name"])) == 255)
        output["sem_seg"] = torch.where(ignored, output["sem_seg"].flip(0), output["sem_seg"])
    after.process(records, outputs)
    assert before.evaluate()["sem_seg"]["mIoU_or_predicted"] != 0
    first, second = before.evaluate()["sem_seg"], after.evaluate()["sem_seg"]
    assert first == pytest.approx(second, nan_ok=True)


def test_an_ignore_label_below_the_number_of_classes_is_still_ignored():
    evaluator = SemanticEvaluator([str(index) for index in range(300)], 255)
    evaluator.add(torch.tensor([[255, 7]]), torch.tensor([[255, 7]]))
    assert evaluator.evaluate()["sem_seg"]["pACC"] == 100
    assert evaluator.confusion.counts[:, :-1].sum() == 1


def test_seen_unseen_and_harmonic_by_hand():
    evaluator = SemanticEvaluator(["a", "b", "c", "d"], 255, seen=[True, False, True, False])
    truth = torch.tensor([[0, 0, 1, 1, 2, 2]])
    evaluator.add(torch.tensor([[0, 0, 1, 3, 2, 1]]), truth)
    found = evaluator.evaluate()["sem_seg"]
    assert found["seen_mIoU"] == pytest.approx(100 * (1 + 1 / 2) / 2)
    # b: 1 hit, 2 true, 2 predicted; d is predicted but never true.
    assert found["unseen_mIoU"] == pytest.approx(100 / 3)
    assert found["unseen_mIoU_or_predicted"] == pytest.approx(100 / 6)
    assert found["harmonic_mIoU"] == pytest.approx(2 * 75 * (100 / 3) / (75 + 100 / 3))
    assert found["seen_pACC"] == pytest.approx(75) and found["unseen_pACC"] == pytest.approx(50)
    # Over all unseen classes, d has no truth, so that the mean is undefined.
    assert found["seen_mIoU_of_all"] == found["seen_mIoU"] and np.isnan(found["unseen_mIoU_of_all"])
    assert "unseen_mIoU_th" not in found


def test_unseen_things_and_stuff_by_hand():
    flags = {"seen": [True, False, False, False], "things": [True, True, False, True]}
    evaluator = SemanticEvaluator(["a", "b", "c", "d"], 255, **flags)
    evaluator.add(torch.tensor([[0, 0, 1, 3, 2, 1]]), torch.tensor([[0, 0, 1, 1, 2, 2]]))
    found = evaluator.evaluate()["sem_seg"]
    assert found["unseen_mIoU_th"] == pytest.approx(100 / 3)
    assert found["unseen_mIoU_or_predicted_th"] == pytest.approx(100 / 6)
    assert found["unseen_mIoU_or_predicted_st"] == pytest.approx(50) and found["unseen_pACC_st"] == pytest.approx(50)
    assert definition("unseen_mIoU_or_predicted_th").endswith("over the unseen classes, things only")


def test_unseen_only_offers_and_measures_the_unseen_classes():
    evaluator = SemanticEvaluator(["a", "b", "c", "d"], 255, seen=[True, False, True, False], protocol="unseen_only")
    assert evaluator.offered.tolist() == [1, 3]
    # Predictions are positions among the offered classes; pixels of seen classes are left out.
    evaluator.add(torch.tensor([[0, 0, 1, 1, 0]]), torch.tensor([[1, 3, 3, 0, 255]]))
    found = evaluator.evaluate()["sem_seg"]
    assert found["IoU-b"] == pytest.approx(50) and found["IoU-d"] == pytest.approx(50)
    assert "IoU-a" not in found and "seen_mIoU" not in found
    assert found["pACC"] == pytest.approx(200 / 3)


def test_state_continues_where_it_was_saved(images):
    records, outputs = images
    whole, first, second = (SemanticEvaluator(NAMES, 255) for _ in range(3))
    whole.process(records, outputs)
    first.process(records[:2], outputs[:2])
    second.load_state(first.state())
    second.process(records[2:], outputs[2:])
    assert torch.equal(whole.confusion.counts, second.confusion.counts)


def test_wrong_input_is_refused(images):
    records, outputs = images
    with pytest.raises(UserError, match="scores 6 classes, but the dataset has 7"):
        SemanticEvaluator([*NAMES, "more"], 255).process(records, outputs)
    with pytest.raises(UserError, match=r"0.png holds id 3.*3 classes"):
        SemanticEvaluator(NAMES[:3], 255).process(records, [{"sem_seg": o["sem_seg"][:3]} for o in outputs])
    with pytest.raises(UserError, match=r"prediction is 5x24, but label map .*0.png is 31x24"):
        SemanticEvaluator(NAMES, 255).process(records, [{"sem_seg": o["sem_seg"][..., :5]} for o in outputs])
    with pytest.raises(UserError, match="no unseen classes"):
        SemanticEvaluator(NAMES, 255, protocol="unseen_only")


@pytest.mark.parametrize(
    ("system", "name"), [("maft", "eval_metrics"), ("ovseg", "sem_seg_evaluator"), ("maskadapter", "semseg_evaluator")]
)
def test_recorded_cases(golden_dir, system, name):
    result = run_case(golden_dir / system / f"{name}.json")
    assert result.status == "pass", result.detail
