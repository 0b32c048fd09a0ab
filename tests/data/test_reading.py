"""Pictures of every depth."""

import numpy as np
import pytest
from PIL import Image

from maft.data.reading import files_by_stem, read_image, read_labels
from maft.errors import UserError


@pytest.mark.parametrize("name", ["sixteen.png", "sixteen.tif", "float.tif"])
def test_pictures_of_more_than_eight_bit_are_scaled_not_clipped(tmp_path, name):
    grey = np.linspace(0, 255, 96 * 96).astype(np.uint8).reshape(96, 96)
    values = grey.astype(np.float32) / 255 if name == "float.tif" else grey.astype(np.uint16) * 257
    Image.fromarray(values).save(tmp_path / name)
    assert np.array_equal(read_image(tmp_path / name), np.repeat(grey[..., None], 3, axis=2))


def test_numbers_that_are_no_brightness_are_refused_by_name(tmp_path):
    Image.fromarray(np.full((4, 4), 2.5, np.float32)).save(tmp_path / "height.tif")
    with pytest.raises(UserError, match=r"height\.tif.*must hold 0 to 1"):
        read_image(tmp_path / "height.tif")


def test_a_jpeg_under_another_name_is_no_label_map(tmp_path):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "map.jpg")
    (tmp_path / "map.jpg").rename(tmp_path / "map.png")
    with pytest.raises(UserError, match="it is a JPEG, which alters values"):
        read_labels(tmp_path / "map.png")


def test_linked_folders_are_followed_and_circles_end(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "disk/city").mkdir(parents=True)
    (tmp_path / "disk/city/1.png").touch()
    (tmp_path / "a/city").symlink_to(tmp_path / "disk/city")
    (tmp_path / "disk/city/up").symlink_to(tmp_path / "a")
    assert list(files_by_stem(tmp_path / "a", ".png")) == ["city/1"]
