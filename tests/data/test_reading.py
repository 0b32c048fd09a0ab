"""Pictures of every depth."""

import numpy as np
import pytest
from PIL import Image

from maft.data.reading import read_image
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
