"""The mask of one object: every form gives the same pixels, and what cannot be used is named."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from maft.data.masks import mask_of
from maft.errors import UserError

SIZE = (6, 8)
MASK = np.zeros(SIZE, dtype=bool)
MASK[1:4, 2:7] = True


def saved(folder: Path, name: str, array: np.ndarray, mode: str | None = None) -> Path:
    picture = Image.fromarray(array)
    if mode == "P":
        # Of the index 1 that is black: the index counts, not its colour.
        picture.putpalette([255, 0, 0, 0, 0, 0])
    picture.save(folder / name)
    return folder / name


def cut_out() -> np.ndarray:
    """Black where the object is and transparent elsewhere."""
    pixels = np.full((*SIZE, 4), 200, np.uint8)
    pixels[MASK] = (0, 0, 0, 255)
    pixels[~MASK, 3] = 0
    return pixels


def painted(colour) -> np.ndarray:
    """A colour on opaque black."""
    pixels = np.zeros((*SIZE, len(colour)), np.uint8)
    pixels[MASK] = colour
    pixels[..., 3:] = 255
    return pixels


@pytest.mark.parametrize(("name", "array", "mode"), [
    ("grey.png", MASK * np.uint8(255), None),
    ("faint.png", MASK * np.uint8(1), None),
    ("bits.png", MASK, None),
    ("deep.png", MASK * np.uint16(1000), None),
    ("palette.png", MASK * np.uint8(1), "P"),
    ("rgb.png", painted((0, 0, 9)), None),
    ("opaque.png", painted((0, 9, 0, 255)), None),
    ("transparent.png", cut_out(), None),
    ("grey.tif", MASK * np.uint8(255), None),
    ("grey.bmp", MASK * np.uint8(255), None),
])  # fmt: skip
def test_what_is_not_zero_or_not_transparent_belongs_to_it(tmp_path, name, array, mode):
    path = saved(tmp_path, name, array, mode)
    np.testing.assert_array_equal(mask_of(path, SIZE), MASK)
    np.testing.assert_array_equal(mask_of(str(path), SIZE), MASK)
    np.testing.assert_array_equal(mask_of(Image.open(path), SIZE), MASK)


@pytest.mark.parametrize("mask", [
    MASK,
    MASK.astype(np.int64) * -3,
    MASK.astype(np.float32),
    MASK[None],
    MASK[..., None],
    torch.from_numpy(MASK),
    torch.from_numpy(MASK)[None].float(),
    coco_mask.encode(np.asfortranarray(MASK.astype(np.uint8))),
    {"size": [6, 8], "counts": [13, 3, 3, 3, 3, 3, 3, 3, 3, 3, 8]},
    [[2, 1, 7, 1, 7, 4, 2, 4]],
])  # fmt: skip
def test_arrays_run_lengths_and_polygons(mask):
    np.testing.assert_array_equal(mask_of(mask, SIZE), MASK)


def test_one_value_of_a_label_map(tmp_path):
    labels = np.where(MASK, 3, 7).astype(np.uint8)
    for mask in (labels, saved(tmp_path, "labels.png", labels), Image.fromarray(labels)):
        np.testing.assert_array_equal(mask_of(mask, SIZE, 3), MASK)
        np.testing.assert_array_equal(mask_of(mask, SIZE, np.int64(7)), ~MASK)
        with pytest.raises(UserError, match=r"The label map has no pixel of the value 4: it holds 3, 7\."):
            mask_of(mask, SIZE, 4)
    np.testing.assert_array_equal(mask_of(np.where(MASK, 0, 1), SIZE, 0), MASK)


EMPTY = np.zeros(SIZE, bool)


@pytest.mark.parametrize(("mask", "value", "message"), [
    (EMPTY, None, "The mask is empty: mark at least one pixel"),
    ([[2, 1, 2, 1, 2, 1]], None, "The mask is empty"),
    (np.where(MASK, 3, 7), None, "The mask marks every pixel: .*; of a label map, say which value it has"),
    (np.where(MASK, 3, 3), 3, "The mask marks every pixel"),
    (np.ones((6, 9), bool), None, "The mask has 9x6 pixels, but its image, as it is shown, has 8x6: give the mask"),
    (np.ones((8, 6), bool), None, "has 6x8 pixels, but .* has 8x6: turn the mask as the image's EXIF orientation"),
    ({"size": [8, 6], "counts": [48]}, None, "The mask of the example is 6x8, but its image is 8x6"),
    ({"size": [6, 8]}, None, "neither run-length encoded nor polygons"),
    ({"size": [6, 8], "counts": [13, 3]}, None, "do not fill its 8x6 pixels"),
    ([], None, "the example has no segmentation"),
    (np.ones((2, 6, 8), bool), None, "A mask is an array .height, width., not .2, 6, 8.: give one mask at a time"),
    (np.full(SIZE, 0.5), None, "A mask holds truth values or whole numbers, not float64: .* as with mask > 0.5"),
    (np.full(SIZE, "a"), None, "A mask holds truth values"),
    (5, None, "A mask is a path, a Pillow image, an array, .*, not <class 'int'>"),
    (MASK, "3", "value of a label map is a whole number, not '3'"),
    (MASK, True, "value of a label map is a whole number"),
    ([[2, 1, 7, 1, 7, 4, 2, 4]], 1, "hold one mask and no values"),
])  # fmt: skip
def test_what_is_no_mask_is_named(mask, value, message):
    with pytest.raises(UserError, match=message):
        mask_of(mask, SIZE, value)


def test_a_file_that_is_no_mask_is_named_with_its_path(tmp_path):
    for name, array, message in (
        ("empty.png", EMPTY * np.uint8(255), "is empty: mark at least one pixel"),
        ("other.png", np.ones((4, 4), np.uint8), r": it has 4x4 pixels, but its image, as it is shown, has 8x6: "),
        ("lossy.jpg", MASK * np.uint8(255), "cannot be read .it is a JPEG, which alters values"),
    ):
        path = saved(tmp_path, name, array)
        with pytest.raises(UserError, match=f"^Mask {re.escape(str(path))}:? ?{message}"):
            mask_of(path, SIZE)
    with pytest.raises(UserError, match="Mask .*none.png does not exist: check its path"):
        mask_of(tmp_path / "none.png", SIZE)
    (tmp_path / "broken.png").write_bytes((tmp_path / "empty.png").read_bytes()[:45])
    with pytest.raises(UserError, match="Mask .*broken.png cannot be read"):
        mask_of(tmp_path / "broken.png", SIZE)
    with pytest.raises(UserError, match="A Pillow image of a mask cannot be read"):
        mask_of(Image.open(tmp_path / "broken.png"), SIZE)
    with pytest.raises(UserError, match="has colours: save grey or palette"):
        mask_of(saved(tmp_path, "rgb.png", painted((0, 0, 9))), SIZE, 9)


def test_nothing_of_another_size_is_decoded(tmp_path):
    """A picture of very many pixels takes as little memory as its header."""
    path = tmp_path / "huge.png"
    Image.new("1", (9_000, 9_000)).save(path)
    with pytest.raises(UserError, match="it has 9000x9000 pixels, but its image"):
        mask_of(path, SIZE)
