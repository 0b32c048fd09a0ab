"""COCO-Stuff-164k: stuffthingmaps -> 171 contiguous labels, and the 156 seen classes of the zero-shot split."""

from __future__ import annotations

from maft.data.catalog import dataset
from maft.data.preparation.command import Count, Options
from maft.data.preparation.jobs import convert_labels, read_map, require, require_files, stems

_ROWS = {"train": ("coco_stuff_train", "coco_stuff_train_seen"), "val": ("coco_stuff_val",)}


def prepare(options: Options) -> list[Count]:
    """Converts ``coco/stuffthingmaps``.

    Raises:
        UserError: the download is incomplete or damaged.
    """
    coco = options.root / "coco"
    needed = {}
    for split in options.splits:
        needed[coco / f"{split}2017"] = f"{split}2017.zip"
        needed[coco / "stuffthingmaps" / f"{split}2017"] = "stuffthingmaps_trainval2017.zip"
    require(dataset("coco_stuff_val"), needed)
    counts = []
    for split in options.splits:
        raw = coco / "stuffthingmaps" / f"{split}2017"
        images = stems(coco / f"{split}2017", ".jpg")
        require_files(dataset("coco_stuff_val"), (raw / f"{stem}.png" for stem in images), "stuffthingmaps")
        for name in _ROWS[split]:
            counts.append(
                convert_labels(
                    dataset(name),
                    options.root,
                    {stem: raw / f"{stem}.png" for stem in images},
                    read_map,
                    workers=options.workers,
                    drop_empty=split == "train",
                )
            )
    return counts
