"""A user's boxes and points: what they must be, and the objects that come of them."""

import numpy as np
import pytest
import torch

from maft.errors import UserError
from maft.predictor import Predictor
from maft.predictor.prompts import prompts_of
from maft.structures import Images

WORDS = ["a red disc", "grass", "sky"]
BOXES = [[2, 3, 30, 20], [20, 5, 60, 40]]
POINTS = [(10, 10), [(50, 30), (5, 5, 0)]]


@pytest.fixture(scope="module")
def on_sam(tiny_configs, random_sam):
    changed = {"NAME": "SAM", "SAM.PRETRAINED": str(random_sam("sam2")), "SAM.POINTS_PER_SIDE": "2"}
    overrides = [part for key, value in changed.items() for part in (f"MODEL.PROPOSER.{key}", value)]
    return Predictor.from_config(
        tiny_configs / "maft.yaml",
        [
            *overrides,
            "MODEL.ENSEMBLE.NAME",
            "ClassifierAlone",
            "INPUT.MIN_SIZE_TEST",
            "80",
            "INPUT.MAX_SIZE_TEST",
            "200",
        ],
    )


def test_every_form_of_points_and_boxes():
    prompts = prompts_of(np.array(BOXES), POINTS, (40, 60))
    assert prompts.boxes.tolist() == BOXES and prompts.boxes.dtype == torch.float32
    assert [points.tolist() for points in prompts.points] == [[[10, 10, 1]], [[50, 30, 1], [5, 5, 0]]]
    assert len(prompts) == 4
    same = prompts_of(None, np.array([[10, 10], [50, 30]]), (40, 60))
    assert [points.tolist() for points in same.points] == [[[10, 10, 1]], [[50, 30, 1]]] and same.boxes.shape == (0, 4)
    for dtype in (torch.int64, torch.bfloat16):
        tensors = prompts_of(
            torch.tensor(BOXES, dtype=dtype), torch.tensor([[10, 10], [50, 30]], dtype=dtype), (40, 60)
        )
        assert torch.equal(tensors.boxes, prompts.boxes) and torch.equal(tensors.points[1], same.points[1])
    (of_tensors,) = prompts_of(None, [[torch.tensor([10, 10]), (torch.tensor(5.0), 5, 0)]], (40, 60)).points
    assert of_tensors.tolist() == [[10, 10, 1], [5, 5, 0]]
    (last,) = prompts_of(None, [(59.9999999, 39.9999999)], (40, 60)).points
    assert last[0, 0] < 60 and last[0, 1] < 40
    larger = prompts.resized(2, 3)
    assert larger.boxes[0].tolist() == [4, 9, 60, 60] and larger.points[1].tolist() == [[100, 90, 1], [10, 15, 0]]


def test_each_box_and_point_has_one_named_object(on_sam, image):
    found = on_sam(image, WORDS, boxes=BOXES, points=POINTS)
    assert len(found.instances) == 4 and found.segment_ids is None
    # The masks are those that the proposer finds in the resized picture, at the picture's own size.
    pixels = on_sam._resize.get_transform(image).apply_image(image)
    images = Images.from_list([torch.from_numpy(pixels.transpose(2, 0, 1).copy()).float()])
    prompts = prompts_of(BOXES, POINTS, (40, 60)).resized(pixels.shape[1] / 60, pixels.shape[0] / 40)
    expected = on_sam.model.proposer(images, None, None, None, [{"prompts": prompts}]).masks[0]
    expected = expected[:, : pixels.shape[0], : pixels.shape[1]]
    assert pixels.shape[0] == 80
    for instance, mask in zip(found.instances, expected, strict=True):
        assert instance.name == WORDS[instance.label] and 0 <= instance.score <= 1
        # Twice the size: a pixel whose four copies agree is as they are.
        of_copies = mask.view(40, 2, 60, 2).sum((1, 3)).numpy()
        assert instance.mask[of_copies == 4].all() and not instance.mask[of_copies == 0].any()
        rows, columns = np.nonzero(instance.mask)
        assert instance.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    nowhere = (expected.sum(0).view(40, 2, 60, 2).sum((1, 3)) == 0).numpy()
    assert nowhere.any() and (found.labels[nowhere] == -1).all() and (found.labels >= 0).any()
    assert found.to_json()["instances"][2]["box"] == list(found.instances[2].box)


def test_names_and_masks_do_not_depend_on_what_else_is_asked(on_sam, image):
    together = on_sam(image, WORDS, boxes=BOXES, points=POINTS).instances
    alone = on_sam(image, WORDS, points=[POINTS[1]]).instances
    np.testing.assert_array_equal(alone[0].mask, together[3].mask)
    assert alone[0].name == together[3].name and abs(alone[0].score - together[3].score) < 1e-4
    # However unsure, none is left out.
    assert len(on_sam(image, WORDS, boxes=BOXES, none_below=1.0).instances) == 2


@pytest.mark.parametrize(("boxes", "points", "message"), [
    ([[2, 3, 70, 20]], None, r"Box number 1 \(2, 3, 70, 20\) reaches outside the picture of 60x40 pixels"),
    ([[0, 0, 1, 1], [-1, 3, 30, 20]], None, "Box number 2 .* reaches outside"),
    ([[30, 3, 2, 20]], None, "Box number 1 .* is empty: give x0, y0, x1, y1 with x0 < x1"),
    ([2, 3, 30, 20], None, "boxes takes a list of .*, not"),
    ([[2, 3, 30]], None, "boxes takes a list"),
    ([[2, 3, 30, 20], [1]], None, "boxes takes a list"),
    ("all", None, "boxes takes a list"),
    ([[2, 3, float("nan"), 20]], None, "all finite"),
    ([["2", "3", "30", "20"]], None, "boxes takes a list"),
    (np.array([[2, 3, 30, 20]], "datetime64[s]"), None, "boxes takes a list"),
    (np.ma.masked_array([[2, 3, 30, 20]], [[1, 0, 0, 0]]), None, "boxes takes a list"),
    ([[2, 3, 30, 20j]], None, "boxes takes a list"),
    (None, [b"12"], "points takes a list of"),
    (None, [("1", "2")], "points takes a list of"),
    (None, np.array(5), "points takes a list of"),
    (None, torch.tensor(5), "points takes a list of"),
    (None, [(60, 10)], r"Point \(60, 10\) of object number 1 lies outside the picture of 60x40 pixels"),
    (None, [(5, 5), [(5, 5), (3, -1, 0)]], "Point .* of object number 2 lies outside"),
    (None, (10, 20), "points takes a list of"),
    (None, "here", "points takes a list of"),
    (None, 3, "points takes a list of"),
    (None, [(1, 2, 3, 4)], "points takes a list of"),
    (None, [[]], "points takes a list of"),
    (None, [(1, 2, 5)], "label of a point is 1 on the object or 0 outside it"),
    (None, [(1, 2, 0)], "Of object number 1 no point lies on it"),
    ([], [], "There is no box and no point: give at least one"),
])  # fmt: skip
def test_boxes_and_points_that_cannot_be_used_are_named(boxes, points, message):
    with pytest.raises(UserError, match=message):
        prompts_of(boxes, points, (40, 60))


def test_calls_that_cannot_be_answered_are_named(on_sam, predictor, image):
    with pytest.raises(UserError, match="FreeSeg, the proposer of this model, takes no boxes and points: set MODEL"):
        predictor(image, WORDS, boxes=BOXES)
    with pytest.raises(UserError, match="of one picture"):
        on_sam([image, image], WORDS, boxes=BOXES)
    with pytest.raises(UserError, match="name no things with them"):
        on_sam(image, WORDS, "all", points=POINTS)
    with pytest.raises(UserError, match="reaches outside the picture of 60x40"):
        on_sam(image, WORDS, boxes=[[0, 0, 61, 40]])
    cfg = on_sam.cfg.clone()
    cfg.defrost()
    cfg.TEST.AUG.ENABLED, cfg.TEST.AUG.MIN_SIZES = True, [40]
    with pytest.raises(UserError, match="follow no copies of a picture: set TEST.AUG.ENABLED"):
        Predictor(cfg)(image, WORDS, boxes=BOXES)
