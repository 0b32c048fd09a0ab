"""Cityscapes (fine annotation): labelIds -> the 19 training ids."""

from __future__ import annotations

from maft.data.catalog import dataset
from maft.data.preparation.command import Count, Options
from maft.data.preparation.jobs import convert_labels, read_map, require, require_files, stems


def prepare(options: Options) -> list[Count]:
    """Converts ``cityscapes/gtFine/*/*/*_gtFine_labelIds.png``, beside the originals.

    Raises:
        UserError: the download is incomplete or damaged.
    """
    city = options.root / "cityscapes"
    needed = {}
    for split in options.splits:
        needed[city / "leftImg8bit" / split] = "leftImg8bit_trainvaltest.zip"
        needed[city / "gtFine" / split] = "gtFine_trainvaltest.zip"
    require(dataset("cityscapes_val"), needed)
    counts = []
    for split in options.splits:
        row = dataset(f"cityscapes_{split}")
        truth = city / "gtFine" / split
        images = stems(city / "leftImg8bit" / split, "_leftImg8bit.png")
        sources = {stem: truth / f"{stem}_gtFine_labelIds.png" for stem in images}
        require_files(row, sources.values(), "label maps")
        counts.append(convert_labels(row, options.root, sources, read_map, workers=options.workers, drop_empty=False))
    return counts
