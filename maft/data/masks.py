"""The mask of one object, in any form that Python programs hold one in, as an array."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from maft.data.decoding import opened
from maft.data.reading import as_stored, reading
from maft.data.segmentations import decode_segmentation
from maft.errors import UserError, first_line, shown

MaskLike = str | os.PathLike | Image.Image | np.ndarray | torch.Tensor | dict | list


def mask_of(mask: MaskLike, size: tuple[int, int], value: int | None = None) -> NDArray[np.bool_]:
    """(H, W) bool of a mask in any of these forms.

    - the path of a PNG, BMP or TIFF, or a Pillow image: what is not zero belongs to it, of a palette image the pixels
      whose index is not zero, and of a picture with transparent pixels those that are not transparent;
    - an array or tensor (H, W), (1, H, W) or (H, W, 1) of truth values, of whole numbers, or of 0.0 and 1.0: what is
      not zero belongs to it;
    - run lengths of COCO (``size`` and ``counts``, compressed or not), or a list of its polygons.

    Args:
        mask: one of these.
        size: (H, W) of the image, upright as it is shown.
        value: of a label map, whose pixels are compared with it; None: a mask.

    Raises:
        UserError: it is none of these, cannot be read, is of another size, empty or full, or nowhere has ``value``.
    """
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, np.integer))):
        raise UserError(f"The value of a label map is a whole number, not {shown(value)}: give one that occurs in it.")
    if isinstance(mask, (dict, list)):
        if value is not None:
            raise UserError("Run lengths and polygons hold one mask and no values: leave the value out.")
        found = decode_segmentation(mask, size, "the example")
    else:
        found = _inside(_values(mask, size), value)
    if not found.any():
        raise UserError(f"{_named(mask)} is empty: mark at least one pixel of the object.")
    if found.all():
        raise UserError(
            f"{_named(mask)} marks every pixel: leave out what is beside it; of a label map, say which value it has."
        )
    return found


def _values(mask: Any, size: tuple[int, int]) -> NDArray[Any]:
    """(H, W) or (H, W, channels) as given."""
    if isinstance(mask, (str, os.PathLike)):
        with reading(mask, "Mask", "replace it"), opened(mask) as picture:
            return _of_picture(picture, size, of_file=True)
    if isinstance(mask, Image.Image):
        try:
            return _of_picture(mask, size, of_file=False)
        # What Pillow's decoders raise for damaged files is no one family.
        except (OSError, ValueError, SyntaxError) as error:
            raise UserError(f"A Pillow image of a mask cannot be read ({first_line(error)}): convert it.") from error
    if not isinstance(mask, (np.ndarray, torch.Tensor)):
        raise UserError(
            "A mask is a path, a Pillow image, an array, a tensor, or run lengths or polygons of COCO, not "
            f"{shown(type(mask))}: convert it."
        )
    return _of_array(mask, size)


def _of_picture(picture: Image.Image, size: tuple[int, int], *, of_file: bool) -> NDArray[Any]:
    # Before anything is decoded, so that nothing larger than the image ever is.
    _check_size(picture.size[::-1], size, "it" if of_file else "The mask")
    return as_stored(picture)


def _of_array(mask: Any, size: tuple[int, int]) -> NDArray[Any]:
    values = mask.detach().cpu().numpy() if isinstance(mask, torch.Tensor) else mask
    if values.ndim == 3 and 1 in (values.shape[0], values.shape[2]):
        values = values.squeeze(0 if values.shape[0] == 1 else 2)
    if values.ndim != 2:
        raise UserError(f"A mask is an array (height, width), not {values.shape}: give one mask at a time.")
    _check_size(values.shape, size, "The mask")
    if values.dtype.kind not in "biu" and not (values.dtype.kind == "f" and np.isin(values, (0, 1)).all()):
        raise UserError(
            f"A mask holds truth values or whole numbers, not {values.dtype}: say which of its pixels belong to the "
            "object, as with mask > 0.5."
        )
    return values


def _inside(values: NDArray[Any], value: int | None) -> NDArray[np.bool_]:
    if value is None:
        # Grey or colours, and last their opacity, which says nothing where all is opaque.
        if values.ndim == 3 and values.shape[2] in (2, 4):
            opaque = values[..., -1] > 0
            return opaque if not opaque.all() else (values[..., :-1] != 0).any(axis=-1)
        found: NDArray[np.bool_] = values != 0
        return np.logical_or.reduce(found, axis=-1) if found.ndim == 3 else found
    if values.ndim == 3:
        raise UserError("A label map has one number a pixel, and this one has colours: save grey or palette indices.")
    found = values == value
    if not found.any():
        listed = np.unique(values).tolist()
        known = ", ".join(map(str, listed[:10])) + (", ..." if len(listed) > 10 else "")
        raise UserError(f"The label map has no pixel of the value {value}: it holds {known}.")
    return found


def _check_size(found: tuple[int, ...], size: tuple[int, int], what: str) -> None:
    if tuple(found) == tuple(size):
        return
    turned = tuple(found) == tuple(size[::-1])
    raise UserError(
        f"{what} has {found[1]}x{found[0]} pixels, but its image, as it is shown, has {size[1]}x{size[0]}: "
        + ("turn the mask as the image's EXIF orientation turns it." if turned else "give the mask of this image.")
    )


def _named(mask: Any) -> str:
    return f"Mask {os.fspath(mask)}" if isinstance(mask, (str, os.PathLike)) else "The mask"
