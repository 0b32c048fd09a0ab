"""What a predictor leaves without a word, by a calibration that lies beside its checkpoint."""

from __future__ import annotations

import json
import logging
from functools import lru_cache
from itertools import compress
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from detectron2.config import CfgNode
from torch import nn

from maft.calibration import Calibration, Rejection, calibration_path
from maft.checkpoint.fingerprint import fingerprint
from maft.checkpoint.key_map import some
from maft.errors import UserError, shown
from maft.structures import Vocabulary

if TYPE_CHECKING:
    from maft.predictor.loaded import LoadedModel

log = logging.getLogger(__name__)

# Where things are kept, and weights that a checkpoint has in its own.
_NO_FACTS = ("MODEL.VOCABULARY.CACHE_DIR", "MODEL.CLIP.PRETRAINED")
# Of MODEL, what is ours and says how a picture is answered.
_SECTIONS = ("CLIP", "VOCABULARY", "PROPOSER", "CLASSIFIER", "ENSEMBLE", "INFERENCE")


def calibration_facts(cfg: CfgNode, training: Vocabulary | None, precision: torch.dtype | None) -> dict[str, Any]:
    """What a model's answers depend on besides its weights, as plain data.

    Args:
        cfg: of the model.
        training: the words that count as seen.
        precision: what it computes in; None: float32.
    """
    facts = _flat({key: cfg.MODEL[key] for key in _SECTIONS}, "MODEL")
    facts |= _flat({"AUG": cfg.TEST.AUG, "SLIDING_WINDOW": cfg.TEST.SLIDING_WINDOW}, "TEST")
    facts |= _flat({key: cfg.INPUT[key] for key in ("MIN_SIZE_TEST", "MAX_SIZE_TEST", "FORMAT")}, "INPUT")
    facts["words of the training"] = training and training.names
    facts["dtype"] = str(precision or torch.float32).removeprefix("torch.")
    return json.loads(json.dumps({key: value for key, value in facts.items() if key not in _NO_FACTS}, default=str))


def _flat(node: dict[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat |= _flat(value, f"{prefix}.{key}") if isinstance(value, CfgNode) else {f"{prefix}.{key}": value}
    return flat


def calibration_of(cfg: CfgNode, model: nn.Module, facts: dict[str, Any]) -> Calibration:
    """The calibration beside the checkpoint that a config names, checked against its model.

    Raises:
        UserError: there is none, it cannot be read, or it is that of another model.
    """
    weights = cfg.MODEL.WEIGHTS
    path = calibration_path(Path(weights)) if weights else None
    if path is None or not path.is_file():
        place = f"beside {weights}" if weights else "of a model without MODEL.WEIGHTS"
        raise UserError(
            f"There is no calibration {place}, which alpha below 1 needs: run maft calibrate --model "
            f"{weights or 'CHECKPOINT'} --dataset NAME with held-out images, of a released model with --output FOLDER."
        )
    calibration = Calibration.read(path)
    calibration.check_model(fingerprint(model, {}), facts)
    return calibration


def rejection_of(predictor: LoadedModel, words: Vocabulary, none_below: Any, alpha: Any) -> Rejection:
    """What `Predictor` leaves without a word.

    Raises:
        UserError: a number is out of range, or see `calibration_of` and `Calibration.thresholds`.
    """
    least = number_within("none_below", none_below)
    if number_within("alpha", alpha) == 0:
        raise UserError("alpha is 0, and no threshold keeps every absent word out: give a number above 0, up to 1.")
    if alpha == 1:
        return Rejection((0.0,) * len(words), least)
    calibration = predictor.calibration
    if not calibration.offers(words.in_words().names):
        _warn_of_other_words(calibration.dataset, words.names)
    if words.examples:
        _warn_of_examples(calibration.dataset, tuple(compress(words.names, words.examples)))
    seen = words.seen or (False,) * len(words)
    return calibration.rejection(float(alpha), seen, least)


@lru_cache
def _warn_of_other_words(dataset: str, names: tuple[str, ...]) -> None:
    """Once for the same words."""
    log.warning(
        "None of the words %s was offered in the calibration on %s: alpha bounds false alarms of words that are "
        "offered alike. Calibrate with yours: maft calibrate --absent WORD ...",
        some(list(names)),
        dataset,
    )


@lru_cache
def _warn_of_examples(dataset: str, names: tuple[str, ...]) -> None:
    """Once for the same classes."""
    log.warning(
        "The calibration on %s saw words alone, and %s %s examples: alpha is no bound for what examples name.",
        dataset,
        some(list(names)),
        "has" if len(names) == 1 else "have",
    )


def number_within(name: str, value: Any) -> float:
    """A number from 0 to 1; raises `UserError` for anything else."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) <= 1:
        raise UserError(f"{name} is {shown(value)}: give a number from 0 to 1.")
    return float(value)
