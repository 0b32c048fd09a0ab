"""Bring a downloaded dataset into the form that is read here; datasets/README.md says what to download.

What is there already is kept, so an interrupted run is simply started again.
"""

from __future__ import annotations

import argparse
import importlib
import os
from collections.abc import Sequence
from pathlib import Path

from maft.errors import ToolParser

# Dataset -> its module of maft.data.preparation, and what it is.
DATASETS = {
    "coco_stuff": ("coco", "COCO-Stuff-164k"),
    "coco_panoptic": ("coco", "the semantic form of COCO panoptic (133 classes)"),
    "ade150": ("ade", "ADE20K-150: semantic, panoptic and instance"),
    "ade847": ("ade", "ADE20K-847"),
    "pascal_context": ("pascal", "Pascal Context with 59 and 459 classes"),
    "voc": ("pascal", "Pascal VOC 2012 (20 classes, and 21 with background)"),
    "cityscapes": ("cityscapes", "Cityscapes (19 classes)"),
    "mapillary": ("mapillary", "Mapillary Vistas 1.2 (65 classes): checks it, and makes lacking panoptic annotation"),
}
MINIATURE = "draw the miniature world: 4000 training and 200 validation images, about 100 MB"
# Those of maft.miniature, which draws.
COUNTS = {"train": 4000, "val": 200}


def parser() -> ToolParser:
    tool = ToolParser(prog="maft prepare", description=__doc__)
    sets = tool.add_subparsers(dest="dataset", required=True, metavar="DATASET")
    for name, (_, text) in DATASETS.items():
        one = sets.add_parser(name, help=text, description=f"{text}.")
        one.add_argument("--root", type=Path, metavar="DIR", help="folder of all datasets (default: see below)")
        one.add_argument("--splits", nargs="+", choices=("train", "val"), default=("train", "val"))
        one.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default %(default)s)")
        one.epilog = "The default folder is that of the environment variable DETECTRON2_DATASETS, else ./datasets."
    world = sets.add_parser("miniature", help=MINIATURE, description=f"{MINIATURE}.")
    world.add_argument("--root", type=Path, metavar="DIR", help="default: miniature in the folder of all datasets")
    world.add_argument("--seed", type=int, default=0)
    for split, count in COUNTS.items():
        world.add_argument(f"--{split}", type=int, default=count, help=f"number of {split} images (default: {count})")
    return tool


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parser().parse_args(argv)
    if arguments.dataset == "miniature":
        _draw(arguments)
        return

    from maft.data.catalog import datasets_root
    from maft.data.preparation.command import run

    module = importlib.import_module(f"maft.data.preparation.{DATASETS[arguments.dataset][0]}")
    prepare = getattr(module, f"prepare_{arguments.dataset}")
    for count in run(prepare, arguments.root or datasets_root(), arguments.splits, arguments.workers):
        print(count)


def _draw(arguments: argparse.Namespace) -> None:
    from maft.data.catalog import datasets_root
    from maft.data.miniature import write_seen_masks
    from maft.miniature import materialise

    root = arguments.root or datasets_root() / "miniature"
    for split in COUNTS:
        folder = materialise(root, split, getattr(arguments, split), seed=arguments.seed, progress=True)
        print(f"{split}: {folder}")
    write_seen_masks(root)
