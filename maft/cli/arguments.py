"""Arguments that several commands share."""

from __future__ import annotations

import argparse
import math
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from maft.errors import ToolParser

if TYPE_CHECKING:
    from detectron2.config import CfgNode

    from maft.engine.launch import Processes
    from maft.predictor.words import ClassNames

_KEY = re.compile(r"(?:MODEL|INPUT|DATASETS|DATALOADER|SOLVER|TEST)\.[A-Z]\S*|IMPORTS|SEED|VERSION")


def add_config(tool: ToolParser, example: str) -> None:
    """A config, behind its flag or first of all words, and KEY VALUE pairs."""
    tool.add_argument(
        "--config-file", metavar="CONFIG", help="YAML file, or a name that maft configs lists; may also stand first"
    )
    tool.add_argument("opts", nargs="*", metavar="KEY VALUE", help=f"config overrides, such as {example}")


def config_and_overrides(tool: ToolParser, arguments: argparse.Namespace) -> tuple[str, list[str]]:
    """What `add_config` read.

    Raises:
        UserError: no config was given.
    """
    if arguments.config_file is not None:
        return arguments.config_file, arguments.opts
    if not arguments.opts:
        tool.error("name a config: a YAML file, or a name that maft configs lists")
    return arguments.opts[0], arguments.opts[1:]


def add_processes(tool: ToolParser) -> None:
    """How many processes compute, and where they meet."""
    tool.add_argument("--num-gpus", type=int, metavar="N", help="GPUs per machine (default: 1 if any); 0: the CPU")
    tool.add_argument("--num-processes", type=int, metavar="N", help="processes per machine on the CPU (default: 1)")
    tool.add_argument("--num-machines", type=int, default=1, metavar="N", help="number of machines")
    tool.add_argument("--machine-rank", type=int, default=0, metavar="R", help="which of them this one is, from 0")
    tool.add_argument("--dist-url", default="auto", metavar="URL", help="where processes meet: tcp://HOST:PORT")
    tool.add_argument(
        "--timeout", type=float, default=30, metavar="MINUTES", help="how long processes wait for others (default: 30)"
    )


def processes(arguments: argparse.Namespace, device: str) -> Processes:
    """What `add_processes` read.

    Args:
        device: ``MODEL.DEVICE``.
    """
    from maft.engine.launch import choose_processes

    return choose_processes(
        device=device,
        num_gpus=arguments.num_gpus,
        num_processes=arguments.num_processes,
        machines=arguments.num_machines,
        machine_rank=arguments.machine_rank,
        url=arguments.dist_url,
        timeout=arguments.timeout,
    )


def add_model(tool: ToolParser, *, required: bool = True) -> None:
    """A trained model."""
    model = tool.add_mutually_exclusive_group(required=required)
    model.add_argument(
        "--model",
        metavar="MODEL",
        help="a released model (maft models lists them), a checkpoint, or ORG/NAME of the hub",
    )
    model.add_argument("--config-file", metavar="FILE", help="a config, or a checkpoint")


def split_overrides(arguments: argparse.Namespace, lists: Sequence[str]) -> list[str]:
    """Takes the KEY VALUE pairs that stand behind any list of words out of it and returns them.

    Args:
        lists: names of the arguments that are lists.
    """
    overrides: list[str] = []
    for name in lists:
        given = getattr(arguments, name) or []
        first = next((place for place, item in enumerate(given) if _is_key(item)), None)
        if first is not None:
            overrides += given[first:]
            setattr(arguments, name, given[:first])
    return overrides


def _is_key(item: str) -> bool:
    return _KEY.fullmatch(item) is not None and not os.path.exists(item)


def model_config(arguments: argparse.Namespace, overrides: Sequence[str]) -> CfgNode:
    """The config of the model that `add_model` read, with its weights.

    Raises:
        UserError: there is no such model, or it cannot be fetched.
    """
    from maft.config import load_config
    from maft.packaged import packaged_config
    from maft.predictor.sources import path_of, pretrained_config

    source = arguments.model if arguments.config_file is None else arguments.config_file
    if arguments.config_file is None:
        trained = not source.endswith((".yaml", ".yml")) and (os.path.exists(source) or not packaged_config(source))
    else:
        trained = os.path.isdir(source) or path_of(source).suffix == ".safetensors"
    return pretrained_config(source, overrides) if trained else load_config(path_of(source), list(overrides))


def chosen_words(arguments: argparse.Namespace) -> ClassNames | None:
    """The user's words, from ``--words``, ``--label-set`` or ``--vocabulary``; None: those of the training."""
    from maft.data.label_sets import label_set
    from maft.vocabulary import Vocabulary

    if arguments.vocabulary:
        return Vocabulary.load(arguments.vocabulary)
    if arguments.label_set:
        return label_set(arguments.label_set).names()
    if arguments.words and len(arguments.words) == 1 and len(parts := arguments.words[0].split(",")) > 1:
        listed = " ".join(shlex.quote(part.strip()) for part in parts)
        print(f"One class of {len(parts)} synonyms; for {len(parts)} classes write --words {listed}", file=sys.stderr)
    return arguments.words


def numbers(form: str) -> Callable[[str], list[float]]:
    """The type of numbers with commas between them, such as X,Y."""

    def read(text: str) -> list[float]:
        try:
            values = [float(part) for part in text.split(",")]
        except ValueError:
            values = []
        if len(values) != len(form.split(",")) or not all(map(math.isfinite, values)):
            raise argparse.ArgumentTypeError(
                f"{text!r} is not {form}: give numbers with commas between them, in pixels"
            )
        return values

    return read
