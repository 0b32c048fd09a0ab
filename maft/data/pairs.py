"""Region-noun pairs as a training dataset, ``pairs:/path/to/pairs.tsv`` in ``DATASETS.TRAIN``."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms import functional as TF

from maft.data.decoding import opened, upright_rgb
from maft.data.reading import Record, inside, read_map, reading
from maft.errors import UserError, first_line, shown
from maft.structures import as_clip_reads

# Background of the crops in OVSeg's own data files; not CLIP's mean, which its inference fills crops with.
OFFICIAL_BACKGROUND = (124, 116, 103)
PAIRS_PREFIX = "pairs:"


def read_pairs(path: str | os.PathLike[str]) -> list[Record]:
    """Records of a table of the miner, or of OVSeg's own data files: dicts with ``file_name`` and ``title``.

    Args:
        path: tab-separated text, one pair a line and quotes without meaning, whose header names at least filepath and
            title; the paths start at its folder and do not leave it.

    Raises:
        UserError: the table is missing, empty or without these columns, a line is cut or names a file elsewhere, or
            regions are missing.
    """
    table = Path(os.path.expanduser(path))
    try:
        with table.open(encoding="utf-8-sig") as stream:
            header, *rows = [line.rstrip("\n").split("\t") for line in stream] or [[]]
    except (OSError, ValueError) as error:
        raise UserError(
            f"Table of pairs {table} cannot be read ({first_line(error)}): mine it with maft mine."
        ) from error
    if not header.count("filepath") == header.count("title") == 1:
        raise UserError(
            f"Table {table} has columns {', '.join(header) or 'none'} and needs one filepath and one title, separated "
            "by tabs."
        )
    file, title = header.index("filepath"), header.index("title")
    records = []
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header) or not row[file].strip() or not says_something(row[title]):
            raise UserError(
                f"Line {number} of table {table} holds {shown(row)} where {', '.join(header)} should stand, separated "
                "by tabs: correct or remove it."
            )
        records.append({"file_name": str(inside(table.parent, row[file], table)), "title": row[title]})
    if not records:
        raise UserError(f"Table {table} holds no pair: mine it from images whose captions have nouns.")
    missing = _missing([record["file_name"] for record in records])
    if missing:
        raise UserError(
            f"{len(missing)} regions that table {table} names are missing, the first is {missing[0]}: move the table "
            "together with its regions, or mine again."
        )
    return records


def says_something(title: str) -> bool:
    """Whether CLIP reads anything of a title but commas."""
    return bool(as_clip_reads(title).strip(" ,"))


def _missing(names: list[str]) -> list[str]:
    # Listing folders is much faster than asking for hundreds of thousands of files one by one.
    listed = {
        folder: set(os.listdir(folder)) if os.path.isdir(folder) else set()
        for folder in set(map(os.path.dirname, names))
    }
    return [name for name in dict.fromkeys(names) if os.path.basename(name) not in listed[os.path.dirname(name)]]


class RegionPairMapper:
    """Reads a region with its mask and crops both alike at random, as OVSeg fine-tunes CLIP.

    Args:
        size: side of the output in pixels, the CLIP's input size.
        mask_source: "alpha": the mask is the region file's alpha channel. "colour": the rule of the official release
            for its own data files, which have no masks: after resizing, pixels of exactly `OFFICIAL_BACKGROUND` are
            background.
        template: sentence around the title, ``{}`` where it goes.

    A call takes a record with ``file_name`` and ``title`` and returns one with ``region`` (3, size, size) uint8 RGB,
    ``mask`` (1, size, size) bool and ``text``. Pixels stay in 0..255: the model, which knows its CLIP, normalises them.

    Raises:
        UserError: an option is wrong; a region cannot be read, or its alpha channel is missing or 0 everywhere.
    """

    def __init__(self, size: int, *, mask_source: str = "alpha", template: str = "{}") -> None:
        if template.count("{}") != 1:
            raise UserError(f"INPUT.REGIONS.TEMPLATE {template!r} needs exactly one {{}} where the title goes.")
        self.size, self.mask_source, self.template = size, mask_source, template

    @classmethod
    def from_config(cls, cfg: CfgNode) -> RegionPairMapper:
        """The mapper that ``cfg.INPUT.REGIONS`` describes."""
        options = cfg.INPUT.REGIONS
        return cls(options.SIZE, mask_source=options.MASK, template=options.TEMPLATE or "{}")

    def __call__(self, record: Record) -> Record:
        region, mask = self._read(record["file_name"])
        # 90 to 100 % of the area.
        top, left, height, width = RandomResizedCrop.get_params(region, [0.9, 1.0], [3 / 4, 4 / 3])
        pixels, shown = self.crop(region, mask, (top, left, height, width))
        text = self.template.replace("{}", record["title"])
        return {"region": pixels, "mask": shown, "text": text, "file_name": record["file_name"]}

    def crop(
        self, region: Image.Image, mask: Image.Image | None, box: tuple[int, int, int, int]
    ) -> tuple[Tensor, Tensor]:
        """Cuts a box out of a region and its mask and resizes both.

        Args:
            region: RGB.
            mask: any mode whose non-zero pixels belong to the region, of the region's size; None: the colours tell.
            box: top, left, height, width in pixels of the region.

        Returns:
            pixels (3, size, size) uint8 and the mask (1, size, size) bool.
        """
        size = [self.size, self.size]
        pixels = TF.pil_to_tensor(TF.resized_crop(region, *box, size, InterpolationMode.BICUBIC))
        if mask is None:
            background = pixels.new_tensor(OFFICIAL_BACKGROUND).view(3, 1, 1)
            return pixels, (pixels != background).any(0, keepdim=True)
        return pixels, TF.pil_to_tensor(TF.resized_crop(mask, *box, size, InterpolationMode.NEAREST)) != 0

    def _read(self, path: str) -> tuple[Image.Image, Image.Image | None]:
        kind, advice = "Region", "mine it again"
        with reading(path, kind, advice), opened(path) as file:
            if self.mask_source == "colour":
                return Image.fromarray(upright_rgb(file)), None
            if file.mode not in ("LA", "RGBA"):
                raise UserError(
                    "it has no alpha channel and so no mask: mine it with maft mine, or set "
                    "INPUT.REGIONS.MASK colour for the data files of the official release."
                )
        values = read_map(path, kind, advice)
        if not values[..., -1].any():
            raise UserError(f"{kind} {path} is transparent everywhere, so that its mask is empty: remove its pairs.")
        # Pillow multiplies colours by alpha when it resizes RGBA, which would blacken the background.
        pixels = np.broadcast_to(values[..., :-1], (*values.shape[:2], 3))
        return Image.fromarray(np.ascontiguousarray(pixels)), Image.fromarray(np.ascontiguousarray(values[..., -1]))
