"""What ``maft check`` says of a dataset: counts, problems, and a contact sheet."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from maft.data.catalog import dataset
from maft.data.checking import Report
from maft.data.reading import files_by_stem, read_image, read_labels
from maft.files import atomic_path
from maft.visualize import contact_sheet, overlay


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
