"""One shard of an index: what a model saw of some images, mapped into memory."""

from __future__ import annotations

import zlib
from bisect import bisect_right
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from maft.errors import UserError, first_line
from maft.index.format import METADATA, Header, ImageEntry, read_header
from maft.index.masks import decoded_runs, decompressed
from maft.index.packing import CONTEXT, TRUE_CONTEXT, VALUES, check_sum
from maft.index.stored import StoredImage
from maft.structures import EmbeddedMasks, Proposals

AGAIN = "delete it and run the same maft index command again, which makes what is missing"


class Shard:
    """What a model saw of some images: M masks of all of them, one after the other.

    Parts are mapped, not read, until they are asked for; each is checked at its first use.

    Args:
        path: the file.
        settings: digest of the settings of its index.

    Raises:
        UserError: here and at any later time, the file is missing or damaged, or belongs to another index.
    """

    def __init__(self, path: Path, settings: str) -> None:
        self.path = path
        if not path.is_file():
            raise UserError(
                f"Shard {path} is missing: run the same maft index command again, which makes what is missing."
            )
        try:
            self._file: Any = safe_open(str(path), framework="pt")
            metadata = (self._file.metadata() or {}).get(METADATA, "")
        except (SafetensorError, OSError) as error:
            raise UserError(f"Shard {path} is damaged ({first_line(error)}): {AGAIN}.") from error
        self.check = zlib.crc32(metadata.encode())
        self.header: Header = read_header(metadata, path)
        if self.header.settings != settings:
            raise UserError(f"Shard {path} is of another index: {AGAIN}.")
        self._starts = [0, *accumulate(entry.masks for entry in self.header.images)]
        self._checked: dict[str, Tensor] = {}

    def __len__(self) -> int:
        return len(self.header.images)

    @property
    def masks(self) -> int:
        """M."""
        return self._starts[-1]

    @property
    def embeddings(self) -> Tensor | None:
        """(M, D) float32, not normalised; None without a classifier."""
        return self._part("embeddings", torch.float32, self.masks)

    @property
    def queries(self) -> Tensor | None:
        """(M, W) float32, see `Proposals.queries`."""
        return self._part("queries", torch.float32, self.masks)

    @property
    def class_logits(self) -> Tensor | None:
        """(M, C + 1) float32 scores of the words that the index is bound to."""
        return self._part("class_logits", torch.float32, self.masks)

    @property
    def proposed_valid(self) -> Tensor | None:
        """(M,) bool, see `Proposals.valid`; None: all of all images are."""
        return self._flags("proposed")

    @property
    def embedded_valid(self) -> Tensor | None:
        """(M,) bool, see `EmbeddedMasks.valid`; None: all of all images are."""
        return self._flags("embedded")

    @cached_property
    def valid(self) -> Tensor:
        """(M,) bool, masks that the proposer and the classifier call valid."""
        valid = torch.ones(self.masks, dtype=torch.bool)
        for flags in (self.proposed_valid, self.embedded_valid):
            valid = valid if flags is None else valid & flags
        return valid

    @property
    def areas(self) -> Tensor:
        """(M,) int64, pixels inside each mask at its own size, ``header.images[...].mask_size``."""
        return self._needed("areas", torch.int64, self.masks)

    @cached_property
    def image_of(self) -> Tensor:
        """(M,) int64, which image of this shard a mask is of."""
        counts = torch.tensor([entry.masks for entry in self.header.images], dtype=torch.int64)
        return torch.repeat_interleave(torch.arange(len(counts)), counts)

    def rows(self, index: int) -> slice:
        """Where the masks of an image of this shard stand among all."""
        return slice(self._starts[index], self._starts[index + 1])

    def runs(self, row: int) -> dict[str, Any]:
        """COCO's run lengths of one of the M masks, at the size of masks: ``size`` [h, w] and ``counts``, bytes."""
        place = bisect_right(self._starts, row) - 1
        return {"size": list(self.header.images[place].mask_size), "counts": self._runs(row)}

    @property
    def has_context(self) -> bool:
        """Whether texts are compared with more of an image than embeddings of its masks."""
        return any(entry.context for entry in self.header.images)

    def context(self, index: int) -> dict[str, list[Tensor]]:
        """What else of an image of this shard texts are compared with, see `EmbeddedMasks.context`."""
        return self._context(index, CONTEXT)

    def image(self, index: int) -> StoredImage:
        """An image of this shard."""
        entry, rows = self.header.images[index], self.rows(index)
        embedded = None
        embeddings = self.embeddings
        if embeddings is not None:
            valid = self._needed("embedded.valid", torch.bool, self.masks)[rows][None]
            flags = valid if "embedded" in entry.valid else None
            embedded = EmbeddedMasks(embeddings[rows][None], flags, self.context(index))
        true_masks, true_classes = self._truth(index, embedded)
        return StoredImage(
            file=entry.file,
            digest=entry.digest,
            output_size=entry.output_size,
            size=entry.size,
            proposals=self._proposals(index, entry),
            embedded=embedded,
            true_masks=true_masks,
            true_classes=true_classes,
        )

    def _proposals(self, index: int, entry: ImageEntry) -> Proposals:
        rows = self.rows(index)
        valid = self._needed("proposed.valid", torch.bool, self.masks)[rows][None]
        queries, scores = self.queries, self.class_logits
        return Proposals(
            masks=self._values(index, entry)[None],
            padded_size=entry.padded_size,
            are_logits=entry.are_logits,
            own_size=entry.own_size,
            class_logits=None if scores is None else scores[rows][None],
            valid=valid if "proposed" in entry.valid else None,
            align_corners=entry.align_corners,
            queries=None if queries is None else queries[rows][None],
        )

    def _values(self, index: int, entry: ImageEntry) -> Tensor:
        place = f"{entry.file} in shard {self.path}"
        if entry.values:
            start = sum(other.values for other in self.header.images[:index])
            content = self._slice(VALUES, start, entry.values).numpy().tobytes()
            return decompressed(content, (entry.masks, *entry.mask_size), place)
        rows = self.rows(index)
        runs = [self._runs(row) for row in range(rows.start, rows.stop)]
        return decoded_runs(runs, entry.mask_size, place).float()

    def _runs(self, row: int) -> bytes:
        ends = self._needed("run_ends", torch.int64, self.masks)
        start = int(ends[row - 1]) if row else 0
        return self._needed("runs", torch.uint8)[start : int(ends[row])].numpy().tobytes()

    def _context(self, index: int, prefix: str) -> dict[str, list[Tensor]]:
        found = {}
        for name, shape in self._shapes(index, prefix).items():
            sizes = [_product(self._shapes(other, prefix).get(name, (0,))) for other in range(index + 1)]
            flat = self._slice(prefix + name, sum(sizes[:-1]), sizes[-1])
            if check_sum(flat) != self.header.images[index].checks.get(prefix + name):
                raise self._damage(prefix + name)
            found[name] = [flat.reshape(shape)]
        return found

    def _shapes(self, index: int, prefix: str) -> dict[str, tuple[int, ...]]:
        entry = self.header.images[index]
        return entry.context if prefix == CONTEXT else entry.true_context

    def _truth(self, index: int, embedded: EmbeddedMasks | None) -> tuple[EmbeddedMasks | None, tuple[int, ...]]:
        entry = self.header.images[index]
        if entry.true_masks is None:
            return None, ()
        start = sum(other.true_masks or 0 for other in self.header.images[:index])
        rows = slice(start, start + entry.true_masks)
        total = sum(other.true_masks or 0 for other in self.header.images)
        embeddings = self._needed("true.embeddings", torch.float32, total)[rows][None]
        valid = self._needed("true.valid", torch.bool, total)[rows][None] if "true" in entry.valid else None
        context = self._context(index, TRUE_CONTEXT) or (embedded.context if embedded else {})
        classes = self._needed("true.classes", torch.int64, total)[rows]
        return EmbeddedMasks(embeddings, valid, context), tuple(classes.tolist())

    def _part(self, name: str, kind: torch.dtype, rows: int | None = None) -> Tensor | None:
        """A part as it is mapped, checked once; None where the shard has no such part."""
        if name not in self._checked:
            if name not in self.header.checks:
                return None
            part = self._mapped(name)
            fits = part.dtype == kind and (rows is None or part.shape[:1] == (rows,))
            if not fits or check_sum(part) != self.header.checks[name]:
                raise self._damage(name)
            self._checked[name] = part
        return self._checked[name]

    def _flags(self, name: str) -> Tensor | None:
        known = any(name in entry.valid for entry in self.header.images)
        return self._part(f"{name}.valid", torch.bool, self.masks) if known else None

    def _needed(self, name: str, kind: torch.dtype, rows: int | None = None) -> Tensor:
        part = self._part(name, kind, rows)
        if part is None:
            raise self._damage(name)
        return part

    def _mapped(self, name: str) -> Tensor:
        try:
            return self._file.get_tensor(name)
        except SafetensorError as error:
            raise self._damage(name) from error

    def _slice(self, name: str, start: int, length: int) -> Tensor:
        try:
            found = self._file.get_slice(name)[start : start + length]
        except SafetensorError as error:
            raise self._damage(name) from error
        if len(found) != length:
            raise self._damage(name)
        return found

    def _damage(self, name: str) -> UserError:
        return UserError(f"Shard {self.path} is damaged (its {name}): {AGAIN}.")


def _product(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()
