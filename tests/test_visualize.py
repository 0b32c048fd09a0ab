"""Pictures: right size, class colours as in the legend, unlabelled pixels, and what is not drawn."""

import numpy as np
import pytest

from maft.visualize import contact_sheet, legend, overlay, palette, side_by_side

NAMES = ["sky", "sea, ocean", "sand"]


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


@pytest.fixture
def labels():
    labels = np.zeros((40, 60), dtype=np.int64)
    labels[20:], labels[30:, :30] = 2, 255
    return labels


def has_colour(picture, colour):
    return bool((picture == np.asarray(colour)).all(axis=-1).any())


def test_palette_is_distinct_and_a_longer_one_starts_with_the_shorter():
    colours = palette(847)
    assert len(np.unique(colours, axis=0)) == 847
    assert np.array_equal(palette(20), colours[:20])
    distance = np.abs(colours[:20, None].astype(int) - colours[None, :20]).sum(axis=2)
    assert distance[~np.eye(20, dtype=bool)].min() > 60
    assert palette(0).shape == (0, 3)


def test_overlay_with_full_weight_shows_exactly_the_class_colours(image, labels):
    picture = overlay(image, labels, NAMES, alpha=1.0, with_legend=False)
    # 60 pixels are enlarged six times, to at least 320.
    assert picture.shape == (240, 360, 3) and picture.dtype == np.uint8
    assert (picture[3, 3] == palette(3)[0]).all() and (picture[150, 300] == palette(3)[2]).all()
    assert not has_colour(picture, palette(3)[1])
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) == 4  # two classes, unlabelled, outlines


def test_a_class_has_one_hue_over_any_image():
    labels = np.zeros((400, 400), dtype=np.int64)
    colourful = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    picture = overlay(colourful, labels, NAMES, alpha=0.5, with_legend=False).astype(int)
    # The image below is grey: differences between channels are those of the class colour, halved.
    colour = palette(3)[0].astype(int)
    assert np.abs((picture[..., 0] - picture[..., 1]) - (colour[0] - colour[1]) / 2).max() <= 1


def test_legend_lists_the_classes_present_only(image, labels):
    with_legend = overlay(image, labels, NAMES, alpha=1.0)
    below = with_legend[240:]
    assert has_colour(below, palette(3)[0]) and has_colour(below, palette(3)[2])
    assert not has_colour(below, palette(3)[1])
    # Text is drawn.
    assert (below < 60).all(axis=2).sum() > 50


def test_large_images_are_not_enlarged():
    image = np.zeros((300, 500, 3), dtype=np.uint8)
    assert overlay(image, np.zeros((300, 500), int), NAMES, with_legend=False).shape == (300, 500, 3)


def test_side_by_side_has_three_panels_or_two(image, labels):
    three = side_by_side(image, {"ground truth": labels, "prediction": labels}, NAMES)
    two = side_by_side(image, {"prediction": labels}, NAMES)
    assert three.shape[1] == 3 * 360 + 2 * 8 and two.shape[1] == 2 * 360 + 8
    assert three.shape[0] > 240
    enlarged = image.repeat(6, axis=0).repeat(6, axis=1)
    top = three.shape[0] - 240
    assert any(np.array_equal(three[row : row + 240, :360], enlarged) for row in range(top))


def test_legend_wraps_into_rows_and_shortens_long_names():
    sheet = legend([(f"class number {index}", tuple(palette(30)[index])) for index in range(30)], 300)
    assert sheet.shape[1] == 300 and all(has_colour(sheet, colour) for colour in palette(30))
    narrow = legend([("a name much longer than the sheet is wide " * 3, (255, 0, 0))], 120)
    assert narrow.shape[1] == 120 and (narrow[:, -3:] == 255).all()


def test_contact_sheet_holds_every_picture(image):
    pictures = [np.full((50, 80, 3), value, dtype=np.uint8) for value in (10, 90, 170, 230)]
    sheet = contact_sheet(pictures, ["a", "b", "c", "d"])
    assert all(has_colour(sheet, (value,) * 3) for value in (10, 90, 170, 230))
    assert sheet.shape[1] == 3 * 88
    with pytest.raises(ValueError):
        contact_sheet(pictures, ["a"])


def test_sizes_that_differ_are_refused(image):
    with pytest.raises(ValueError, match="differ in size"):
        overlay(image, np.zeros((4, 4), int), NAMES)


@pytest.mark.parametrize("names", ["胡萝卜 红绿灯", "गाय घोड़", "αβγ δεζ", "кот пес"])
def test_names_in_any_script_can_be_told_apart(names):
    one, other = (legend([(name, (255, 0, 0))], 300) for name in names.split())
    assert not np.array_equal(one, other)
