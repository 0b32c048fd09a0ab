"""Show a model what you mean: a vocabulary file of classes with words, example masks, or both.

maft vocabulary FILE lists what is in a file; maft predict and maft ask take it with --vocabulary. Everything that add
brings, remove takes away again. The file holds the example pictures themselves: share it only where you may share them.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maft.cli.arguments import add_model, model_config, numbers, split_overrides
from maft.errors import ToolParser, UserError, closest

if TYPE_CHECKING:
    from maft.examples import Example
    from maft.predictor import Predictor
    from maft.vocabulary import Vocabulary

EXAMPLES = """examples:
  maft vocabulary words mine.safetensors cat sofa "floor, carpet"
  maft vocabulary add mine.safetensors "my mug" --image desk.jpg --mask desk_mug.png
  maft vocabulary add mine.safetensors "my mug" --image shelf.jpg --box 40,60,310,280 --model maft-vitb16
  maft vocabulary mine.safetensors --pictures output/examples
  maft predict photos/ --model maft-vitb16 --vocabulary mine.safetensors
  maft vocabulary remove mine.safetensors "my mug"

A file that has the name of an action is given as ./add.
"""
LIST = "list"
ACTIONS = (LIST, "words", "add", "remove", "prepare")


class _Tool(ToolParser):
    """Takes "list" for granted, and KEY VALUE pairs behind the options of an action."""

    def parse_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> Any:
        given = list(sys.argv[1:] if args is None else args)
        unnamed = bool(given) and given[0] not in ACTIONS and not given[0].startswith("-")
        arguments, more = self.parse_known_args([LIST, *given] if unnamed else given, namespace)
        arguments.more = more
        arguments.overrides = split_overrides(arguments, ["more"])
        if strangers := arguments.more or (arguments.overrides if not hasattr(arguments, "model") else []):
            if unnamed:
                self.error(f"there is no action {given[0]!r}, only {', '.join(ACTIONS)}.{closest(given[0], ACTIONS)}")
            self.error(f"unrecognized arguments: {' '.join(strangers)}")
        return arguments


def parser() -> ToolParser:
    tool = _Tool(prog="maft vocabulary", description=__doc__, epilog=EXAMPLES)
    actions = tool.add_subparsers(dest="action", required=True, metavar="ACTION", parser_class=ToolParser)
    listing = _action(actions, LIST, "what is in a file; the word list may be left out")
    listing.add_argument("--pictures", type=Path, metavar="DIR", help="draw every example into this folder")
    words = _action(actions, "words", "begin a file with words, or add words to one")
    words.add_argument("names", nargs="+", metavar="NAME", help="a class; commas within one separate synonyms")
    _add_example(_action(actions, "add", "show a class by one more example, up to five"))
    away = _action(actions, "remove", "take away the examples of a class, or a class that has none")
    away.add_argument("name", metavar="NAME")
    ready = _action(actions, "prepare", "keep what a model sees in the examples, for maft ask and for speed")
    add_model(ready)
    ready.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1, mps (default: the config's)")
    return tool


def _action(actions: Any, name: str, text: str) -> ToolParser:
    tool: ToolParser = actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    tool.add_argument("file", type=Path, metavar="FILE", help="a vocabulary file, such as mine.safetensors")
    return tool


def _add_example(tool: ToolParser) -> None:
    tool.add_argument("name", metavar="NAME", help="the class, which need not exist; commas separate synonyms")
    tool.add_argument("--image", required=True, metavar="IMG", help="a picture, as a file or an https address")
    shown = tool.add_mutually_exclusive_group(required=True)
    shown.add_argument(
        "--mask", metavar="FILE", help="PNG of the picture's size: what is not black, or not transparent, is meant"
    )
    shown.add_argument(
        "--box",
        type=numbers("X0,Y0,X1,Y1"),
        metavar="X0,Y0,X1,Y1",
        help="in pixels, around what is meant; needs a model",
    )
    shown.add_argument(
        "--point", action="append", type=numbers("X,Y"), metavar="X,Y",
        help="a pixel of what is meant; needs a model; may be repeated for the same object",
    )  # fmt: skip
    tool.add_argument(
        "--not-point", action="append", type=numbers("X,Y"), metavar="X,Y", default=[], help="a pixel beside it"
    )
    tool.add_argument("--value", type=int, metavar="N", help="the mask is a label map, of which this value is meant")
    tool.add_argument(
        "--no-words", action="store_true", help="the name is a label alone: only examples define the class"
    )
    add_model(tool, required=False)
    tool.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1, mps (default: the config's)")


def main(argv: Sequence[str] | None = None) -> None:
    tool = parser()
    arguments = tool.parse_args(argv)
    if arguments.action == "add":
        _check_shown(tool, arguments)

    # What cannot be done is said before a model is loaded, or a folder made.
    vocabulary = _begun(arguments.file)
    if vocabulary is None and arguments.action not in ("words", "add"):
        raise UserError(f"The vocabulary file {arguments.file} does not exist: check its path.")
    _ACTIONS[arguments.action](arguments)


def _begun(file: Path) -> Vocabulary | None:
    from maft.vocabulary import Vocabulary

    return Vocabulary.load(file) if os.path.exists(file) else None


def _check_shown(tool: ToolParser, arguments: argparse.Namespace) -> None:
    if arguments.value is not None and arguments.mask is None:
        tool.error("argument --value: it is that of a label map: give one with --mask")
    if arguments.not_point and not arguments.point:
        tool.error("argument --not-point: it goes with --point")
    asks = arguments.model is not None or arguments.config_file is not None
    if arguments.mask is None and not asks:
        tool.error("--box and --point are answered by a model: name one with --model")
    if arguments.mask is not None and asks:
        tool.error("a mask needs no model: leave --model and --config-file out")


def _list(arguments: argparse.Namespace) -> None:
    from tabulate import tabulate

    from maft.vocabulary import Vocabulary

    vocabulary = Vocabulary.load(arguments.file)
    rows = []
    for index, name in enumerate(vocabulary.names):
        examples = vocabulary.of(index)
        sizes = ", ".join(f"{one.mask.sum()} of {one.mask.shape[1]}x{one.mask.shape[0]}" for one in examples)
        ready = min((len(one.looks) for one in examples), default="")
        rows.append([name, "yes" if vocabulary.has_words(index) else "", len(examples) or "", sizes, ready])
    columns = ("class", "by its words", "examples", "pixels of each", "models prepared for")
    print(tabulate(rows, columns, tablefmt="simple", maxcolwidths=[40, None, None, 40, None], disable_numparse=True))
    if arguments.pictures is not None:
        files = _draw(vocabulary, arguments.pictures)
        print(f"\n{len(files)} pictures written to {arguments.pictures}")


def _draw(vocabulary: Vocabulary, folder: Path) -> list[Path]:
    import numpy as np
    from PIL import Image

    from maft.exports.overlays import named_overlay
    from maft.files import atomic_path

    files = []
    for index, name in enumerate(vocabulary.names):
        plain = re.sub(r"[^\w-]+", "_", name.partition(",")[0]).strip("_")[:50]
        for number, example in enumerate(vocabulary.of(index), start=1):
            files.append(folder / f"{index}_{plain}_{number}.png")
            picture = named_overlay(example.image, np.where(example.mask, 0, -1), [name])
            with atomic_path(files[-1]) as temporary:
                Image.fromarray(picture).save(temporary)
    return files


def _add_words(arguments: argparse.Namespace) -> None:
    from maft.files import changing
    from maft.predictor.vocabularies import with_words

    with changing(arguments.file):
        changed = with_words(_begun(arguments.file), arguments.names)
        changed.save(arguments.file)
    print(f"{arguments.file}: {len(changed)} classes, {len(arguments.names)} of them new")


def _add(arguments: argparse.Namespace) -> None:
    from maft.files import changing
    from maft.predictor.vocabularies import with_example

    example = _example(arguments)
    with changing(arguments.file):
        changed = with_example(_begun(arguments.file), arguments.name, example, words=not arguments.no_words)
        changed.save(arguments.file)
    at = changed.index(arguments.name)
    count, mask = len(changed.of(at)), example.mask
    examples = f"{count} example{'s' * (count > 1)}, the new one {mask.sum()} of {mask.size} pixels"
    print(f"{arguments.file}: {changed.names[at]} has {examples}")


def _example(arguments: argparse.Namespace) -> Example:
    from maft.predictor.examples import masked_example

    if arguments.mask is not None:
        return masked_example(arguments.image, arguments.mask, arguments.value)
    predictor = _predictor(arguments)
    # Where masks depend on words, the name says what to look for unless a training has said what there is.
    words = None if predictor.cfg.DATASETS.TRAIN else [arguments.name]
    if arguments.box:
        return predictor.example(arguments.image, box=arguments.box, class_names=words)
    points = [*arguments.point, *([*point, 0] for point in arguments.not_point)]
    return predictor.example(arguments.image, points=points, class_names=words)


def _predictor(arguments: argparse.Namespace) -> Predictor:
    from maft.predictor import Predictor

    return Predictor(model_config(arguments, arguments.overrides), device=arguments.device)


def _remove(arguments: argparse.Namespace) -> None:
    from maft.files import changing
    from maft.predictor.vocabularies import without
    from maft.vocabulary import Vocabulary

    with changing(arguments.file):
        vocabulary = Vocabulary.load(arguments.file)
        name = vocabulary.names[vocabulary.index(arguments.name)]
        changed = without(vocabulary, name)
        changed.save(arguments.file)
    gone = "is shown by no example any more, its words stay" if name in changed.names else "is removed"
    print(f"{arguments.file}: {name} {gone}; {len(changed)} classes")


def _prepare(arguments: argparse.Namespace) -> None:
    from dataclasses import replace

    from maft.files import changing
    from maft.vocabulary import Vocabulary

    vocabulary = Vocabulary.load(arguments.file)
    if not vocabulary.examples:
        raise UserError(f"{arguments.file} has no examples to look at: add some with maft vocabulary add.")
    predictor = _predictor(arguments)
    # What it sees is kept, and nobody waits while it looks.
    predictor.prepare(vocabulary)
    with changing(arguments.file):
        vocabulary = Vocabulary.load(arguments.file)
        # Which words a model has learned is for each to say.
        replace(vocabulary, examples=predictor.prepare(vocabulary).examples).save(arguments.file)
    count = sum(map(len, vocabulary.examples))
    print(f"{arguments.file}: holds what this model sees in {count} example{'s' * (count > 1)}")


_ACTIONS: dict[str, Callable[[argparse.Namespace], None]] = {
    LIST: _list, "words": _add_words, "add": _add, "remove": _remove, "prepare": _prepare,
}  # fmt: skip
