"""Puts weights into a model: our own checkpoints, and the official releases through their key maps."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from maft.checkpoint.io import read_state_dict
from maft.checkpoint.key_map import load_strictly
from maft.checkpoint.official.released import convert_released, recognise

logger = logging.getLogger(__name__)


def load_weights(module: nn.Module, path: str | os.PathLike[str], *, may_lack: Sequence[str] = ()) -> list[str]:
    """Loads a checkpoint of ours (file or folder) or an official release, strictly.

    Args:
        may_lack: prefixes of our names that the checkpoint may lack, such as ``classifier.`` for a stage-1 checkpoint.

    Returns:
        names of the model that the checkpoint lacks; they keep their present values.

    Raises:
        UserError: the file cannot be read or does not fit; the model is unchanged then.
    """
    state = translated(read_state_dict(path), str(path))
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
