#!/usr/bin/env python3
"""Turn a checkpoint of an official release into safetensors with its config beside it.

Every tensor has to have a counterpart of the same shape in the model of the config, and the other way round; what
differs is listed by name and nothing is written. OUT is a folder, or a file DIR/NAME.safetensors whose config becomes
DIR/NAME.yaml; `tools/demo.py --config-file OUT` and `Predictor.from_pretrained(OUT)` need nothing else.
"""

import argparse
import sys
from pathlib import Path

from detectron2.config import CfgNode
from torch import Tensor

from maft.building import model_shapes
from maft.checkpoint.io import read_state_dict, write_safetensors
from maft.checkpoint.key_map import embedding_width, explain
from maft.checkpoint.loading import pruned_parts, unfit
from maft.checkpoint.official.released import RELEASES, convert_released, recognise
from maft.config import load_config, self_contained
from maft.errors import ToolParser, UserError, run_tool
from maft.files import write_text_atomic

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
RELEASE_NAMES = {release.name.lower().replace(" ", "-"): release.name for release in RELEASES}
# (release, width of CLIP's joint space) -> config and overrides, for the releases that one config describes.
DEFAULT_CONFIGS: dict[tuple[str, int], tuple[str, list[str]]] = {
    ("FreeSeg", 512): ("maft/freeseg_r101_coco-stuff-171.yaml", []),
    ("FreeSeg", 768): ("maft/freeseg_r101_vitl14_coco-stuff-171.yaml", []),
    ("MAFT", 512): ("maft/maft_vitb16_coco-stuff-171.yaml", []),
    # The released code starts at layer 8 whatever its config says.
    ("MAFT", 768): ("maft/maft_vitl14_coco-stuff-171.yaml", ["MODEL.CLASSIFIER.IPCLIP.START_LAYER", "8"]),
    ("OVSeg", 512): ("ovseg/ovseg_r101c_vitb16.yaml", []),
    ("OVSeg", 768): ("ovseg/ovseg_swinb_vitl14.yaml", []),
}


def parse_arguments() -> argparse.Namespace:
    parser = ToolParser(description=__doc__)
    parser.add_argument("input", type=Path, metavar="IN", help="official file, or a checkpoint of ours")
    parser.add_argument("output", type=Path, metavar="OUT", help="folder, or file ending in .safetensors")
    parser.add_argument(
        "--from", dest="release", default="auto", choices=["auto", *RELEASE_NAMES], help="default: by parameter names"
    )
    parser.add_argument("--config-file", metavar="FILE", help="config of the model (default: by release)")
    parser.add_argument("opts", nargs="*", default=[], metavar="KEY VALUE", help="config overrides")
    return parser.parse_intermixed_args()


def choose_release(asked: str, state: dict[str, Tensor], source: Path) -> str | None:
    """The release a file belongs to, None for our own names.

    Raises:
        UserError: it is recognised as another release than the one asked for.
    """
    found = recognise(state)
    if asked == "auto":
        return found
    if found is not None and found != RELEASE_NAMES[asked]:
        raise UserError(f"{source} is a {found} checkpoint, not {RELEASE_NAMES[asked]}: leave out --from.")
    return RELEASE_NAMES[asked]


def choose_config(file: str | None, overrides: list[str], release: str | None, state: dict[str, Tensor]) -> CfgNode:
    """The config given, or the one of the release.

    Raises:
        UserError: none is given and none is known.
    """
    if file is not None:
        return load_config(file, overrides)
    known = DEFAULT_CONFIGS.get((release or "", embedding_width(state)))
    if known is None:
        raise UserError(
            f"No config is known for {release or 'a checkpoint of ours'} with embedding width "
            f"{embedding_width(state)}: give the one that describes the model with --config-file."
        )
    return load_config(CONFIGS / known[0], [*known[1], *overrides])


def check(cfg: CfgNode, state: dict[str, Tensor], source: Path) -> None:
    """Compares names and shapes with the model's, both ways, and lists what differs.

    Raises:
        UserError: something differs.
    """
    expected = model_shapes(cfg)
    problems = unfit(expected, state)
    if problems:
        print("\n".join(problems), file=sys.stderr)
        reason = explain(expected, state) or "give the config it was trained with"
        raise UserError(f"{source} differs from the model in the {len(problems)} points above: {reason}.")


def main() -> None:
    arguments = parse_arguments()
    state = read_state_dict(arguments.input)
    release = choose_release(arguments.release, state, arguments.input)
    if release is not None:
        state = convert_released(state, release, str(arguments.input))
    cfg = choose_config(arguments.config_file, arguments.opts, release, state)
    check(cfg, state, arguments.input)

    is_file = arguments.output.suffix == ".safetensors"
    weights = arguments.output if is_file else arguments.output / "model.safetensors"
    config = weights.with_name("config.yaml") if weights.stem == "model" else weights.with_suffix(".yaml")
    write_safetensors(weights, state, {"format": "pt", "converted_from": release or "maft"})
    write_text_atomic(config, self_contained(cfg).dump())
    print(f"{len(state)} tensors of {release or 'a checkpoint of ours'} in {weights}, config in {config}")
    if pruned := pruned_parts(state):
        print(f"The file lacks {pruned[-1]}*: the model takes it from MODEL.CLIP ({cfg.MODEL.CLIP.PRETRAINED}).")


if __name__ == "__main__":
    run_tool(main)
