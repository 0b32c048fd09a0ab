"""Ask an index for masks, labels and areas, with any words and without its images.

Prints the masks of all images that show any of WORDS, best first. The words compete with each other, with those of
--not, and with the classes that the model was trained on, or those of --label-set or --vocabulary in their place.

With --output it writes, as --format says: ranking (ranking.json, and ranking.png with the masks cut out of their
images), coco (coco.json: the masks in COCO's form), and for every image overlay, labels, panoptic and json as maft
predict does with the same words. Pictures (overlay, ranking.png) need the images where they were, as they were.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from maft.cli.predict import output_names
from maft.errors import ToolParser, UserError, printable, shown

if TYPE_CHECKING:
    from maft.index.index import Index
    from maft.index.ranking import FoundMask
    from maft.vocabulary import Vocabulary

EXAMPLES = """examples:
  maft ask photos.index cat "coffee table" --not dog --top 20
  maft ask photos.index cat --output result                           the masks as a picture, and as COCO's json
  maft ask photos.index --label-set ade20k_150 --areas                pixels of every class in all images
  maft ask photos.index cat sofa wall --things cat --output result --format overlay labels panoptic
  maft ask photos.index --like 12,3                                   masks like mask 3 of image 12
"""
_RANKING = ("ranking", "coco")
_OF_IMAGES = ("overlay", "labels", "panoptic", "json")


def parser() -> ToolParser:
    tool = ToolParser(prog="maft ask", description=__doc__, epilog=EXAMPLES)
    tool.add_argument("index", type=Path, metavar="INDEX", help="folder that maft index wrote")
    tool.add_argument("words", nargs="*", metavar="WORDS", help="what to find; commas separate synonyms of one class")
    tool.add_argument(
        "--not",
        nargs="+",
        default=[],
        dest="not_words",
        metavar="WORD",
        help="masks that rather show these are left out",
    )
    others = tool.add_mutually_exclusive_group()
    others.add_argument("--label-set", metavar="NAME", help="what else there is; without WORDS, all that is asked for")
    others.add_argument("--vocabulary", type=Path, metavar="FILE", help="the same from a file, with its examples")
    others.add_argument("--alone", action="store_true", help="nothing else: the words compete with each other")
    tool.add_argument("--like", metavar="IMAGE,MASK", help="masks like this one instead, by the numbers of a ranking")
    tool.add_argument("--top", type=int, default=20, metavar="K", help="how many masks (default: 20)")
    tool.add_argument(
        "--engine", default="exact", metavar="NAME",
        help="exact: all masks are compared (default); faiss: those that a vector index finds, for millions of masks",
    )  # fmt: skip
    tool.add_argument("--areas", action="store_true", help="pixels of each word in all images, from their labels")
    countable = tool.add_mutually_exclusive_group()
    countable.add_argument(
        "--things", nargs="+", metavar="NAME", help="which words are countable, for panoptic and json"
    )
    countable.add_argument("--all-things", action="store_true", help="all of them")
    tool.add_argument("--output", type=Path, metavar="DIR", help="folder to write to (default: nothing is written)")
    tool.add_argument(
        "--format", nargs="+", metavar="KIND",
        help="what to write: ranking, coco (both by default), overlay, labels, panoptic, json",
    )  # fmt: skip
    tool.add_argument("--device", default="cpu", metavar="NAME", help="where words are compared (default: cpu)")
    return tool


def main(argv: Sequence[str] | None = None) -> int:
    tool = parser()
    arguments = tool.parse_intermixed_args(argv)
    formats = _formats(tool, arguments)
    if bool(arguments.like) == bool(arguments.words or arguments.label_set or arguments.vocabulary):
        tool.error("say what to find: WORDS, --label-set or --vocabulary; or a mask with --like")
    _check_fit(tool, arguments, formats)

    started = time.perf_counter()
    from maft.index import Index

    if arguments.output:
        _check_folder(arguments)
    seconds = {"imports": time.perf_counter() - started}
    index = Index(arguments.index, device=arguments.device)
    seconds["opening"] = time.perf_counter() - started - seconds["imports"]
    if arguments.like:
        found, labelled = _like(tool, arguments, index), None
        seconds["comparing masks"] = time.perf_counter() - started - sum(seconds.values())
    else:
        found, labelled = _asked(arguments, index, seconds, started)
    print(*_ranking_lines(found), sep="\n")
    if labelled is not None and (arguments.areas or set(formats) & set(_OF_IMAGES)):
        _tell_of_one_word(labelled)
    if arguments.areas and labelled is not None:
        print(*_area_lines(index, labelled), sep="\n")
        seconds["labels"] = time.perf_counter() - started - sum(seconds.values())
    failures = 0
    if arguments.output:
        failures = _write(arguments, index, found, labelled, formats)
        seconds["writing"] = time.perf_counter() - started - sum(seconds.values())
    parts = ", ".join(f"{part} {value:.2f}" for part, value in seconds.items())
    print(f"{len(index.rows)} masks of {len(index)} images; seconds: {parts}")
    return 1 if failures else 0


def _formats(tool: ToolParser, arguments: argparse.Namespace) -> list[str]:
    """What to write; every image's files come after what is written once."""
    known = (*_RANKING, *_OF_IMAGES)
    formats = arguments.format or (["ranking"] if arguments.like else list(_RANKING))
    if strangers := sorted(set(formats) - set(known)):
        tool.error(f"argument --format: there is no {strangers[0]!r}, choose some of {', '.join(known)}")
    if arguments.format and not arguments.output:
        tool.error("argument --format: say where to write with --output")
    if "panoptic" in formats and not (arguments.things or arguments.all_things):
        tool.error("argument --format: panoptic segments need --things or --all-things")
    return [kind for kind in known if kind in formats]


def _check_fit(tool: ToolParser, arguments: argparse.Namespace, formats: Sequence[str]) -> None:
    """Refuses options that what is asked for would take no notice of."""
    of_words = arguments.areas or arguments.not_words or arguments.alone
    if arguments.like and (of_words or set(formats) - {"ranking"}):
        tool.error("--like finds masks, which have no words: leave --not, --alone, --areas and formats with words out")
    if (arguments.things or arguments.all_things) and not set(formats) & set(_OF_IMAGES):
        tool.error("--things and --all-things are of images: add --format with panoptic or json")


def _tell_of_one_word(labelled: Vocabulary) -> None:
    if len(labelled) == 1:
        print(
            f"Labels are of the words that are named, and every one is {shown(labelled.names[0])} here: name what else "
            "there is with more WORDS, --not or --label-set."
        )


def _check_folder(arguments: argparse.Namespace) -> None:
    index, output = arguments.index.resolve(), arguments.output.resolve()
    if output == index or index in output.parents:
        raise UserError(f"--output {arguments.output} lies in the index {arguments.index}: choose a folder outside it.")


def _like(tool: ToolParser, arguments: argparse.Namespace, index: Index) -> list[FoundMask]:
    try:
        image, mask = map(int, arguments.like.split(","))
    except ValueError:
        tool.error(f"argument --like: {arguments.like!r} is not IMAGE,MASK: give two numbers of a ranking")
    return index.nearest((image, mask), top=arguments.top, engine=arguments.engine)


def _asked(
    arguments: argparse.Namespace, index: Index, seconds: dict[str, float], started: float
) -> tuple[list[FoundMask], Vocabulary]:
    """The masks that were found, and the words that images are labelled with; ``seconds`` gets what took how long."""
    from maft.data.label_sets import label_set
    from maft.vocabulary import Vocabulary

    given = Vocabulary.load(arguments.vocabulary) if arguments.vocabulary else None
    if arguments.label_set:
        given = Vocabulary(label_set(arguments.label_set).names())
    words: Vocabulary | list[str] = arguments.words or given or []
    beside = (given or ()) if arguments.alone or given else None
    question = index.question(words, arguments.not_words, beside)
    index.prepare(question.vocabulary)
    seconds[f"encoding {len(question.vocabulary)} words"] = time.perf_counter() - started - sum(seconds.values())
    found = index.ask(words, arguments.not_words, top=arguments.top, beside=beside, engine=arguments.engine)
    seconds["comparing masks"] = time.perf_counter() - started - sum(seconds.values())
    # What the model was trained on is beside the words of a ranking, and among those of labels only if it is named.
    named = question.named(beside=given is not None) if not index.stored.contents.bound else question.vocabulary
    return found, named


def _ranking_lines(found: Sequence[FoundMask]) -> list[str]:
    if not found:
        return ["No mask is found."]
    words = [printable(one.word) for one in found]
    longest = max(map(len, words))
    return [
        f"{rank:>4}  {one.score:6.3f}  {word:<{longest}}  {printable(one.file)}  mask {one.image},{one.mask}: "
        f"{one.area} pixels, box {','.join(map(str, one.box))}"
        for rank, (one, word) in enumerate(zip(found, words, strict=True), start=1)
    ]


def _area_lines(index: Index, words: Vocabulary) -> list[str]:
    """Every word's pixels in all images, most first."""
    areas = index.areas(words)
    total, names = areas.sum(axis=0), [*map(printable, words.names), "(none of them)"]
    longest = max(map(len, names))
    return [
        f"{names[place]:<{longest}}  {total[place]:>12} pixels, {total[place] / total.sum():6.1%}, in "
        f"{(areas[:, place] > 0).sum()} images"
        for place in (-total).argsort(kind="stable")
        if total[place]
    ]


def _write(
    arguments: argparse.Namespace,
    index: Index,
    found: Sequence[FoundMask],
    words: Vocabulary | None,
    formats: Sequence[str],
) -> int:
    """Writes what is asked for; returns how many images were skipped."""
    from maft.data.outputs import check_outputs
    from maft.files import write_json_atomic
    from maft.index.answers import as_coco, as_ranking
    from maft.predictor.asked import write_sheet

    folder: Path = arguments.output
    check_outputs(
        [folder / f"{kind}{ending}" for kind in _RANKING for ending in (".json", ".png")], index.files, "--output"
    )
    if "ranking" in formats:
        write_json_atomic(folder / "ranking.json", as_ranking(found))
    if "coco" in formats and words is not None:
        write_json_atomic(folder / "coco.json", as_coco(found, words.names))
    if "ranking" in formats and found:
        write_sheet(index, found, folder / "ranking.png")
    of_images = [kind for kind in formats if kind not in _RANKING]
    return _write_images(arguments, index, words, of_images) if of_images and words is not None else 0


def _write_images(arguments: argparse.Namespace, index: Index, words: Vocabulary, formats: Sequence[str]) -> int:
    from maft.data.outputs import check_outputs
    from maft.predictor import thing_flags
    from maft.predictor.asked import asked_prediction
    from maft.predictor.prediction import ENDINGS

    things = "all" if arguments.all_things else arguments.things
    flags = None if things is None else thing_flags(words, things)
    # What is written once keeps its names.
    names = output_names(index.files, _RANKING)
    endings = [ending for kind in formats for ending in ENDINGS[kind]]
    check_outputs([arguments.output / (name + ending) for name in names for ending in endings], index.files, "--output")
    failures = 0
    for image, name in enumerate(names):
        try:
            prediction = asked_prediction(index, image, words, flags, picture="overlay" in formats)
        except UserError as error:
            failures += 1
            print(printable(f"skipped: {index.files[image]}: {error}"), file=sys.stderr)
            continue
        prediction.save(arguments.output, name, formats)
        print(printable(f"[{image + 1}/{len(index)}] {index.files[image]}: {prediction.described()}"), flush=True)
    return failures
