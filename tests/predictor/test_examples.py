"""Examples of a class: by a mask, and by a box or clicks that a model answers."""

import io

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from maft.errors import UserError
from maft.miniature import render_scene
from maft.predictor import Predictor
from maft.structures import Proposals

BOX, POINTS = (20, 5, 60, 40), [(50, 30), (5, 5, 0)]


@pytest.fixture(scope="module")
def miniature():
    return Predictor.from_pretrained("miniature")


@pytest.fixture(scope="module")
def on_sam(tiny_configs, random_sam):
    """A model on the masks of a small random SAM."""
    overrides = ["MODEL.PROPOSER.NAME", "SAM", "MODEL.PROPOSER.SAM.PRETRAINED", str(random_sam("sam"))]
    return Predictor.from_config(tiny_configs / "maft.yaml", [*overrides, "MODEL.ENSEMBLE.NAME", "ClassifierAlone"])


@pytest.fixture
def proposing(predictor, monkeypatch):
    """Function: lets a model propose these masks (Q, h, w), logits over the picture that it is given."""

    def propose(masks, **more):
        def proposals(images, records, vocabulary):
            spanned = torch.full((len(masks), *images.padded_size), -5.0)
            height, width = images.sizes[0]
            spanned[:, :height, :width] = torch.nn.functional.interpolate(
                torch.as_tensor(masks)[None].float() * 10 - 5, size=(height, width), mode="nearest"
            )[0]
            return Proposals(spanned[None], images.padded_size, **more)

        monkeypatch.setattr(predictor.model, "propose", proposals)
        return predictor

    return propose


def rectangle(x0, y0, x1, y1):
    mask = np.zeros((40, 60), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def test_a_mask_beside_its_picture_asks_no_model(predictor, image, monkeypatch, tmp_path):
    monkeypatch.setattr(predictor.model, "propose", None)
    mask = rectangle(*BOX)
    example = predictor.example(image, mask=mask)
    np.testing.assert_array_equal(example.image, image)
    np.testing.assert_array_equal(example.mask, mask)
    Image.fromarray(image).save(tmp_path / "photo.png")
    Image.fromarray(np.where(mask, 4, 2).astype(np.uint8)).save(tmp_path / "labels.png")
    assert predictor.example(tmp_path / "photo.png", mask=tmp_path / "labels.png", value=4) == example


def test_a_mask_fits_the_picture_as_it_is_shown(predictor, image):
    """A phone's photograph lies on its side in the file and is turned upright as it is read."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    photo = io.BytesIO()
    Image.fromarray(image).save(photo, "PNG", exif=exif)
    upright = rectangle(20, 5, 60, 40).T[:, ::-1]
    example = predictor.example(photo.getvalue(), mask=upright)
    np.testing.assert_array_equal(example.image, image.transpose(1, 0, 2)[:, ::-1])
    with pytest.raises(UserError, match="has 60x40 pixels, but its image, as it is shown, has 40x60: turn the mask"):
        predictor.example(photo.getvalue(), mask=rectangle(*BOX))


def test_boxes_and_clicks_are_answered_by_a_model_that_takes_them(on_sam, image):
    """With the mask that it finds for them in a labelled picture as well."""
    found = on_sam(image, ["grass", "sky"], boxes=[BOX], points=[POINTS]).instances
    by_box, by_points = on_sam.example(image, box=BOX), on_sam.example(image, points=POINTS)
    np.testing.assert_array_equal(by_box.mask, found[0].mask)
    np.testing.assert_array_equal(by_points.mask, found[1].mask)
    assert by_box != by_points
    assert on_sam.example(image, points=(50, 30)) == on_sam.example(image, points=[(50, 30, 1)])


def test_a_box_takes_the_proposal_whose_tight_box_has_the_highest_iou(proposing, image):
    masks = np.stack([rectangle(0, 0, 60, 39), rectangle(20, 5, 50, 40), rectangle(20, 5, 30, 15)])
    example = proposing(masks).example(image, box=BOX)
    np.testing.assert_array_equal(example.mask, masks[1])
    # Not where it fits nothing but itself.
    with pytest.raises(UserError, match=r"fits in the box \(0, 0, 5, 40\) \(the best box has an IoU of 0.08, and 0.5 "):
        proposing(masks).example(image, box=(0, 0, 5, 40))


def test_clicks_take_the_smallest_proposal_on_which_they_lie(proposing, image):
    large, small, other = rectangle(0, 0, 60, 39), rectangle(20, 5, 50, 40), rectangle(0, 0, 10, 10)
    # An example of the whole picture would leave nothing to tell it from.
    model = proposing(np.stack([large, small, other, np.zeros_like(large), np.ones_like(large)]))
    np.testing.assert_array_equal(model.example(image, points=(30, 20)).mask, small)
    np.testing.assert_array_equal(model.example(image, points=[(30, 20), (5, 5)]).mask, large)
    np.testing.assert_array_equal(model.example(image, points=[(5, 5), (30, 20, 0)]).mask, other)
    with pytest.raises(UserError, match=r"fits at \(55, 2\) but not at \(30, 20\): show the object by a mask"):
        model.example(image, points=[(55, 2), (30, 20, 0)])
    with pytest.raises(UserError, match=r"fits at \(2, 2\) and \(59, 39\): show"):
        model.example(image, points=[(2, 2), (59, 39)])


def test_slots_without_a_proposal_are_none(proposing, image):
    masks = np.stack([rectangle(20, 5, 50, 40), rectangle(0, 0, 60, 39)])
    model = proposing(masks, valid=torch.tensor([[False, True]]))
    np.testing.assert_array_equal(model.example(image, points=(30, 20)).mask, masks[1])
    with pytest.raises(UserError, match="No mask that the model proposes fits"):
        model.example(image, box=(20, 5, 50, 40))


def test_a_mask_of_a_large_picture_is_found_at_its_own_size(predictor, proposing):
    """Proposals are looked through in strips of rows, whatever the size of the picture."""
    mask = rectangle(20, 5, 50, 40)
    large = np.zeros((40 * 30, 60 * 30, 3), np.uint8)
    model = proposing(np.stack([mask, rectangle(0, 0, 60, 40)]))
    by_box = model.example(large, box=[side * 30 for side in (20, 5, 50, 40)])
    assert by_box.mask.shape == large.shape[:2]
    expected = np.kron(mask, np.ones((30, 30), bool))
    assert (by_box.mask != expected).mean() < 0.03
    assert model.example(large, points=(30 * 30, 20 * 30)) == by_box


def test_objects_of_drawn_scenes_are_found_by_box_and_click(miniature):
    """Of most: a proposer has not found every object."""
    overlaps = []
    for index in range(6):
        scene = render_scene(index, "val")
        for label in scene.things:
            truth = scene.sem_seg == label
            if truth.sum() < 200:
                continue
            rows, columns = np.nonzero(truth)
            box = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
            middle = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
            for shown in ({"box": box}, {"points": (columns[middle], rows[middle])}):
                try:
                    found = miniature.example(scene.image, **shown).mask
                except UserError:
                    found = np.zeros_like(truth)
                overlaps.append((found & truth).sum() / (found | truth).sum())
    assert len(overlaps) > 20 and np.mean(np.array(overlaps) > 0.5) > 0.75


def test_words_lead_a_model_whose_masks_depend_on_them(predictor, image, monkeypatch):
    asked = []
    propose = predictor.model.propose
    monkeypatch.setattr(
        predictor.model,
        "propose",
        lambda images, records, words: asked.append(words.names) or propose(images, records, words),
    )
    point = (30, 20)
    for class_names in (["cat", "dog"], "cat", None):
        try:
            predictor.example(image, points=point, class_names=class_names)
        except UserError as error:
            assert "No mask that the model proposes fits" in str(error)
    assert asked[:2] == [("cat", "dog"), ("cat",)] and asked[2] == predictor.vocabulary().names
    monkeypatch.setattr(predictor, "_training", None)
    with pytest.raises(UserError, match="depends on words: say what to look for by class names"):
        predictor.example(image, points=point)


@pytest.mark.parametrize(("shown", "message"), [
    ({}, "An example is shown by one of mask, box and points: give one of them"),
    ({"mask": rectangle(*BOX), "box": BOX}, "one of mask, box and points"),
    ({"box": BOX, "value": 3}, "A value is that of a label map: give the map as the mask"),
    ({"box": (20, 5, 61, 40)}, r"\(20, 5, 61, 40\) reaches outside the picture of 60x40 pixels"),
    ({"box": [BOX, BOX]}, "boxes takes a list of"),
    ({"points": (60, 5)}, r"Point \(60, 5\) .* lies outside the picture of 60x40 pixels"),
    ({"points": [(5, 5, 0)]}, "no point lies on it"),
    ({"mask": np.zeros((40, 60))}, "The mask is empty"),
    ({"mask": np.ones((40, 61), bool)}, "The mask has 61x40 pixels, but its image, as it is shown, has 60x40"),
])  # fmt: skip
def test_what_shows_no_example_is_named(on_sam, image, shown, message):
    with pytest.raises(UserError, match=message):
        on_sam.example(image, **shown)


def test_a_model_that_finds_nothing_there_says_so(on_sam, image, monkeypatch):
    monkeypatch.setattr(on_sam.model.proposer, "binary", lambda logits, size: logits.new_zeros(1, *size).bool())
    with pytest.raises(UserError, match=r"sees nothing at \(50, 30\) but not at \(5, 5\): show it by another box or p"):
        on_sam.example(image, points=POINTS)
