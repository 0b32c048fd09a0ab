#!/usr/bin/env python3
"""Open every file of a dataset, count its labels, list what is wrong, and draw a contact sheet.

NAME is a dataset of the catalogue (coco_stuff_val), one of its aliases, or folder:/path/to/your/data. The exit status
is 1 when anything is wrong.
"""

import argparse
import io
import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from maft.data.catalog import dataset
from maft.data.checking import Report, check_dataset
from maft.data.folder import IMAGE_SUFFIXES
from maft.data.outputs import check_outputs
from maft.data.reading import files_by_stem, read_image, read_labels
from maft.errors import ToolParser, UserError, run_tool
from maft.files import atomic_path
from maft.visualize import contact_sheet, overlay


def parse_arguments() -> argparse.Namespace:
    parser = ToolParser(description=__doc__)
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("--sheet", type=Path, metavar="PNG", help="contact sheet (default: check_<name>.png)")
    parser.add_argument("--pictures", type=int, default=6, help="overlays on the sheet, 0 for none (default 6)")
    parser.add_argument("--all", action="store_true", help="list every problem instead of the first 10 of a kind")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default %(default)s)")
    return parser.parse_args()


def print_report(report: Report, show_all: bool) -> None:
    published = report.row.images_expected
    print(f"images: {report.images}" + (f" (published: {published})" if published else ""))
    print(f"label maps: {report.labels}")
    if report.sizes:
        (low_height, low_width), (high_height, high_width) = report.sizes
        print(f"sizes: {low_width}x{low_height} to {high_width}x{high_height}")
    print(f"ignored pixels: {report.ignored:.2%}")
    total = max(int(report.pixels.sum()), 1)
    print(f"\n{'id':>4} {'class':<32} {'pixels':>9} {'images':>8}")
    for index in np.argsort(-report.pixels, kind="stable"):
        if report.pixels[index]:
            name = report.names[index][:32]
            print(f"{index:>4} {name:<32} {report.pixels[index] / total:>9.4%} {report.images_with[index]:>8}")
    absent = [name for name, pixels in zip(report.names, report.pixels) if not pixels]
    if absent:
        print(f"\n{len(absent)} of {len(report.names)} classes do not occur: {'; '.join(absent[:20])}")
    kinds = defaultdict(list)
    for problem in report.problems:
        kinds[problem.kind].append(problem.text)
    for kind, texts in kinds.items():
        shown = texts if show_all else texts[:10]
        print(f"\n{kind.upper()}: {len(texts)}")
        print("\n".join(f"  {text}" for text in shown))
        if len(shown) < len(texts):
            print(f"  ... {len(texts) - len(shown)} more; --all lists them")


def draw_sheet(report: Report, count: int, path: Path) -> None:
    # Spread over the whole set: the first files of a set are often alike.
    chosen = [report.good[i] for i in np.linspace(0, len(report.good) - 1, min(count, len(report.good))).astype(int)]
    pictures = []
    for image, labels in chosen:
        values = read_labels(labels)
        pictures.append(overlay(read_image(image), values, report.names))
    with atomic_path(path) as temporary:
        Image.fromarray(contact_sheet(pictures, [Path(image).name for image, _ in chosen])).save(temporary)
    print(f"\ncontact sheet: {path}")


def inputs(name: str) -> Iterator[str]:
    """All files in the folders of a dataset."""
    row = dataset(name)
    for folder in filter(None, (row.images, row.labels, row.panoptic_root)):
        yield from files_by_stem(row.root / folder, "").values()


def main() -> int:
    arguments = parse_arguments()
    # File names need not be text.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    if arguments.workers < 1:
        raise UserError(f"--workers {arguments.workers} is too small.")
    if arguments.pictures < 0:
        raise UserError(f"--pictures {arguments.pictures} is too small.")
    stem = "".join(letter if letter.isalnum() else "_" for letter in arguments.name.rstrip("/").split("/")[-1])
    sheet = arguments.sheet or Path(f"check_{stem}.png")
    if sheet.suffix.lower() not in IMAGE_SUFFIXES:
        raise UserError(f"--sheet {sheet} does not end in {', '.join(IMAGE_SUFFIXES)}: give the name of a picture.")
    if arguments.pictures:
        check_outputs([sheet], inputs(arguments.name), "--sheet")
    report = check_dataset(arguments.name, workers=arguments.workers)
    print_report(report, arguments.all)
    if arguments.pictures and report.good:
        draw_sheet(report, arguments.pictures, sheet)
    print(f"\n{len(report.problems)} problems" if report.problems else "\nnothing is wrong")
    return 1 if report.problems else 0


if __name__ == "__main__":
    run_tool(main)
