"""Masks whose embeddings lie near others: all compared, or those that a vector index finds.

Shape letters: M masks of an index, D width of embeddings.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from maft.errors import UserError, first_line
from maft.files import atomic_path
from maft.index.reading import StoredIndex
from maft.index.shard import Shard

Engine = Literal["exact", "faiss"]
ENGINES = ("exact", "faiss")
# Up to so many masks a vector index compares all, which takes a millisecond for each ten thousand.
MOST_FLAT = 100_000
# Cells of a larger one, times the square root of M, and the share of them that is looked into.
_CELLS, _LOOKED_INTO = 4, 1 / 16
# Of each cell, for the search of their centres.
_TRAINED_ON = 64


def unit_embeddings(shard: Shard) -> Tensor:
    """(m, D) embeddings of the masks of a shard, of unit length, or zero for a mask that shows nothing.

    Raises:
        UserError: the index was made without a classifier.
    """
    if (embeddings := shard.embeddings) is None:
        raise UserError(
            "This index has no embeddings of masks: its model has no mask classifier (MODEL.CLASSIFIER.NAME is none), "
            "so that masks can be asked for with words, but not found by likeness."
        )
    return F.normalize(embeddings, dim=-1)


def nearest(stored: StoredIndex, queries: Tensor, most: int) -> Tensor:
    """The masks that the vector index of an index finds near some embeddings; it is built where there is none yet.

    Args:
        queries: (n, D).
        most: masks for each.

    Returns:
        (m,) int64, numbers of masks through all shards, ascending.

    Raises:
        UserError: faiss is not installed, the index has no embeddings, or its folder cannot be written to.
    """
    index = vector_index(stored)
    units = F.normalize(queries, dim=-1).contiguous().numpy()
    _, found = index.search(units, min(most, index.ntotal))
    # Where a search finds too few, the rest is -1.
    return torch.from_numpy(found).flatten().unique()[int((found < 0).any()) :]


def vector_index(stored: StoredIndex) -> Any:
    """The faiss index of the embeddings of an index, read from its folder, or built and written there."""
    faiss = _faiss()
    path = stored.folder / "search" / f"{_key(stored)}.faiss"
    masks = stored.contents.masks
    if not path.is_file():
        index = built(lambda: map(unit_embeddings, stored.shards()), masks)
        with atomic_path(path) as temporary:
            faiss.write_index(index, str(temporary))
        _remove_others(path)
        return index
    try:
        index = faiss.read_index(str(path))
    except RuntimeError as error:
        raise _damaged(path, first_line(error)[:120]) from error
    if index.ntotal != masks:
        raise _damaged(path, f"it holds {index.ntotal} masks, not {masks}")
    if index.d != (width := unit_embeddings(stored.shard(0)).shape[1]):
        raise _damaged(path, f"its embeddings are {index.d} wide, not {width}")
    return _ready(index)


def _key(stored: StoredIndex) -> str:
    """Of the embeddings: the header of a shard, of which this is the CRC-32, holds those of its tensors."""
    headers = [facts.header for facts in stored.contents.shards]
    return hashlib.sha256(f"{stored.settings.digest} {headers}".encode()).hexdigest()[:16]


def _remove_others(path: Path) -> None:
    for other in path.parent.glob(f"*{path.suffix}"):
        if other != path:
            other.unlink(missing_ok=True)


def built(chunks: Callable[[], Iterable[Tensor]], masks: int, *, most_flat: int = MOST_FLAT) -> Any:
    """A faiss index of inner products: flat, which compares all, or of many masks in cells (IVF).

    Args:
        chunks: gives the vectors (m, D) in order, of which one part is in the memory; called twice.
        masks: how many vectors there are.
        most_flat: up to so many make a flat one.
    """
    faiss = _faiss()
    cells = max(1, round(_CELLS * masks**0.5))
    step = max(1, masks // (cells * _TRAINED_ON))
    index = None
    if masks > most_flat:
        # Every so manyth, so that all parts of a collection are among them.
        sample = torch.cat([chunk[::step] for chunk in chunks()])
        index = faiss.index_factory(sample.shape[1], f"IVF{cells},Flat", faiss.METRIC_INNER_PRODUCT)
        index.train(sample.contiguous().numpy())
    for chunk in chunks():
        if index is None:
            index = faiss.IndexFlatIP(chunk.shape[1])
        index.add(chunk.contiguous().numpy())
    return _ready(index)


def _ready(index: Any) -> Any:
    if hasattr(index, "nprobe"):
        index.nprobe = max(1, round(index.nlist * _LOOKED_INTO))
    return index


def _faiss() -> Any:
    try:
        return importlib.import_module("faiss")
    except ImportError:
        raise UserError(
            'A vector index needs faiss: run pip install "maft[search]", or compare all masks with --engine exact.'
        ) from None


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(f"The vector index {path} is damaged ({reason}): delete it, and it is built again.")
