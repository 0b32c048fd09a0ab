"""Write a model for another runtime: ONNX or torch.export, with open batch, height and width.

Writes PART.onnx (or .pt2) and a .json beside it, which says what goes in, what comes out and how pixels are
prepared, so that it runs without maft. The file is run at three sizes that were not traced and compared with the model;
the largest difference is printed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from maft.cli.arguments import add_model, chosen_words, model_config, split_overrides
from maft.errors import ToolParser, printable

EXAMPLES = """examples:
  maft export --model maft-vitb16 --words cat "coffee table" window --output exported
  maft export --config-file quickstart/maft --part image-tower --format pt2 --output exported
  maft export --model output/my_run/model_final --part text-tower --output exported

Config overrides (KEY VALUE ...) may stand behind the words or alone.
"""
FORMATS = ("onnx", "pt2")
PARTS = ("model", "image-tower", "text-tower")


def parser() -> ToolParser:
    tool = ToolParser(prog="maft export", description=__doc__, epilog=EXAMPLES)
    add_model(tool)
    tool.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to write to")
    tool.add_argument("--format", choices=FORMATS, default="onnx", help="default: %(default)s")
    tool.add_argument(
        "--part", choices=PARTS, default="model",
        help="model: masks and probabilities of these words; or one of "
        "CLIP's towers (default: %(default)s)",
    )  # fmt: skip
    words = tool.add_mutually_exclusive_group()
    words.add_argument("--words", nargs="+", metavar="NAME", help="your words (default: those of the training)")
    words.add_argument("--label-set", metavar="NAME", help="the words of a label set, such as ade20k_150")
    words.add_argument("--vocabulary", metavar="FILE", help="words of a file of maft vocabulary")
    tool.add_argument("--semantic", action="store_true", help="scores of all classes at each pixel, too")
    tool.add_argument("opts", nargs="*", default=[], metavar="KEY VALUE", help="config overrides")
    return tool


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parser().parse_intermixed_args(argv)
    overrides = arguments.opts + split_overrides(arguments, ("words",))

    from maft.exporting.checking import CHECKED
    from maft.exporting.formats import check_format
    from maft.exporting.run import export
    from maft.predictor import Predictor

    # What is not installed is said before a model is built.
    check_format(arguments.format)
    words = chosen_words(arguments)
    predictor = Predictor(model_config(arguments, overrides), device="cpu")
    test = predictor.cfg.INPUT
    facts = {"resized_for_training": {"short_side": test.MIN_SIZE_TEST, "longest": test.MAX_SIZE_TEST}}
    file, difference = export(
        predictor.model,
        predictor.vocabulary(words),
        arguments.output,
        part=arguments.part,
        format=arguments.format,
        semantic=arguments.semantic,
        facts=facts,
    )
    sizes = f"{len(CHECKED)} sizes and batches that were not traced"
    print(printable(f"{file} and {file.name}.json: largest difference {difference:.1e} to the model at {sizes}"))
