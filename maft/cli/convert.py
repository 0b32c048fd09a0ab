"""Turn a checkpoint of an official release into safetensors with its config beside it.

Every tensor has to have a counterpart of the same shape in the model of the config, and the other way round; what
differs is listed by name and nothing is written. OUT is a folder, or a file DIR/NAME.safetensors whose config becomes
DIR/NAME.yaml; maft predict --model OUT and Predictor.from_pretrained(OUT) need nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from maft.errors import ToolParser


def parser() -> ToolParser:
    tool = ToolParser(prog="maft convert", description=__doc__)
    tool.add_argument("input", type=Path, metavar="IN", help="official file, or a checkpoint of ours")
    tool.add_argument("output", type=Path, metavar="OUT", help="folder, or file ending in .safetensors")
    tool.add_argument(
        "--from", dest="release", default="auto", metavar="RELEASE", help="maft, ovseg ... (default: by names inside)"
    )
    tool.add_argument("--config-file", metavar="CONFIG", help="config of the model (default: by release)")
    tool.add_argument("opts", nargs="*", default=[], metavar="KEY VALUE", help="config overrides")
    return tool


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parser().parse_intermixed_args(argv)

    from maft.zoo.conversion import convert

    written = convert(arguments.input, arguments.output, arguments.config_file, arguments.opts, arguments.release)
    kind = written.release or "a checkpoint of ours"
    print(f"{written.tensors} tensors of {kind} in {written.weights}, config in {written.config}")
