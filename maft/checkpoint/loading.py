"""Reads the weights a model starts from: our own checkpoints, and the official releases through their key maps."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.utils.file_io import PathManager
from torch import Tensor, nn

from maft.checkpoint.io import read_state_dict
from maft.checkpoint.key_map import load_strictly
from maft.checkpoint.official.backbones import KEY_MAP as BACKBONE_KEY_MAP
from maft.checkpoint.official.released import convert_released, recognise
from maft.errors import UserError

logger = logging.getLogger(__name__)

_CLIP = "clip."
_CLIP_TOWERS = ("clip.model.visual.", "clip.model.")
_BACKBONE = "proposer.backbone."
_CLASSIFIER = "classifier."


@dataclass(frozen=True)
class Weights:
    """Tensors for a model or a part of it, under our names.

    Attributes:
        state: name, below ``part``, -> tensor.
        source: how messages call them.
        part: prefix of the part of the model they are for; "" for the whole.
        may_lack: prefixes of names that the checkpoint may lack.
    """

    state: Mapping[str, Tensor]
    source: str
    part: str = ""
    may_lack: tuple[str, ...] = ()

    def load_into(self, model: nn.Module) -> list[str]:
        """Copies them into the model, strictly; returns what keeps its present value, since they lack it.

        Raises:
            UserError: they do not fit; the model is unchanged then.
        """
        try:
            module = model.get_submodule(self.part.rstrip("."))
        except AttributeError as error:
            raise UserError(
                f"{self.source} is for {self.part.rstrip('.')}, which this model does not have: leave it out."
            ) from error
        missing = load_strictly(module, self.state, self.source, may_lack=self.may_lack)
        if missing:
            logger.info(
                "%s lacks %d tensors (%s...), which keep their initial values", self.source, len(missing), missing[0]
            )
        return missing

    def clip(self) -> dict[str, Tensor]:
        """The CLIP among them, named from its own root; empty when a tower or all of it is missing."""
        if self.part:
            return {}
        inner = {name.removeprefix(_CLIP): value for name, value in self.state.items() if name.startswith(_CLIP)}
        images = sum(name.startswith("model.visual.") for name in inner)
        return inner if 0 < images < len(inner) else {}


def initial_weights(cfg: CfgNode) -> list[Weights]:
    """What the ``WEIGHTS`` of ``MODEL``, its ``BACKBONE``, ``PROPOSER`` and ``CLASSIFIER`` name, in loading order.

    ``MODEL.BACKBONE.WEIGHTS`` and ``MODEL.CLASSIFIER.WEIGHTS`` are what a training starts from. They are not read when
    ``MODEL.WEIGHTS`` holds such a part itself, so that a trained model is evaluated as it is.

    Raises:
        UserError: a file cannot be read or holds something else.
    """
    settings, weights = cfg.MODEL, []
    if settings.WEIGHTS:
        options = {"may_lack": settings.WEIGHTS_MAY_LACK, "leave_out": settings.WEIGHTS_LEAVE_OUT}
        weights.append(read_weights(settings.WEIGHTS, **options))
    if settings.PROPOSER.WEIGHTS:
        weights.append(read_weights(settings.PROPOSER.WEIGHTS, part="proposer."))
    if settings.CLASSIFIER.WEIGHTS and _lacks_classifier(weights, settings.WEIGHTS_MAY_LACK):
        weights.append(read_weights(settings.CLASSIFIER.WEIGHTS, part=_CLASSIFIER))
    trained = any((item.part + name).startswith(_BACKBONE) for item in weights for name in item.state)
    if settings.BACKBONE.WEIGHTS and not trained:
        weights.insert(0, read_backbone(settings.BACKBONE.WEIGHTS))
    return weights


def _lacks_classifier(weights: Sequence[Weights], may_lack: Sequence[str]) -> bool:
    """Whether nothing was read for one of the parts of the classifier that ``MODEL.WEIGHTS`` need not hold."""
    parts = [prefix for prefix in may_lack if prefix.startswith(_CLASSIFIER)] or [_CLASSIFIER]
    names = [item.part + name for item in weights for name in item.state]
    return any(not any(name.startswith(part) for name in names) for part in parts)


def read_weights(
    path: str | os.PathLike[str], *, may_lack: Sequence[str] = (), leave_out: Sequence[str] = (), part: str = ""
) -> Weights:
    """A checkpoint of ours (file or folder) or an official release.

    An official file may be pruned: without CLIP, or without its image tower, the model keeps the CLIP of its config.

    Args:
        may_lack: prefixes of our names that the checkpoint may lack, such as ``classifier.`` for a stage-1 checkpoint.
        leave_out: prefixes of our names that are not taken from the checkpoint.
        part: nothing but what is below this prefix is taken.

    Raises:
        UserError: the file cannot be read, or holds a tensor that its release does not have.
    """
    source, state = str(path), read_state_dict(path)
    release = recognise(state)
    pruned: tuple[str, ...] = ()
    if release is not None:
        logger.info("%s is an official %s checkpoint: translating its parameter names", source, release)
        state = convert_released(state, release, source)
        pruned = pruned_parts(state)
    taken = {
        name.removeprefix(part): value
        for name, value in state.items()
        if name.startswith(part) and not name.startswith(tuple(leave_out))
    }
    return Weights(taken, source, part, (*may_lack, *pruned))


def pruned_parts(state: Mapping[str, object]) -> tuple[str, ...]:
    """Prefixes of CLIP and its image tower, as far as ``state`` has nothing below them."""
    return tuple(prefix for prefix in _CLIP_TOWERS if not any(name.startswith(prefix) for name in state))


def read_backbone(path: str) -> Weights:
    """ImageNet weights of the proposer's backbone: ours, Detectron2's (also ``detectron2://...``) or Swin's.

    Raises:
        UserError: the file cannot be downloaded or read, or has tensors of anything else.
    """
    file = path
    if "://" in path:
        try:
            file = PathManager.get_local_path(path)
        except (OSError, RuntimeError, AssertionError) as error:
            raise UserError(
                f"MODEL.BACKBONE.WEIGHTS {path} cannot be downloaded ({type(error).__name__}): download it by hand "
                "(MODEL_ZOO.md has the address) and give the path of the file."
            ) from error
    return Weights(BACKBONE_KEY_MAP.convert(read_state_dict(Path(file)), path), path, _BACKBONE)
