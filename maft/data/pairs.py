"""Region-noun pairs as a training dataset, ``pairs:/path/to/pairs.tsv`` in ``DATASETS.TRAIN``."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms import functional as TF

from maft.errors import UserError

# Background of the crops in OVSeg's own data files; not CLIP's mean, which its inference fills crops with.
OFFICIAL_BACKGROUND = (124, 116, 103)

Box = tuple[int, int, int, int]


class RegionTransform:
    """Random crop for training or centre crop for evaluation, the same for region and mask.

    Args:
        size: side of the square output in pixels.
        mean, std: pixel normalisation on the 0..255 scale, 3 values each.
        train: random crop of 90 to 100 % of the area, aspect ratio 3/4 to 4/3; otherwise the short side is resized to
            ``size`` and the centre kept.
        background: official behaviour for OVSeg's data files, which have no masks: after resizing, pixels of exactly
            this colour are background. None: the mask travels with the region.
    """

    def __init__(
        self,
        size: int,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        train: bool,
        background: tuple[int, int, int] | None = None,
    ) -> None:
        self.size = size
        self.mean = torch.tensor(list(mean), dtype=torch.float32).view(3, 1, 1)
        self.std = torch.tensor(list(std), dtype=torch.float32).view(3, 1, 1)
        self.train = train
        self.background = background

    def __call__(self, region: Image.Image, mask: Image.Image | None = None) -> tuple[Tensor, Tensor]:
        """Transforms one region.

        Args:
            region: RGB.
            mask: any mode whose non-zero pixels belong to the region, of the region's size; None: all of them.

        Returns:
            normalised pixels (3, size, size) float32 and the mask (1, size, size) float32 of zeros and ones.
        """
        if self.train:
            top, left, height, width = RandomResizedCrop.get_params(region, [0.9, 1.0], [3 / 4, 4 / 3])
            return self.crop(region, mask, (top, left, height, width))
        return self._finish(
            TF.center_crop(TF.resize(region, [self.size], InterpolationMode.BICUBIC), [self.size, self.size]),
            None
            if mask is None
            else TF.center_crop(TF.resize(mask, [self.size], InterpolationMode.NEAREST), [self.size, self.size]),
        )

    def crop(self, region: Image.Image, mask: Image.Image | None, box: Box) -> tuple[Tensor, Tensor]:
        """The same with a given box (top, left, height, width) in pixels of the region."""
        size = [self.size, self.size]
        return self._finish(
            TF.resized_crop(region, *box, size, InterpolationMode.BICUBIC),
            None if mask is None else TF.resized_crop(mask, *box, size, InterpolationMode.NEAREST),
        )

    def _finish(self, region: Image.Image, mask: Image.Image | None) -> tuple[Tensor, Tensor]:
        pixels = torch.from_numpy(np.array(region.convert("RGB"))).permute(2, 0, 1)
        if self.background is not None:
            shown = (pixels != pixels.new_tensor(self.background).view(3, 1, 1)).any(0, keepdim=True)
        elif mask is not None:
            shown = torch.from_numpy(np.array(mask) != 0)[None]
        else:
            shown = torch.ones_like(pixels[:1], dtype=torch.bool)
        return (pixels - self.mean) / self.std, shown.float()


PAIRS_PREFIX = "pairs:"
MASK_SOURCES = ("alpha", "colour")


def read_pairs(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The rows of a table of the miner, or of OVSeg's own data files: dicts with ``file_name`` and ``title``.

    Args:
        path: tab-separated text whose header names at least filepath and title; relative paths start at its folder.

    Raises:
        UserError: the table is missing, empty or without these columns, or regions that it names are missing.
    """
    table = Path(path).expanduser()
    try:
        with table.open(encoding="utf-8", newline="") as stream:
            reader = csv.DictReader(stream, delimiter="\t")
            columns = reader.fieldnames or []
            if not {"filepath", "title"} <= set(columns):
                raise UserError(
                    f"Table {table} has columns {', '.join(columns) or 'none'} and needs filepath and title, separated "
                    "by tabs."
                )
            rows = [(str(table.parent / row["filepath"]), row["title"]) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"Table of pairs {table} cannot be read ({error}): mine it with tools/mine_mask_nouns.py."
        ) from error
    if not rows:
        raise UserError(f"Table {table} holds no pair: mine it from images whose captions have nouns.")
    missing = _missing([name for name, _ in rows])
    if missing:
        raise UserError(
            f"{len(missing)} regions that table {table} names are missing, the first is {missing[0]}: move the table "
            "together with its regions, or mine again."
        )
    return [{"file_name": name, "title": title} for name, title in rows]


def _missing(names: list[str]) -> list[str]:
    # Listing folders is much faster than asking for hundreds of thousands of files one by one.
    listed = {
        folder: set(os.listdir(folder)) if os.path.isdir(folder) else set()
        for folder in set(map(os.path.dirname, names))
    }
    return [name for name in dict.fromkeys(names) if os.path.basename(name) not in listed[os.path.dirname(name)]]


class RegionPairMapper:
    """Reads a region with its mask and crops both alike at random (OVSeg section 3.3).

    Args:
        size: side of the output in pixels, the CLIP's input size.
        mask_source: "alpha": the mask is the region file's alpha channel. "colour": the rule of the official release
            for its own data files, which have no masks (see `RegionTransform`).
        template: sentence around the title, ``{}`` where it goes.

    A call takes a dict with ``file_name`` and ``title`` and returns one with ``region`` (3, size, size) uint8 RGB,
    ``mask`` (1, size, size) bool and ``text``.

    Raises:
        UserError: an option is wrong; a region cannot be read, or has no alpha channel though it should.
    """

    def __init__(self, size: int, *, mask_source: str = "alpha", template: str = "{}") -> None:
        if mask_source not in MASK_SOURCES:
            raise UserError(f"INPUT.REGIONS.MASK is {mask_source!r}; choose one of: {', '.join(MASK_SOURCES)}.")
        if template.count("{}") != 1:
            raise UserError(f"INPUT.REGIONS.TEMPLATE {template!r} needs exactly one {{}} where the title goes.")
        self.mask_source, self.template = mask_source, template
        # Pixels stay in 0..255 here; the model, which knows its CLIP, normalises them.
        self.transform = RegionTransform(
            size,
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
            train=True,
            background=OFFICIAL_BACKGROUND if mask_source == "colour" else None,
        )

    @classmethod
    def from_config(cls, cfg: CfgNode) -> RegionPairMapper:
        """The mapper that ``cfg.INPUT.REGIONS`` describes."""
        options = cfg.INPUT.REGIONS
        return cls(options.SIZE, mask_source=options.MASK, template=options.TEMPLATE or "{}")

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        region, mask = self._read(record["file_name"])
        pixels, shown = self.transform(region, mask)
        return {
            "region": pixels.to(torch.uint8),
            "mask": shown.bool(),
            "text": self.template.replace("{}", record["title"]),
            "file_name": record["file_name"],
        }

    def _read(self, path: str) -> tuple[Image.Image, Image.Image | None]:
        try:
            with Image.open(path) as file:
                file.load()
                if self.mask_source == "colour":
                    return file.convert("RGB"), None
                if "A" not in file.getbands():
                    raise UserError(
                        f"Region {path} has no alpha channel and so no mask: mine it with tools/mine_mask_nouns.py, or "
                        "set INPUT.REGIONS.MASK colour for the data files of the official release."
                    )
                values = np.array(file)
        except (OSError, UnidentifiedImageError, SyntaxError) as error:
            raise UserError(f"Region {path} cannot be read ({error}): mine it again.") from error
        # Pillow multiplies colours by alpha when it resizes RGBA, which would blacken the background.
        return Image.fromarray(values[..., :3]), Image.fromarray(values[..., 3])
