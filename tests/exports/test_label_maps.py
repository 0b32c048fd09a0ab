"""Label maps come back as they were written, and viewers show them in the colours of the classes."""

import numpy as np
import pytest
from PIL import Image

from maft.data.reading import read_labels
from maft.errors import UserError
from maft.exports.label_maps import write_label_map
from maft.visualize import palette


def drawn(count):
    labels = np.random.default_rng(0).integers(-1, count, (40, 60))
    labels[0, :2] = -1, count - 1
    return labels


@pytest.mark.parametrize("count", [1, 24, 255])
def test_a_palette_image_holds_the_labels_and_shows_their_colours(tmp_path, count):
    labels = drawn(count)
    path = tmp_path / "map.png"
    assert write_label_map(path, labels, palette(count)) == [path]
    np.testing.assert_array_equal(read_labels(path), np.where(labels < 0, 255, labels))
    with Image.open(path) as picture:
        assert picture.mode == "P"
        seen = np.asarray(picture.convert("RGBA"))
    found = labels >= 0
    np.testing.assert_array_equal(seen[found][:, :3], palette(count)[labels[found]])
    # "None" is see-through, and nothing else is.
    assert (seen[found][:, 3] == 255).all() and (seen[~found][:, 3] == 0).all()


@pytest.mark.parametrize("count", [256, 847])
def test_more_labels_than_a_palette_has_are_16_bit_with_a_coloured_view(tmp_path, count):
    labels = drawn(count)
    stored, view = write_label_map(tmp_path / "map.png", labels, palette(count))
    np.testing.assert_array_equal(read_labels(stored), np.where(labels < 0, 65535, labels))
    found = labels >= 0
    np.testing.assert_array_equal(np.asarray(Image.open(view))[found], palette(count)[labels[found]])
    assert len(np.unique(np.asarray(Image.open(view))[~found], axis=0)) == 1


def test_labels_without_a_colour_are_none(tmp_path):
    labels = np.array([[0, 7], [-5, 1000]])
    write_label_map(tmp_path / "map.png", labels, palette(7))
    assert read_labels(tmp_path / "map.png").tolist() == [[0, 255], [255, 255]]


def test_a_folder_that_takes_no_files_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write to folder"):
        write_label_map(tmp_path / "file/map.png", drawn(3), palette(3))
