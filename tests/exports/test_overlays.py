"""Names stand in the regions that they name, apart from each other; what has no room is in the legend."""

import numpy as np
import pytest

from maft.exports.overlays import named_overlay, write_names
from maft.visualize import overlay, palette

NAMES = ["sky", "sea, ocean", "sand", "ship"]


@pytest.fixture
def image():
    return np.zeros((400, 600, 3), dtype=np.uint8)


@pytest.fixture
def labels():
    labels = np.zeros((400, 600), dtype=np.int64)
    labels[150:300, :], labels[300:], labels[200:203, 100:103] = 1, 2, 3
    return labels


def changed(one, other):
    return (one != other).any(axis=2)


def test_each_name_is_written_inside_its_region_and_the_rest_listed(image, labels):
    plain = named_overlay(image, labels, NAMES, names=False)
    named = named_overlay(image, labels, NAMES)
    written = changed(named[:400], plain)
    for label in range(3):
        # Thick regions hold all of their names, with a margin.
        assert written[labels == label].sum() > 50
    borders = np.zeros((400, 600), dtype=bool)
    borders[148:152] = borders[298:302] = True
    assert not written[borders].any()
    # The ship is too small for its name.
    legend = named[400:]
    assert (legend == palette(4)[3]).all(axis=2).any()
    assert not any((legend == palette(4)[label]).all(axis=2).any() for label in range(3))
    np.testing.assert_array_equal(plain, overlay(image, labels, NAMES, with_legend=False))


def test_all_names_can_be_in_the_legend(image, labels):
    picture = named_overlay(image, labels, NAMES, names="legend")
    np.testing.assert_array_equal(picture[:400], named_overlay(image, labels, NAMES, names=False))
    assert all((picture[400:] == colour).all(axis=2).any() for colour in palette(4))


def test_names_never_overlap():
    picture = np.zeros((300, 400, 3), dtype=np.uint8)
    regions = np.arange(300)[:, None] // 60 * 4 + np.arange(400)[None] // 100
    texts = {region: f"a long name {region}" for region in range(20)}
    alone = [changed(write_names(picture, regions, {region: text}, 15)[0], picture) for region, text in texts.items()]
    together, unplaced = write_names(picture, regions, texts, 15)
    placed = [mask for region, mask in enumerate(alone) if region not in unplaced]
    assert len(placed) >= 10
    ink = sum(mask.sum() for mask in placed)
    # As much ink as apart: nothing covers anything (places may differ, letters do not).
    assert changed(together, picture).sum() == ink


def test_every_segment_has_its_name_and_its_outline(image):
    labels = np.zeros((400, 600), dtype=np.int64)
    halves = np.ones((400, 600), dtype=np.int32)
    halves[:, 300:] = 2
    merged = named_overlay(image, labels, NAMES, halves * 0 + 1)
    apart = named_overlay(image, labels, NAMES, halves)
    whole = named_overlay(image, labels, NAMES, names=False)
    assert (apart[:, 300] == 255).all() and not (merged[:, 300] == 255).all()
    written = changed(apart, named_overlay(image, labels, NAMES, halves, names=False))
    assert written[:, :300].sum() == written[:, 300:].sum() == changed(merged, whole).sum()


def test_nothing_found_and_small_images_are_drawn():
    image = np.zeros((10, 20, 3), dtype=np.uint8)
    nothing = np.full((10, 20), -1)
    assert named_overlay(image, nothing, NAMES).shape == (160, 320, 3)
    assert named_overlay(image, nothing + 1, NAMES).shape == (160, 320, 3)


def test_large_photos_have_larger_letters():
    heights = []
    for side in (600, 2400):
        image, labels = np.zeros((side, side, 3), dtype=np.uint8), np.zeros((side, side), dtype=np.int64)
        written = changed(named_overlay(image, labels, NAMES), named_overlay(image, labels, NAMES, names=False))
        heights.append(np.ptp(written.any(axis=1).nonzero()[0]))
    assert heights[1] > 3 * heights[0]
