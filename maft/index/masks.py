"""Masks as bytes: run lengths of their insides, and their values without a loss."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch import Tensor

from maft.data.segmentations import decode_segmentation
from maft.errors import UserError

# More takes twice the time for one part in fifty less.
_LEVEL = 1


def inside(masks: Tensor, are_logits: bool) -> Tensor:
    """Which pixels (Q, h, w) belong to a mask: a logit above 0, or a value above one half."""
    return masks > (0.0 if are_logits else 0.5)


def encoded_runs(binary: Tensor) -> list[bytes]:
    """COCO's compressed run lengths of (Q, h, w) bool masks."""
    if not len(binary):
        return []
    # Column by column, as the runs go.
    columns = np.ascontiguousarray(binary.cpu().numpy().transpose(0, 2, 1), dtype=np.uint8)
    return [code["counts"] for code in coco_mask.encode(columns.transpose(2, 1, 0))]


def areas_of(runs: Sequence[bytes], size: tuple[int, int]) -> NDArray[np.int64]:
    """Pixels (Q,) inside each mask."""
    codes = [{"size": list(size), "counts": counts} for counts in runs]
    return coco_mask.area(codes).astype(np.int64) if codes else np.zeros(0, np.int64)


def decoded_runs(runs: Sequence[bytes], size: tuple[int, int], place: str) -> Tensor:
    """(Q, h, w) bool; raises `UserError` where runs do not fill a mask."""
    decoded = [torch.from_numpy(decode_segmentation({"size": size, "counts": counts}, size, place)) for counts in runs]
    return torch.stack(decoded) if decoded else torch.zeros(0, *size, dtype=torch.bool)


def compressed(values: Tensor) -> bytes:
    """Float32 values, first bytes first: exponents compress where digits do not."""
    flat = np.ascontiguousarray(values.detach().cpu().float().numpy(), dtype="<f4").view(np.uint8).reshape(-1, 4)
    return zlib.compress(np.ascontiguousarray(flat.T).data, _LEVEL)


def decompressed(content: bytes, shape: tuple[int, ...], place: str) -> Tensor:
    """What `compressed` was given, of this shape.

    Raises:
        UserError: it is damaged.
    """
    size = int(np.prod(shape))
    reader = zlib.decompressobj()
    try:
        # Not many more than are expected: a few bytes may stand for any number.
        plain = reader.decompress(content, 4 * size + 1)
    except zlib.error:
        plain = b""
    if len(plain) != 4 * size or not reader.eof:
        raise UserError(f"{place} is damaged: delete this shard and run the same maft index command again.")
    planes = np.frombuffer(plain, np.uint8).reshape(4, size)
    return torch.from_numpy(np.ascontiguousarray(planes.T).view("<f4").reshape(shape).copy())
