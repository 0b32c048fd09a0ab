"""What a predictor is made from: a checkpoint on the disk, or one of the zoo or the hub."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode

from maft.config import load_config
from maft.errors import UserError, shown
from maft.predictor.words import items_of
from maft.zoo import names, pretrained


def pretrained_config(
    source: str | os.PathLike[str], overrides: Sequence[str] = (), revision: str | None = None
) -> CfgNode:
    """The config of a trained model, with its weights; see `maft.predictor.Predictor.from_pretrained`."""
    listed = checked_overrides(overrides)
    config, weights = checkpoint_of(source, revision)
    return load_config(config, [*listed, "MODEL.WEIGHTS", str(weights)], trusted=False)


def checkpoint_of(source: str | os.PathLike[str], revision: str | None) -> tuple[Path, Path]:
    """Config and weights of a checkpoint: of a folder or file that is there, else of the zoo or the hub.

    Raises:
        UserError: there is none, or one of the two is missing.
    """
    path = path_of(source)
    # A name of the zoo has no slash, an id of the hub has one.
    remote = isinstance(source, str) and source.count("/") <= 1 and not source.startswith((".", "/", "~"))
    # A folder that happens to have the name of a model, and holds none, does not hide it.
    there = os.path.exists(path) and not (source in names() and path.is_dir() and not any(path.glob("*.safetensors")))
    if not remote or there or path.suffix == ".safetensors" or "\0" in str(source):
        if revision is not None:
            raise UserError(f"{path} is no repository of the hub and has no revisions: leave out {shown(revision)}.")
        return _files_of(path)
    return _files_of(pretrained(str(source), revision=revision))


def _files_of(path: Path) -> tuple[Path, Path]:
    # Unlike those of Path, the functions of os.path answer for names that no file can have.
    if not os.path.exists(path):
        raise UserError(
            f"{path} does not exist: give a checkpoint, a name that maft models lists, or a hub id, org/name."
        )
    folder = os.path.isdir(path)
    weights = path / "model.safetensors" if folder else path
    if folder and not weights.is_file():
        found = list(path.glob("*.safetensors"))
        if len(found) != 1:
            raise UserError(
                f"{path} holds {len(found)} .safetensors files and no model.safetensors: give a checkpoint folder "
                "that training or maft convert wrote, or one of the files."
            )
        weights = found[0]
    config = weights.with_name("config.yaml") if weights.stem == "model" else weights.with_suffix(".yaml")
    if not os.path.isfile(config):
        raise UserError(
            f"{weights} has no {config.name} beside it: give a checkpoint that training or maft convert wrote, or a "
            "config and MODEL.WEIGHTS."
        )
    return config, weights


def path_of(path: str | os.PathLike[str]) -> Path:
    """A path, whether something lies there or not."""
    if not isinstance(path, (str, os.PathLike)):
        raise UserError(f"A config or checkpoint is given by its path, not by {shown(path)}: write 'path/to/it'.")
    return Path(path)


def checked_overrides(overrides: Sequence[str]) -> list[str]:
    """Overrides as a list of texts KEY VALUE."""
    listed = items_of(overrides)
    if listed is None or None in listed or not all(isinstance(key, str) for key in listed[::2]):
        raise UserError(f"Overrides are texts KEY VALUE, not {shown(overrides)}: write ['MODEL.DEVICE', 'cpu'].")
    return listed
