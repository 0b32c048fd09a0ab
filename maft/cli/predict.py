"""Name what is in your images, with your words.

Writes for every image <name>_overlay.png (what was found, with names), <name>_labels.png (index into the words; 255, or
65535 with more than 255 words, where nothing was found) and <name>.json (areas, confidences, masks). With --things also
<name>_panoptic.png (segment id = R + 256 G + 65536 B, 0 for none), and segments and instances in the .json.
"""

from __future__ import annotations

import argparse
import errno
import itertools
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from maft.cli.arguments import add_model, chosen_words, model_config, numbers, split_overrides
from maft.errors import ToolParser, UserError, first_line, printable

EXAMPLES = """examples:
  maft predict photo.jpg --model maft-vitb16 --words cat "coffee table" window
  maft predict photos/ --model output/my_run/model_final --words "sofa, couch" cat --things cat --output result
  maft predict https://example.org/photo.jpg --model maft-vitb16 --label-set coco_panoptic_133 --none-below 0.4
  maft predict photo.jpg --model maft-vitb16 --box 40,60,310,280 --point 420,150 --words cat sofa \\
      MODEL.PROPOSER.NAME SAM MODEL.ENSEMBLE.NAME ClassifierAlone

Config overrides (KEY VALUE ...) may stand behind the images or any other list.
"""

# Lists of words, which would take KEY VALUE pairs behind them for words.
_LISTS = ("images", "input", "words", "things", "format")


def parser() -> ToolParser:
    tool = ToolParser(prog="maft predict", description=__doc__, epilog=EXAMPLES)
    tool.add_argument(
        "images", nargs="*", metavar="IMG", help="images, folders, https addresses, or - for a list on stdin"
    )
    tool.add_argument("--input", nargs="+", default=[], metavar="IMG", help="the same")
    add_model(tool)
    words = tool.add_mutually_exclusive_group()
    words.add_argument(
        "--words", "--class-names", nargs="+", metavar="NAME", help="your words (default: those of the training)"
    )
    words.add_argument("--label-set", metavar="NAME", help="the words of a label set, such as ade20k_150")
    words.add_argument("--vocabulary", metavar="FILE", help="words and examples of a file of maft vocabulary")
    countable = tool.add_mutually_exclusive_group()
    countable.add_argument(
        "--things", nargs="+", metavar="NAME", help="segments and instances too: which of the words are countable"
    )
    countable.add_argument("--all-things", action="store_true", help="the same, and all words are countable")
    tool.add_argument(
        "--box", action="append", type=numbers("X0,Y0,X1,Y1"), metavar="X0,Y0,X1,Y1",
        help="name this object of one image instead of all there is, with a model on SAM's masks; may be repeated",
    )  # fmt: skip
    tool.add_argument(
        "--point", action="append", type=numbers("X,Y"), metavar="X,Y", help="the same for the object at a pixel"
    )
    tool.add_argument("--none-below", type=float, default=0.0, metavar="X", help="less sure than X (0..1) is unknown")
    tool.add_argument(
        "--alpha", type=float, default=1.0, metavar="A",
        help="answer at most this share (0..1) of the words that an image lacks, on average over images like those of "
        "maft calibrate; the rest is unknown (default: 1, no bound)",
    )  # fmt: skip
    tool.add_argument(
        "--output",
        type=Path,
        default=Path("predictions"),
        metavar="DIR",
        help="folder to write to (default: predictions)",
    )
    tool.add_argument(
        "--format", nargs="+", metavar="KIND", help="what to write: overlay, labels, panoptic, json (default: all)"
    )
    tool.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1, mps (default: the config's)")
    return tool


def main(argv: Sequence[str] | None = None) -> int:
    tool = parser()
    arguments = _parsed(tool, argv)

    from maft.data.outputs import check_outputs
    from maft.predictor import Predictor, thing_flags
    from maft.predictor.calibrated import rejection_of
    from maft.predictor.prediction import ENDINGS
    from maft.predictor.prompts import check_asked

    things = "all" if arguments.all_things else arguments.things
    formats = _formats(tool, arguments, things is not None)
    images = find_images(arguments.images + arguments.input)
    if arguments.box or arguments.point:
        _check_shown(tool, arguments, len(images), things is not None)
    names = output_names(images)
    endings = [ending for kind in formats for ending in ENDINGS[kind]]
    outputs = [arguments.output / (name + ending) for name, ending in itertools.product(names, endings)]
    check_outputs(outputs, images, "--output")
    # Words that cannot be used are no fault of an image, nor of the model.
    words = chosen_words(arguments)
    predictor = Predictor(model_config(arguments, arguments.opts), device=arguments.device)
    if arguments.box or arguments.point:
        # A model that takes none is no fault of the image.
        test = predictor.cfg.TEST
        averaged = test.AUG.ENABLED or test.SLIDING_WINDOW.ENABLED
        check_asked(predictor.model.proposer, averaged=averaged, several=False, things=things)
    predictor.model.proposer.check_records([{"file_name": image} for image in images])
    vocabulary = predictor.prepare(words)
    # No image has a part in what a calibration bounds.
    rejection_of(predictor, vocabulary, arguments.none_below, arguments.alpha)
    if things is not None:
        thing_flags(vocabulary, things)
    failures = 0
    for number, (image, name) in enumerate(zip(images, names, strict=True), start=1):
        prediction = None
        try:
            prediction = predictor(
                image, vocabulary, things, none_below=arguments.none_below, alpha=arguments.alpha,
                boxes=arguments.box, points=arguments.point,
            )  # fmt: skip
            prediction.save(arguments.output, name, formats)
        except (UserError, OSError) as error:
            if prediction is not None and _would_meet_the_next(error):
                raise
            failures += 1
            print(printable(f"skipped: {image}: {error}"), file=sys.stderr)
            continue
        print(printable(f"[{number}/{len(images)}] {image}: {prediction.described()}"), flush=True)
        for given, found in zip((arguments.box or []) + (arguments.point or []), prediction.instances or ()):
            place = ",".join(f"{one:g}" for one in given)
            said = f"  {place}: {found.name}, score {found.score:.2f}, {found.mask.sum()} pixels"
            print(printable(said), flush=True)
    print(f"{len(images) - failures} of {len(images)} images written to {arguments.output}")
    return 1 if failures else 0


def _parsed(tool: ToolParser, argv: Sequence[str] | None) -> argparse.Namespace:
    arguments = tool.parse_intermixed_args(argv)
    arguments.opts = split_overrides(arguments, _LISTS)
    if not arguments.images + arguments.input:
        tool.error("name an image, before --words and other lists, which take all that follows them")
    if not 0 <= arguments.none_below <= 1:
        tool.error(f"argument --none-below: {arguments.none_below} does not lie in 0 to 1")
    if not 0 < arguments.alpha <= 1:
        tool.error(f"argument --alpha: {arguments.alpha} does not lie above 0 and up to 1")
    return arguments


def _formats(tool: ToolParser, arguments: argparse.Namespace, segments: bool) -> list[str]:
    """What to write; ``segments``: whether things are named."""
    from maft.predictor.prediction import ENDINGS

    formats: list[str] = arguments.format or [kind for kind in ENDINGS if kind != "panoptic" or segments]
    if strangers := sorted(set(formats) - ENDINGS.keys()):
        tool.error(f"argument --format: there is no {strangers[0]!r}, choose some of {', '.join(ENDINGS)}")
    if "panoptic" in formats and not segments:
        tool.error("argument --format: panoptic segments need --things or --all-things")
    return formats


def _check_shown(tool: ToolParser, arguments: argparse.Namespace, images: int, segments: bool) -> None:
    """Whether objects that boxes and points show can be asked for."""
    if images > 1:
        tool.error(f"--box and --point show objects of one image, and there are {images}")
    if segments:
        tool.error("--box and --point show one object each: leave --things and --all-things out")
    if arguments.alpha != 1:
        tool.error("--alpha bounds words that are looked for, and --box and --point show objects: leave it out")


def find_images(inputs: Sequence[str]) -> list[str]:
    """Expands folders and ``-`` (one path or address per line of standard input)."""
    from maft.data.pixels import pictures_in

    found: list[str] = []
    for item in inputs:
        if item == "-":
            found += listed_images()
        elif os.path.isdir(item):
            found += map(str, pictures_in(item))
        else:
            found.append(item)
    if not found:
        raise UserError(f"No image in {' '.join(inputs)}: give image files or a folder that holds some.")
    return found


def listed_images() -> list[str]:
    """The paths on standard input, one a line; none where it is closed."""
    try:
        lines = [line.strip() for line in sys.stdin or () if line.strip()]
        if any("\0" in line for line in lines):
            raise ValueError("it holds a null byte")
    except (OSError, ValueError) as error:
        raise UserError(
            f"The list on standard input cannot be read ({first_line(error)}): give one path a line."
        ) from error
    return lines


def output_names(images: Sequence[str], reserved: Iterable[str] = ()) -> list[str]:
    """One file name per image, none of the reserved, made unique where two folders hold images of one name."""
    taken = set(reserved)
    names: list[str] = []
    for image in images:
        web = image.startswith(("https://", "http://"))
        stem = (PurePosixPath(urlsplit(image).path).stem if web else Path(image).stem) or "image"
        numbered = (f"{stem}_{number}" for number in itertools.count(2))
        name = next(name for name in itertools.chain([stem], numbered) if name not in taken)
        taken.add(name)
        names.append(name)
    return names


def _would_meet_the_next(error: UserError | OSError) -> bool:
    """Whether what could not be written is no fault of its image: a full disk, or a folder that takes no files."""
    reason = error if isinstance(error, OSError) else error.__cause__
    return reason is not None and getattr(reason, "errno", None) != errno.ENAMETOOLONG
