"""An image in any form that Python programs hold one in, as an array."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from maft.data.decoding import opened, upright_rgb
from maft.data.reading import reading
from maft.data.urls import fetched, is_url
from maft.errors import UserError, first_line, shown

ImageLike = str | os.PathLike | bytes | Image.Image | np.ndarray | torch.Tensor

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")
# A phone's largest photographs. What comes out, and what lies between, takes some 50 bytes a pixel.
MOST_PIXELS = 64_000_000


def pixels_of(image: ImageLike) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB of an image in any of these forms.

    - a path; the bytes of a picture file; an https address (see `maft.data.urls.fetched`), of the formats in
      `maft.data.decoding.FORMATS`;
    - a Pillow image of any mode;
    - an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4): grey, RGB or RGBA;
    - a tensor (H, W), (1, H, W), (3, H, W) or (4, H, W), on any device.

    Arrays and tensors are uint8, uint16 (0..65535) or floating point (0..1). Photographs are turned upright by their
    EXIF orientation. Of an animation the first picture counts, or that to which a Pillow image was moved (``seek``).
    Transparency is dropped, not laid on a colour: that is how training and evaluation read the same file.

    Raises:
        UserError: it is none of these, cannot be read, has no pixels or more than 64 million, or numbers outside the
            range of its type; nothing is clipped.
    """
    if isinstance(image, np.ndarray) and not isinstance(image, np.ma.MaskedArray):
        pixels = _of_array(np.asarray(image))
    elif isinstance(image, torch.Tensor):
        pixels = _of_tensor(image)
    elif isinstance(image, Image.Image):
        pixels = _of_pillow(image)
    elif isinstance(image, str) and is_url(image):
        pixels = _of_bytes(fetched(image), image)
    elif isinstance(image, (bytes, bytearray)):
        pixels = _of_bytes(bytes(image), f"The picture of {len(image)} bytes")
    elif isinstance(image, (str, os.PathLike)):
        pixels = _of_file(image)
    else:
        raise UserError(
            "An image is a path, an https address, the bytes of a picture file, a Pillow image, a NumPy array or a "
            f"tensor, not {shown(type(image))}: convert it."
        )
    if not pixels.size:
        raise UserError(f"An image needs pixels, and this one is {pixels.shape[1]}x{pixels.shape[0]}.")
    return pixels


def pictures_in(folder: str | os.PathLike[str]) -> list[Path]:
    """The pictures of a folder by the endings of their names, hidden ones left out, sorted.

    Raises:
        UserError: it cannot be read or holds none.
    """
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise UserError(f"Folder {os.fspath(folder)} cannot be read ({error.strerror}): check it.") from error
    paths = [
        Path(folder, name) for name in names if name.lower().endswith(PICTURE_SUFFIXES) and not name.startswith(".")
    ]
    if not paths:
        raise UserError(f"{os.fspath(folder)} holds no picture ({', '.join(PICTURE_SUFFIXES)}): give another folder.")
    return paths


def _check_size(width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise UserError(
            f"The picture has {width}x{height} = {width * height / 1e6:.0f} million pixels, and {MOST_PIXELS // 10**6} "
            "million are the most: make it smaller."
        )


def _of_file(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    if os.path.exists(path) and not os.path.isfile(path):
        raise UserError(f"{os.fspath(path)} is a folder or device: give the path of a picture.")
    with reading(path, "Image", "replace or remove it"), _opened(path) as image:
        return _decoded(image)


def _of_bytes(content: bytes, place: str) -> NDArray[np.uint8]:
    try:
        with _opened(io.BytesIO(content)) as image:
            return _decoded(image)
    except UserError as error:
        raise UserError(f"{shown(place).strip(chr(39))}: {error}") from error
    except Exception as error:
        raise UserError(
            f"{shown(place).strip(chr(39))} cannot be read ({first_line(error)}): give another one."
        ) from error


def _opened(file: Any) -> Image.Image:
    try:
        return opened(file)
    # Pillow looks at the header alone, and refuses before it says how large the picture is.
    except Image.DecompressionBombError as error:
        raise UserError(
            f"The picture has more than {MOST_PIXELS // 10**6} million pixels, the most there may be: make it smaller."
        ) from error


def _decoded(image: Image.Image) -> NDArray[np.uint8]:
    _check_size(*image.size)
    return upright_rgb(image)


def _of_pillow(image: Image.Image) -> NDArray[np.uint8]:
    try:
        return _decoded(image)
    except UserError:
        raise
    # Pillow decodes only now, and what its decoders raise for damaged files is no one family.
    except Exception as error:
        raise UserError(
            f"A Pillow image of mode {image.mode} cannot be read as RGB ({first_line(error)}): convert it, or open it "
            "again."
        ) from error


def _of_tensor(tensor: torch.Tensor) -> NDArray[np.uint8]:
    dense = tensor.layout == torch.strided and not (tensor.is_nested or tensor.is_quantized or tensor.is_meta)
    if not dense or tensor.is_complex():
        raise UserError("An image tensor must be dense and of real numbers: convert it.")
    if tensor.ndim == 3 and tensor.shape[0] not in (1, 3, 4):
        turn = " (permute(2, 0, 1) puts them there)" if tensor.shape[2] in (1, 3, 4) else ""
        raise UserError(
            f"An image tensor has its channels first, (3, height, width), and this one is {tuple(tensor.shape)}{turn}."
        )
    values = tensor.detach().cpu().resolve_neg()
    # NumPy has no bfloat16.
    values = values.float() if values.is_floating_point() else values
    return _of_array((values.permute(1, 2, 0) if values.ndim == 3 else values).numpy())


def _of_array(array: NDArray[Any]) -> NDArray[np.uint8]:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        batch = ": give several images as a list" if array.ndim == 4 else ""
        raise UserError(f"An image array is (height, width) or (height, width, 1, 3 or 4), not {array.shape}{batch}.")
    _check_size(array.shape[1], array.shape[0])
    if array.ndim == 2:
        array = array[..., None]
    eight_bit = _eight_bit(array[..., :3])
    # A copy: the caller may write the next picture into the same memory.
    return np.array(np.broadcast_to(eight_bit, (*eight_bit.shape[:2], 3)), order="C")


def _eight_bit(values: NDArray[Any]) -> NDArray[np.uint8]:
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.uint16:
        return np.round(values * np.float32(255 / 65535)).astype(np.uint8)
    if values.dtype.kind != "f":
        raise UserError(
            f"An image array is uint8, uint16 or floating point in 0..1, not {values.dtype}: convert it, as with "
            "astype('uint8') where its values are 0 to 255."
        )
    least, most = (values.min(), values.max()) if values.size else (0, 1)
    if not (least >= 0 and most <= 1):
        found = "what is not a number" if np.isnan(least) else f"{least:g} to {most:g}"
        raise UserError(
            f"An image array of floating point holds 0 to 1, and this one {found}: scale it, or convert 0 to 255 with "
            "astype('uint8')."
        )
    return np.round(np.multiply(values, 255, dtype=np.float32)).astype(np.uint8)
