"""Mine pairs of masked regions and nouns from captioned images, to fine-tune CLIP on, as OVSeg does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from maft.cli.arguments import add_config, add_processes, config_and_overrides, processes
from maft.errors import ToolParser

EXAMPLES = """the four variants of the paper's Table 2:
  ... --masks ground_truth --output DIR                                       ground-truth masks and names
  ... --masks ground_truth --captions FILE --output DIR                       ground-truth masks, one caption
  ... --captions FILE --output DIR MODEL.WEIGHTS FOLDER                       proposals, one caption
  ... --captions FILE --captions-per-image 5 --output DIR MODEL.WEIGHTS FOLDER   proposals, five captions

The same command goes on where an interrupted run stopped.
Train on the table with DATASETS.TRAIN '["pairs:DIR/pairs.tsv"]'. The config has a proposer and MaskedCrops.
"""


def parser() -> ToolParser:
    tool = ToolParser(prog="maft mine", description=__doc__, epilog=EXAMPLES)
    add_config(tool, "MODEL.WEIGHTS FOLDER")
    tool.add_argument("--output", required=True, type=Path, metavar="DIR", help="where regions and table go")
    tool.add_argument("--masks", default="proposals", metavar="SOURCE", help="proposals (default) or ground_truth")
    tool.add_argument("--captions", metavar="FILE", help="captions in COCO's format; default: ground-truth names")
    tool.add_argument("--captions-per-image", type=int, default=1, metavar="N", help="how many are read (default: 1)")
    tool.add_argument("--images", metavar="DIR", help="folder of the images (default: that of DATASETS.TRAIN)")
    tool.add_argument("--limit", type=int, default=0, metavar="N", help="only the first N images (default: all)")
    add_processes(tool)
    return tool


def main(argv: Sequence[str] | None = None) -> None:
    tool = parser()
    arguments = tool.parse_intermixed_args(argv)

    from maft.config import load_config
    from maft.engine.launch import launch
    from maft.mining.run import mine
    from maft.mining.task import MiningTask

    cfg = load_config(*config_and_overrides(tool, arguments))
    task = MiningTask(
        arguments.masks, arguments.captions, arguments.captions_per_image, arguments.images, arguments.limit
    )
    if task.masks == "ground_truth":
        cfg.MODEL.PROPOSER.NAME = "GroundTruth"
    chosen = processes(arguments, cfg.MODEL.DEVICE)
    cfg.MODEL.DEVICE = chosen.device
    cfg.OUTPUT_DIR = str(arguments.output)
    cfg.freeze()
    launch(mine, (cfg, task), chosen, imports=cfg.IMPORTS)
