#!/usr/bin/env python3
"""Draw the miniature world into a folder: 4000 training and 200 validation images, about 100 MB."""

import os
from pathlib import Path

from maft.data.miniature import write_seen_masks
from maft.errors import ToolParser, run_tool
from maft.miniature import DEFAULT_COUNTS, materialise


def main() -> None:
    default = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")) / "miniature"
    parser = ToolParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=default, help=f"folder to draw into (default: {default})")
    parser.add_argument("--seed", type=int, default=0)
    for split, count in DEFAULT_COUNTS.items():
        parser.add_argument(f"--{split}", type=int, default=count, help=f"number of {split} images (default: {count})")
    arguments = parser.parse_args()
    for split in DEFAULT_COUNTS:
        folder = materialise(arguments.root, split, getattr(arguments, split), seed=arguments.seed, progress=True)
        print(f"{split}: {folder}")
    write_seen_masks(arguments.root)


if __name__ == "__main__":
    run_tool(main)
