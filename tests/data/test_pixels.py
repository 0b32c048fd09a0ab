"""Images in every form, and what is said of other things."""

import io
import os

import numpy as np
import pytest
import torch
from PIL import Image

from maft.data.pixels import pixels_of
from maft.errors import UserError

COLOURS = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def encoded() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(COLOURS).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.filterwarnings("ignore:the matrix")
def test_every_form_gives_the_same(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded())
    for image in (COLOURS, Image.fromarray(COLOURS), tmp_path / "a.png", str(tmp_path / "a.png")):
        np.testing.assert_array_equal(pixels_of(image), COLOURS)
    grey = COLOURS[..., 0]
    for image in (grey, np.matrix(grey), Image.fromarray(grey)):
        np.testing.assert_array_equal(pixels_of(image), np.dstack([grey] * 3))


@pytest.mark.parametrize("image", [None, 3, [[1]], {}, b"GIF89a", io.BytesIO(), torch.zeros(3, 4, 4), np.ma.array([1])])
def test_other_things_are_no_images(image):
    with pytest.raises(UserError, match="An image is a path, a Pillow image or a NumPy array, not <class"):
        pixels_of(image)


@pytest.mark.parametrize("image", [np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros(3, np.uint8)])
def test_arrays_of_another_kind(image):
    with pytest.raises(UserError, match=r"must be \(height, width, 3\) or \(height, width\) uint8, not \("):
        pixels_of(image)


@pytest.mark.parametrize("image", [np.zeros((0, 4, 3), np.uint8), Image.new("RGB", (0, 0)), Image.new("L", (0, 3))])
def test_an_image_needs_pixels(image):
    with pytest.raises(UserError, match="needs pixels"):
        pixels_of(image)


def test_pillow_images_that_are_damaged_or_closed():
    with pytest.raises(UserError, match=r"of mode RGB cannot be read as RGB \(.*truncated"):
        pixels_of(Image.open(io.BytesIO(encoded()[:100])))
    image = Image.open(io.BytesIO(encoded()))
    image.close()
    with pytest.raises(UserError, match=r"cannot be read as RGB \("):
        pixels_of(image)


def test_folders_and_devices_are_no_pictures(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo"):
        with pytest.raises(UserError, match="is a folder or device: give the path of a picture"):
            pixels_of(path)
    for path in ("a\0b", "x" * 5000, tmp_path / "none.png"):
        with pytest.raises(UserError, match="does not exist"):
            pixels_of(path)
