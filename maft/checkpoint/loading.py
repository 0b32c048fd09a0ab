"""Puts weights into a model: our own checkpoints, and the official releases through their key maps."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence

from detectron2.config import CfgNode
from torch import Tensor, nn

from maft.checkpoint.io import read_state_dict
from maft.checkpoint.key_map import load_strictly
from maft.checkpoint.official.released import convert_released, recognise

logger = logging.getLogger(__name__)


def load_initial_weights(model: nn.Module, cfg: CfgNode) -> None:
    """Loads what ``MODEL.WEIGHTS`` and ``MODEL.PROPOSER.WEIGHTS`` name, the latter's proposer winning.

    Raises:
        UserError: see `load_weights`.
    """
    settings = cfg.MODEL
    if settings.WEIGHTS:
        load_weights(
            model, settings.WEIGHTS, may_lack=settings.WEIGHTS_MAY_LACK, leave_out=settings.WEIGHTS_LEAVE_OUT
        )
    if settings.PROPOSER.WEIGHTS:
        load_weights(model.get_submodule("proposer"), settings.PROPOSER.WEIGHTS, part="proposer.")


def load_weights(
    module: nn.Module,
    path: str | os.PathLike[str],
    *,
    may_lack: Sequence[str] = (),
    leave_out: Sequence[str] = (),
    part: str = "",
) -> list[str]:
    """Loads a checkpoint of ours (file or folder) or an official release, strictly.

    Args:
        may_lack: prefixes of our names that the checkpoint may lack, such as ``classifier.`` for a stage-1 checkpoint.
        leave_out: prefixes of our names that are not taken from the checkpoint.
        part: ``module`` is the part of the model below this prefix, and nothing else is taken.

    Returns:
        names of the model that the checkpoint lacks; they keep their present values.

    Raises:
        UserError: the file cannot be read or does not fit; the model is unchanged then.
    """
    state = translated(read_state_dict(path), str(path))
    state = {
        name.removeprefix(part): value
        for name, value in state.items()
        if name.startswith(part) and not name.startswith(tuple(leave_out))
    }
    missing = load_strictly(module, state, str(path), may_lack=may_lack)
    if missing:
        logger.info("%s lacks %d tensors (%s...), which keep their initial values", path, len(missing), missing[0])
    return missing


def translated(state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """A state dict under our names; a release is recognised by its parameter names."""
    release = recognise(state)
    if release is None:
        return dict(state)
    logger.info("%s is an official %s checkpoint: translating its parameter names", source, release)
    return convert_released(state, release, source)
