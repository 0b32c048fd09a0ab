"""Checkpoints of a training run: folders that appear whole or not at all.

OUTPUT_DIR/checkpoints/iter_0000200/{model.safetensors, config.yaml, trainer.pt}
OUTPUT_DIR/checkpoints/last_checkpoint      name of the newest folder
OUTPUT_DIR/model_final/{model.safetensors, config.yaml}
"""

from __future__ import annotations

import logging
import os
import pickle
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor

from maft.checkpoint.io import read_state_dict, write_safetensors
from maft.config import self_contained
from maft.errors import UserError, first_line, shown
from maft.files import sha256, unfinished_path, unwritable, write_text_atomic

_POINTER = "last_checkpoint"
_NAME = r"iter_(\d+)"
_STATE = {"iteration": int, "seed": int, "optimizer": dict, "scaler": dict, "loader": dict}
_SCALER = {"scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"}

logger = logging.getLogger(__name__)


class Checkpointer:
    """Writes and finds the checkpoints of one output folder; only the main process may save.

    Args:
        output_dir: ``OUTPUT_DIR``.
        cfg: the full config, stored beside every model.
        keep: how many periodic checkpoints stay; 0 keeps all.

    Raises:
        UserError: a file lies where a folder is to be, or a folder where a file is to be.
    """

    def __init__(self, output_dir: str | os.PathLike[str], cfg: CfgNode, *, keep: int = 0) -> None:
        self.output_dir = Path(output_dir)
        self.folder, self.final = self.output_dir / "checkpoints", self.output_dir / "model_final"
        self.cfg, self.keep = self_contained(cfg), keep
        for folder in (self.folder, self.final):
            if folder.exists() and not folder.is_dir():
                raise UserError(f"{folder} is a file where a folder is to be: remove or rename it.")
        if (self.folder / _POINTER).is_dir():
            raise UserError(f"{self.folder / _POINTER} is a folder where a file is to be written: remove it.")

    def save(self, model: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
        """Writes ``iter_<iteration>`` with model, config and trainer state, then points ``last_checkpoint`` to it.

        Raises:
            UserError: the folder cannot be written, or the disk is full.
        """
        target = self.folder / f"iter_{state['iteration']:07d}"
        self._write_folder(target, model, state)
        write_text_atomic(self.folder / _POINTER, target.name + "\n")
        self.prune(target)
        return target

    def prune(self, intact: Path) -> None:
        """Removes all but the newest checkpoints; nothing while a newer one than this intact one is there, damaged."""
        folders = self._folders()
        if self.keep > 0 and folders[0] == intact:
            for old in folders[self.keep :]:
                shutil.rmtree(old)

    def save_final(self, model: Mapping[str, Tensor]) -> Path:
        """Writes ``model_final`` without trainer state, the folder that users load and share."""
        self._write_folder(self.final, model, None)
        return self.final

    def _pointed(self) -> str:
        """What ``last_checkpoint`` names; empty when there is none."""
        pointer = self.folder / _POINTER
        return pointer.read_text(errors="replace").strip() if pointer.is_file() else ""

    def _folders(self) -> list[Path]:
        """All checkpoint folders, the newest first.

        The highest iteration is the newest, but those above that of ``last_checkpoint`` come last: a run that went
        back to an older checkpoint leaves them behind. Times would not do, since copies have other ones.
        """
        matches = [(re.fullmatch(_NAME, path.name), path) for path in self.folder.glob("*") if path.is_dir()]
        folders = {int(match[1]): path for match, path in matches if match}
        pointed = re.fullmatch(_NAME, self._pointed())
        last = int(pointed[1]) if pointed else max(folders, default=0)
        return [folders[number] for number in sorted(folders, key=lambda number: (number > last, -number))]

    def exists(self) -> bool:
        """Whether the output folder holds results of an earlier training run."""
        return bool(self._folders()) or self.final.exists()

    def latest(self) -> tuple[Path, dict[str, Tensor], dict[str, Any]] | None:
        """(folder, model tensors, trainer state) of the newest intact checkpoint; None when there is no folder at all.

        ``last_checkpoint`` names the first one to try; each that is missing, damaged or incomplete is one line of the
        log.

        Raises:
            UserError: there are folders and none of them can be resumed from.
        """
        folders, faults = self._folders(), []
        name = self._pointed()
        if name and name not in (folder.name for folder in folders):
            faults.append(f"{self.folder / _POINTER} names {shown(name)}, which is not there.")
            logger.warning("%s", faults[0])
        for folder in folders:
            try:
                return folder, *self.read(folder)
            except UserError as error:
                faults.append(str(error))
                logger.warning("%s", error)
        if faults:
            raise UserError(f"No checkpoint in {self.folder} can be resumed from: {faults[0]}")
        return None

    def read(self, folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """(model tensors, trainer state) of a checkpoint folder.

        Raises:
            UserError: a file is missing, damaged or incomplete.
        """
        try:
            state = torch.load(folder / "trainer.pt", map_location="cpu", weights_only=True)
            if not _is_whole(state):
                raise ValueError("it is no trainer state")
        except (OSError, RuntimeError, EOFError, ValueError, LookupError, TypeError, pickle.UnpicklingError) as error:
            raise UserError(f"Checkpoint {folder} cannot be resumed from: trainer.pt is missing or damaged.") from error
        model = folder / "model.safetensors"
        # Older checkpoints do not say it.
        if model.is_file() and state.get("model_sha256") not in (None, sha256(model)):
            raise UserError(f"Checkpoint {folder} cannot be resumed from: model.safetensors was changed or damaged.")
        return read_state_dict(folder), state

    def _write_folder(self, target: Path, model: Mapping[str, Tensor], state: Mapping[str, Any] | None) -> None:
        temporary, replaced = unfinished_path(target), unfinished_path(target)
        try:
            write_safetensors(temporary / "model.safetensors", model, {"format": "pt"})
            write_text_atomic(temporary / "config.yaml", self.cfg.dump())
            if state is not None:
                # A file that lacks a tensor or has another bit is a good one by its format.
                whole = {**state, "model_sha256": sha256(temporary / "model.safetensors")}
                # Into a file of Python's: torch's own does not say why it cannot be written.
                with open(temporary / "trainer.pt", "wb") as file:
                    torch.save(whole, file)
            for path in temporary.iterdir():
                _flush(path)
            # A folder cannot be replaced in one step; a present one is either model_final or was never pointed to.
            if target.exists():
                target.rename(replaced)
            temporary.rename(target)
            shutil.rmtree(replaced, ignore_errors=True)
        except (UserError, OSError, RuntimeError) as error:
            reason = unwritable(error) or first_line(error)
            raise UserError(
                f"cannot write checkpoint {target}: {reason}; free some space or write elsewhere"
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _is_whole(state: Any) -> bool:
    if not isinstance(state, dict) or not all(isinstance(state.get(key), kind) for key, kind in _STATE.items()):
        return False
    optimizer, scaler = state["optimizer"], state["scaler"]
    numbers = state["iteration"], state["seed"]
    if not all(type(number) is int and 0 <= number < 2**32 for number in numbers):
        return False
    if not {"state", "param_groups"} <= optimizer.keys() or not (not scaler or scaler.keys() >= _SCALER):
        return False
    if not all(isinstance(value, (int, float)) for value in scaler.values()):
        return False
    # Plain gradient descent alone remembers nothing.
    remembers = any("betas" in group or group.get("momentum") for group in optimizer["param_groups"])
    return bool(optimizer["state"]) or not remembers or state["iteration"] == 0


def _flush(file: Path) -> None:
    # Without it a power cut could leave an empty file behind a name that looks complete.
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
