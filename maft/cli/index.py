"""Look at images once, and ask for any words afterwards with maft ask.

Writes a folder with what the model saw of every image: masks, what its classifier sees in them, and what of the model
asking needs. A run that was killed goes on with the same command; several processes write the same bytes as one.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from maft.cli.arguments import add_model, add_processes, model_config, processes, split_overrides
from maft.cli.predict import find_images
from maft.errors import ToolParser, UserError

if TYPE_CHECKING:
    from detectron2.config import CfgNode

    from maft.index.format import Contents, Masks
    from maft.index.making import Collection
    from maft.predictor import Predictor

EXAMPLES = """examples:
  maft index photos/ --model maft-vitb16 --output photos.index
  maft index photos/ --model maft-vitb16 --masks binary --output photos.index     smaller, labels of binary masks
  maft index --dataset ade20k_150_val --model output/my_run/model_final --output ade.index
  torchrun --nproc-per-node 8 -m maft index photos/ --model maft-vitb16 --output photos.index

Config overrides (KEY VALUE ...) may stand behind the images or any other list.
"""
# Lists, which would take KEY VALUE pairs behind them for their own.
_LISTS = ("images", "words")


def parser() -> ToolParser:
    tool = ToolParser(prog="maft index", description=__doc__, epilog=EXAMPLES)
    tool.add_argument("images", nargs="*", metavar="IMG", help="images, folders, or - for a list on stdin")
    tool.add_argument("--dataset", metavar="NAME", help="the images of a dataset, and its annotated masks too")
    add_model(tool)
    tool.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the index")
    tool.add_argument(
        "--masks",
        choices=("exact", "binary"),
        default="exact",
        help="exact: labels as the model itself gives them (default); binary: masks without their values, much smaller",
    )
    tool.add_argument(
        "--images-per-shard", type=int, default=64, metavar="N",
        help="images a file (default: 64); a process holds so many in memory, and a killed run loses them",
    )  # fmt: skip
    words = tool.add_mutually_exclusive_group()
    words.add_argument(
        "--words", nargs="+", metavar="NAME", help="what to look for, with a model whose masks depend on words"
    )
    words.add_argument("--label-set", metavar="NAME", help="the same with the words of a label set")
    words.add_argument("--own-words", action="store_true", help="the same with those of the training")
    add_processes(tool)
    return tool


@dataclass(frozen=True)
class _Request:
    """What a command line asks for, as every process is told it."""

    images: tuple[str, ...]
    dataset: str
    output: Path
    masks: Masks
    images_per_shard: int
    words: tuple[str, ...] | None
    own_words: bool


def main(argv: Sequence[str] | None = None) -> None:
    tool = parser()
    arguments = tool.parse_intermixed_args(argv)
    overrides = split_overrides(arguments, _LISTS)
    if bool(arguments.images) == bool(arguments.dataset):
        tool.error("name images or folders, or a dataset with --dataset: one of the two")

    if arguments.images_per_shard < 1:
        tool.error("argument --images-per-shard: at least one image")

    from maft.data.label_sets import label_set
    from maft.engine.launch import launch

    images = tuple(find_images(arguments.images)) if arguments.images else ()
    if address := next((image for image in images if image.startswith(("https://", "http://"))), None):
        raise UserError(f"{address} is no file: an index keeps paths of images, so fetch it first.")
    names = label_set(arguments.label_set).names() if arguments.label_set else arguments.words
    request = _Request(
        images, arguments.dataset or "", arguments.output, arguments.masks, arguments.images_per_shard,
        None if names is None else tuple(names), arguments.own_words,
    )  # fmt: skip
    cfg = model_config(arguments, overrides)
    cfg.defrost()
    chosen = processes(arguments, cfg.MODEL.DEVICE)
    cfg.MODEL.DEVICE = chosen.device
    cfg.freeze()
    launch(_run, (cfg, request), chosen, imports=cfg.IMPORTS)


def _run(cfg: CfgNode, request: _Request) -> None:
    """Indexes in one process of a run."""
    from detectron2.utils import comm
    from detectron2.utils.logger import setup_logger

    from maft.index.making import make_index
    from maft.predictor import Predictor

    setup_logger(name="maft", distributed_rank=comm.get_rank())
    # It reports how it stores every list of records in memory.
    logging.getLogger("detectron2.data.common").setLevel(logging.WARNING)
    predictor = Predictor(cfg)
    words = None
    if request.words is not None or request.own_words:
        words = predictor.vocabulary(list(request.words) if request.words else None)
    collection = _dataset(cfg, predictor, request.dataset) if request.dataset else _photos(cfg, request.images)
    contents = make_index(
        cfg, predictor.model, request.output, collection,
        words=words, masks=request.masks, images_per_shard=request.images_per_shard,
    )  # fmt: skip
    if comm.is_main_process():
        print("\n".join(described(contents, words is not None)), f"\nIndex: {request.output}", sep="")


def _photos(cfg: CfgNode, images: Sequence[str]) -> Collection:
    from maft.data.photos import PhotoMapper
    from maft.index.making import Collection

    return Collection([{"file_name": image} for image in images], PhotoMapper(cfg))


def _dataset(cfg: CfgNode, predictor: Predictor, name: str) -> Collection:
    from maft.data.catalog import dataset
    from maft.data.mappers import SegmentationMapper
    from maft.data.records import load_records
    from maft.evaluation.index_truth import SemanticTruth
    from maft.evaluation.semantic import SemanticEvaluator
    from maft.index.making import Collection

    row, model = dataset(name), predictor.model
    targets = cfg.INPUT.MAPPER if model.proposer.needs_targets else None
    mapper = SegmentationMapper.from_config(cfg, False, targets=targets, datasets=[name])
    named = model.classifier is not None and "semantic" in row.evaluators
    truth = SemanticTruth(SemanticEvaluator.of_dataset(cfg, row)) if named else None
    return Collection(load_records([name], "--dataset"), mapper, name, truth)


def described(contents: Contents, looked_for: bool = False) -> list[str]:
    """What an index holds, and the kilobytes of an image by part, a line each.

    Args:
        looked_for: whether masks were looked for with words.
    """
    lines = [f"{contents.images} images with {contents.masks} masks."]
    if contents.unreadable:
        lines.append(f"{len(contents.unreadable)} images could not be read; index.json lists them.")
    if contents.bound:
        lines.append("The model made its scores in one step with the masks: these words alone can be asked.")
    elif looked_for:
        lines.append("Masks were looked for with these words; any words may name them.")
    total = sum(contents.bytes.values())
    lines.append(f"{total / 1000 / contents.images:.1f} KB an image:")
    for part, size in sorted(contents.bytes.items(), key=lambda item: -item[1]):
        lines.append(f"  {part:<16}{size / 1000 / contents.images:10.2f} KB")
    return lines
