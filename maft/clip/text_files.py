"""Text embeddings that outlive the process: one file for each text tower and templates, the least used are dropped."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from maft.checkpoint.io import read_metadata, read_state_dict, write_safetensors
from maft.errors import UserError

# 16,384 rows of width 1024 are 64 MiB; a folder of text embeddings holds 16 files, 1 GiB at the most.
MOST_TEXTS = 16_384
MOST_FILES = 16
_PREFIX = "text_embeddings_"

log = logging.getLogger(__name__)


def embedding_file(folder: Path, digest: str) -> Path:
    """The file of a folder for what ``digest`` stands for."""
    return folder / f"{_PREFIX}{digest}.safetensors"


def read_embeddings(file: Path, width: int) -> dict[str, Tensor]:
    """(width,) float32 by text, the least recently used first; empty when the file is missing or of no use."""
    if not file.is_file():
        return {}
    try:
        texts, rows = json.loads(read_metadata(file)["texts"]), read_state_dict(file)["rows"]
        if rows.shape != (len(texts), width) or rows.dtype != torch.float32 or not rows.isfinite().all():
            raise ValueError("its rows are none of this model's")
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ValueError("it does not say of which texts they are")
        # The time of the last use.
        with suppress(OSError):
            os.utime(file)
        return dict(zip(texts, rows, strict=True))
    except (UserError, SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        log.warning("Text embeddings in %s are unreadable (%s) and are computed again.", file, error)
        return {}


def write_embeddings(file: Path, rows: Mapping[str, Tensor]) -> None:
    """Keeps the last `MOST_TEXTS` of some embeddings, and of the folder the `MOST_FILES` files last used.

    Raises:
        UserError: the folder cannot be written to.
    """
    texts = list(rows)[-MOST_TEXTS:]
    if not file.is_file():
        log.info("Text embeddings are kept in %s.", file)
    write_safetensors(file, {"rows": torch.stack([rows[text].cpu() for text in texts])}, {"texts": texts})
    # Another process may remove them as well.
    with suppress(OSError):
        kept = sorted(file.parent.glob(f"{_PREFIX}*.safetensors"), key=lambda other: other.stat().st_mtime)
        for other in kept[:-MOST_FILES]:
            other.unlink()
