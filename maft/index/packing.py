"""From what a model saw of some images to the tensors and the header of a shard."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from maft.index.format import Header, ImageEntry, Masks, Unreadable
from maft.index.masks import areas_of, compressed, encoded_runs, inside
from maft.index.stored import StoredImage
from maft.structures import EmbeddedMasks

# Parts that are read image by image; their checks stand with the images.
CONTEXT, TRUE_CONTEXT = "context.", "true.context."
VALUES = "values"


def check_sum(tensor: Tensor) -> int:
    """CRC-32 of the bytes of a tensor on the CPU."""
    return zlib.crc32(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())


@dataclass(frozen=True)
class Packed:
    """One image as it goes into a shard: its entry, and its share of every part."""

    entry: ImageEntry
    parts: Mapping[str, Tensor]


@dataclass
class _Parts:
    """The shares of parts that one image has."""

    parts: dict[str, Tensor] = field(default_factory=dict)
    checks: dict[str, int] = field(default_factory=dict)
    valid: list[str] = field(default_factory=list)

    def flags(self, name: str, part: str, flags: Tensor | None, count: int) -> None:
        self.parts[part] = torch.ones(count, dtype=torch.bool) if flags is None else flags[0].cpu()
        if flags is not None:
            self.valid.append(name)

    def context(self, prefix: str, embedded: EmbeddedMasks) -> dict[str, tuple[int, ...]]:
        shapes = {}
        for name, (tensor,) in sorted(embedded.context.items()):
            flat = tensor.detach().cpu().float().reshape(-1)
            self.parts[prefix + name], self.checks[prefix + name] = flat, check_sum(flat)
            shapes[name] = tuple(tensor.shape)
        return shapes


def packed(position: int, image: StoredImage, masks: Masks) -> Packed:
    """An image as bytes.

    Args:
        position: among the images that the index was asked to hold.
        masks: whether values of masks are kept, see `maft.index.format.Settings`.
    """
    proposals, found = image.proposals, _Parts()
    values = proposals.masks[0].detach().cpu().float()
    count, size = len(values), (int(values.shape[-2]), int(values.shape[-1]))
    binary = inside(values, proposals.are_logits)
    runs = encoded_runs(binary)
    whole = masks == "exact" and not (not proposals.are_logits and torch.equal(values, binary.float()))
    content = compressed(values) if whole else b""
    found.parts |= {
        "runs": _bytes(b"".join(runs)),
        "run_ends": torch.tensor([len(one) for one in runs], dtype=torch.int64),
        "areas": torch.from_numpy(areas_of(runs, size)),
        VALUES: _bytes(content),
    }
    found.flags("proposed", "proposed.valid", proposals.valid, count)
    for name, rows in (("queries", proposals.queries), ("class_logits", proposals.class_logits)):
        if rows is not None:
            found.parts[name] = rows[0].detach().cpu().float()
    context, true_context = {}, {}
    if image.embedded is not None:
        found.parts["embeddings"] = image.embedded.embeddings[0].detach().cpu().float()
        found.flags("embedded", "embedded.valid", image.embedded.valid, count)
        context = found.context(CONTEXT, image.embedded)
    if image.true_masks is not None:
        true_context = _pack_truth(found, image, image.true_masks)
    entry = ImageEntry(
        position=position,
        file=image.file,
        digest=image.digest,
        output_size=image.output_size,
        size=image.size,
        masks=count,
        mask_size=size,
        padded_size=proposals.padded_size,
        own_size=proposals.own_size,
        are_logits=proposals.are_logits and masks == "exact",
        align_corners=proposals.align_corners,
        valid=tuple(found.valid),
        values=len(content),
        context=context,
        true_masks=None if image.true_masks is None else len(image.true_classes),
        true_context=true_context,
        checks=found.checks,
    )
    return Packed(entry, found.parts)


def _pack_truth(found: _Parts, image: StoredImage, truth: EmbeddedMasks) -> dict[str, tuple[int, ...]]:
    found.parts["true.embeddings"] = truth.embeddings[0].detach().cpu().float()
    found.parts["true.classes"] = torch.tensor(image.true_classes, dtype=torch.int64)
    found.flags("true", "true.valid", truth.valid, len(image.true_classes))
    if image.embedded is not None and _same(truth.context, image.embedded.context):
        return {}
    return found.context(TRUE_CONTEXT, truth)


def _same(one: Mapping[str, Sequence[Tensor]], other: Mapping[str, Sequence[Tensor]]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name][0], other[name][0]) for name in one)


def _bytes(content: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(content, np.uint8).copy())


def joined(
    settings: str, shard: int, images: Iterable[Packed], unreadable: Sequence[Unreadable]
) -> tuple[dict[str, Tensor], Header]:
    """The tensors and the header of a shard.

    Args:
        settings: digest of the index's settings.
        shard: its number.
        images: in order.
    """
    listed = list(images)
    tensors = {
        name: torch.cat([image.parts[name] for image in listed if name in image.parts]).contiguous()
        for name in sorted({name for image in listed for name in image.parts})
    }
    if "run_ends" in tensors:
        tensors["run_ends"] = tensors["run_ends"].cumsum(0)
    by_image = (CONTEXT, TRUE_CONTEXT, VALUES)
    checks = {name: check_sum(tensor) for name, tensor in tensors.items() if not name.startswith(by_image)}
    return tensors, Header(
        settings, shard, tuple(image.entry for image in listed), tuple(unreadable), checks,
        {name: tensor.numel() * tensor.element_size() for name, tensor in tensors.items()},
    )  # fmt: skip
