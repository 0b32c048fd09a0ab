#!/usr/bin/env python3
"""Segment pictures with your own words.

Writes for every image: <name>_overlay.png (labels with a legend), <name>_labels.png (label map, index into the class
names; 255, or 65535 with more than 255 names, where nothing was found) and <name>.json (areas and scores). With
--things also <name>_panoptic.png (segment id = R + 256 G + 65536 B, 0 for none), its segments in the .json.
"""

import argparse
import errno
import itertools
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from maft.data.label_sets import label_set, label_set_names
from maft.data.outputs import check_outputs
from maft.data.reading import panoptic_colours
from maft.errors import ToolParser, UserError, first_line, run_tool
from maft.files import atomic_path, write_json_atomic
from maft.predictor import Prediction, Predictor, thing_flags

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"}


def parse_arguments() -> argparse.Namespace:
    parser = ToolParser(description=__doc__)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="YAML config, or a checkpoint")
    parser.add_argument(
        "--input", required=True, nargs="+", metavar="IMG", help="images, folders, or - for a list on stdin"
    )
    words = parser.add_mutually_exclusive_group()
    words.add_argument("--class-names", nargs="+", metavar="NAME", help="your words (default: the training vocabulary)")
    words.add_argument("--label-set", choices=label_set_names(), help="the words of a label set")
    countable = parser.add_mutually_exclusive_group()
    countable.add_argument(
        "--things", nargs="+", metavar="NAME", help="panoptic segments too: which of the words are countable"
    )
    countable.add_argument("--all-things", action="store_true", help="panoptic segments too: all words are countable")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder to write to")
    parser.add_argument("opts", nargs="*", default=[], metavar="KEY VALUE", help="config overrides")
    return parser.parse_intermixed_args()


def find_images(inputs: list[str]) -> list[Path]:
    """Expands folders and ``-`` (one path per line of standard input)."""
    paths: list[Path] = []
    for item in inputs:
        if item == "-":
            paths += listed_images()
        elif Path(item).is_dir():
            paths += sorted(path for path in Path(item).iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
        else:
            paths.append(Path(item))
    if not paths:
        raise UserError(f"No image in {' '.join(inputs)}: give image files or a folder that holds some.")
    return paths


def listed_images() -> list[Path]:
    """The paths on standard input, one a line; none where it is closed."""
    try:
        lines = [line.strip() for line in sys.stdin or () if line.strip()]
        if any("\0" in line for line in lines):
            raise ValueError("it holds a null byte")
    except (OSError, ValueError) as error:
        raise UserError(
            f"The list on standard input cannot be read ({first_line(error)}): give one path a line."
        ) from error
    return [Path(line) for line in lines]


def write_prediction(prediction: Prediction, folder: Path, name: str) -> None:
    """Writes the files of one image."""
    # The highest value is kept for pixels where nothing was found.
    depth = np.uint8 if len(prediction.class_names) <= 255 else np.uint16
    pictures = {"overlay": prediction.overlay(), "labels": prediction.labels.astype(depth)}
    record = {"class_names": list(prediction.class_names), "segments": prediction.summary()}
    if prediction.segment_ids is not None:
        pictures["panoptic"] = panoptic_colours(prediction.segment_ids)
        record["panoptic"] = list(prediction.segments)
    for suffix, picture in pictures.items():
        with atomic_path(folder / f"{name}_{suffix}.png") as temporary:
            Image.fromarray(picture).save(temporary)
    write_json_atomic(folder / f"{name}.json", record)


def output_names(paths: list[Path]) -> list[str]:
    """One file name per image, made unique where two folders hold images of one name."""
    taken: set[str] = set()
    names: list[str] = []
    for path in paths:
        numbered = (f"{path.stem}_{number}" for number in itertools.count(2))
        name = next(name for name in itertools.chain([path.stem], numbered) if name not in taken)
        taken.add(name)
        names.append(name)
    return names


def main() -> int:
    arguments = parse_arguments()
    paths = find_images(arguments.input)
    names = output_names(paths)
    things = "all" if arguments.all_things else arguments.things
    endings = ["_overlay.png", "_labels.png", ".json", *(["_panoptic.png"] if things is not None else [])]
    outputs = [arguments.output / (name + ending) for name, ending in itertools.product(names, endings)]
    check_outputs(outputs, paths, "--output")
    predictor = Predictor.from_path(arguments.config_file, arguments.opts)
    predictor.model.proposer.check_records([{"file_name": str(path)} for path in paths])
    # Words that cannot be used are no fault of the images.
    given = label_set(arguments.label_set).names() if arguments.label_set else arguments.class_names
    words = predictor.prepare(given)
    if things is not None:
        thing_flags(words, things)
    failures = []
    for path, name in tqdm(list(zip(paths, names, strict=True)), unit="image", disable=None):
        try:
            prediction = predictor(path, given, things)
        except UserError as error:
            failures.append(f"{path}: {error}")
            continue
        try:
            write_prediction(prediction, arguments.output, name)
        except (UserError, OSError) as error:
            # A full disk or a folder that takes no files ends the run, a name that cannot be written its picture.
            reason = error if isinstance(error, OSError) else error.__cause__
            if reason is not None and getattr(reason, "errno", None) != errno.ENAMETOOLONG:
                raise
            failures.append(f"{path}: {error}")
    print(f"{len(paths) - len(failures)} of {len(paths)} images written to {arguments.output}")
    for failure in failures:
        print(f"skipped: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    run_tool(main)
