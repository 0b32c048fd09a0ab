"""Confidence that is a probability, and a bound on how often absent words are answered.

A word of the vocabulary that is not in a picture and yet has pixels in the answer is a false alarm. For a group of
words (seen: those of the training vocabulary; unseen: all others) the loss of a picture at a threshold t is the share
of its offered absent words of the group that are still answered when pixels are kept only where their calibrated
confidence is at least t. It lies in 0..1 and never rises with t, so that conformal risk control (Angelopoulos, Bates,
Fisch, Lei and Schuster, 2024) applies. With the mean loss R(t) over n held-out pictures,

    t(alpha) = inf {t : n / (n + 1) * R(t) + 1 / (n + 1) <= alpha}    and then    E[loss of a new picture] <= alpha.

**The assumption**: the new picture is exchangeable with the calibration pictures and words are offered alike, in both
ways that absent words come about: drawn from the same kind of pictures, annotated by the same rule, with the same kind
and share of absent words. The expectation is over calibration pictures and new picture together; it says nothing of one
picture, of one word, or of the share of pixels. The theorem wants scores that do not know the pictures of the
thresholds, so that the temperature comes from other ones. The rising map behind it may know them: whatever it is, the
same pixels are left at the same share of answered words, which the order of pixels alone decides.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from maft.confidence import CalibratedConfidence
from maft.errors import UserError, first_line, shown
from maft.files import read_json, write_text_atomic
from maft.structures import as_clip_reads

VERSION = 2
FILE = "calibration.json"
GROUPS = ("seen", "unseen")
# Sums in another order differ so much, and a bound that is met exactly is met.
_ROUNDING = 1e-12
# The threshold above a confidence of 1.
_HIGHEST = float(np.nextafter(np.float32(1), np.float32(2)))


@dataclass(frozen=True)
class RiskCurve:
    """How often absent words of one group are answered, by threshold.

    Attributes:
        images: n, the pictures that had absent words of the group.
        thresholds: ascending from 0; pixels are kept where their confidence, a float32, is at least so high.
        risks: R, the mean loss of the pictures at each; falling, and 0 at the last one.
    """

    images: int
    thresholds: tuple[float, ...]
    risks: tuple[float, ...]

    @classmethod
    def of(cls, highest: Sequence[NDArray[np.float32]]) -> RiskCurve:
        """The curve of some pictures.

        Args:
            highest: of each picture, of each absent word (at least one): the highest confidence of its pixels, below 0
                where it has none.
        """
        levels = np.concatenate(highest)
        weights = np.concatenate([np.full(len(one), 1 / len(one) / len(highest)) for one in highest])
        order = np.argsort(levels[levels >= 0], kind="stable")
        levels, weights = levels[levels >= 0][order], weights[levels >= 0][order]
        distinct, first = np.unique(levels, return_index=True)
        above = np.append(np.cumsum(weights[::-1])[::-1], 0.0)
        # A word goes at the next float32 above its highest confidence, where the infimum of the rule is reached.
        thresholds = np.nextafter(distinct.astype(np.float32), np.float32(2))
        risks = above[np.append(first, len(levels))].clip(0, 1)
        return cls(len(highest), (0.0, *thresholds.tolist()), tuple(risks.tolist()))

    def threshold(self, alpha: float) -> float:
        """t(alpha), see the module.

        Raises:
            UserError: so few pictures bound nothing so low.
        """
        if alpha * (self.images + 1) < 1 - _ROUNDING:
            raise UserError(
                f"alpha {alpha:g} takes at least {math.ceil(1 / alpha - 1 - _ROUNDING)} calibration images with absent "
                f"words, and there are {self.images}: calibrate on more images, or ask for alpha "
                f"{1 / (self.images + 1):.2g} or more."
            )
        bounds = (self.images * np.array(self.risks) + 1) / (self.images + 1)
        return self.thresholds[int(np.argmax(bounds <= alpha + _ROUNDING))]

    def check(self) -> None:
        """Raises ValueError where these are no numbers of a risk curve."""
        thresholds, risks = np.array(self.thresholds), np.array(self.risks)
        # A number of images beyond those of 32 bits is none, and would overflow.
        if not 1 <= self.images < 2**31 or not len(thresholds) or len(thresholds) != len(risks):
            raise ValueError("a risk curve is empty")
        rising = thresholds[0] == 0 and (np.diff(thresholds) > 0).all() and thresholds[-1] <= _HIGHEST
        falling = risks[-1] == 0 and (np.diff(risks) <= 0).all() and 0 <= risks[0] <= 1
        if not (rising and falling):
            raise ValueError("a risk curve does not fall from at most 1 to 0")


@dataclass(frozen=True)
class Calibration:
    """What was measured on held-out pictures of a dataset.

    Attributes:
        model: fingerprint of the model's weights.
        facts: what else its answers depend on: config keys and their values.
        dataset: its name.
        words: all that were offered.
        confidence: how it is calibrated; its rising map comes from the pictures of the temperature and of the curves,
            in older files from the former alone.
        confidence_images: pictures that its temperature was fitted to, other ones than those of the curves.
        groups: "seen" and "unseen", where pictures had absent words of the group.
    """

    model: str
    facts: dict[str, Any]
    dataset: str
    words: tuple[str, ...]
    confidence: CalibratedConfidence
    confidence_images: int
    groups: dict[str, RiskCurve]

    def rejection(self, alpha: float, seen: Sequence[bool], none_below: float = 0.0) -> Rejection:
        """What is unknown under a bound; arguments and errors as of `thresholds` and `Rejection`."""
        return Rejection(tuple(self.thresholds(alpha, seen)), none_below, alpha, self.confidence)

    def thresholds(self, alpha: float, seen: Sequence[bool]) -> list[float]:
        """The least confidence of each word's pixels.

        Args:
            alpha: in (0, 1]; 1 keeps all.
            seen: of each word.

        Raises:
            UserError: there were no absent words of a group, or too few pictures.
        """
        if alpha == 1:
            return [0.0] * len(seen)
        of_group = {group: self._curve(group).threshold(alpha) for group in {_group(flag) for flag in seen}}
        return [of_group[_group(flag)] for flag in seen]

    def _curve(self, group: str) -> RiskCurve:
        if group not in self.groups:
            raise UserError(
                f"The calibration on {self.dataset} had no absent {group} words, so that nothing bounds how often such "
                "words are answered: calibrate on other images, or with --absent and words that are in none of them."
            )
        return self.groups[group]

    def offers(self, words: Sequence[str]) -> bool:
        """Whether it was made with any of these words."""
        return not {as_clip_reads(word) for word in self.words}.isdisjoint(map(as_clip_reads, words))

    def check_model(self, model: str, facts: Mapping[str, Any]) -> None:
        """Raises `UserError` unless it is that of this model, used alike."""
        again = "calibrate this model with maft calibrate."
        if model != self.model:
            raise UserError(f"The calibration on {self.dataset} is that of a model with other weights: {again}")
        differ = [key for key, value in self.facts.items() if key not in facts or facts[key] != value]
        if differ:
            key = differ[0]
            raise UserError(
                f"The calibration on {self.dataset} is that of the model with {key} {self.facts[key]}, not "
                f"{facts.get(key)}: {again}"
            )

    def write(self, path: Path) -> None:
        """Writes calibration.json, whole or not at all.

        Raises:
            UserError: the folder cannot be written to.
        """
        content = self._content()
        content["checksum"] = _checksum(_text(content))
        text = json.dumps(content, ensure_ascii=False, allow_nan=False)
        write_text_atomic(path, text + "\n")

    @classmethod
    def read(cls, path: Path) -> Calibration:
        """Reads what `write` wrote.

        Raises:
            UserError: there is no such file, it is of another version, or its numbers are not those written.
        """
        again = "calibrate again with maft calibrate."
        try:
            content = read_json(path)
            if not isinstance(content, dict):
                raise ValueError("it is no table")
            checksum = content.pop("checksum", None)
            text = _text(content)
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read as a calibration ({first_line(error)}): {again}") from error
        version = content.pop("version", None)
        if version != VERSION:
            raise UserError(f"{path} has the version {shown(version)}, not {VERSION}: {again}")
        if checksum != _checksum(text):
            raise UserError(f"{path} was changed after it was written, so that it bounds nothing: {again}")
        try:
            found = TypeAdapter(cls).validate_json(_text(content), strict=True)
            found.check()
            if _text(found._content()) != text:
                raise ValueError("it has more or other parts")
        except (ValidationError, ValueError) as error:
            raise UserError(f"{path} holds no calibration ({first_line(error)}): {again}") from error
        return found

    def _content(self) -> dict[str, Any]:
        return {"version": VERSION, **asdict(self)}

    def check(self) -> None:
        """Raises ValueError where these are no numbers and words of a calibration."""
        if not self.words or self.confidence_images < 1:
            raise ValueError("nothing was measured")
        if not self.groups.keys() <= set(GROUPS):
            raise ValueError("its groups are none")
        for curve in self.groups.values():
            curve.check()
        self.confidence.check()


@dataclass(frozen=True)
class Rejection:
    """What is left without a word, "unknown": a pure function of labels and confidence.

    Attributes:
        least: (C,) the least confidence of each word's pixels.
        none_below: the least confidence of any pixel.
        alpha: what ``least`` bounds, 1 for nothing.
        calibrated: the confidence that is compared; None: as the model gives it.
    """

    least: tuple[float, ...]
    none_below: float = 0.0
    alpha: float = 1.0
    calibrated: CalibratedConfidence | None = None

    @property
    def temperature(self) -> float | None:
        """What `maft.inference.semantic_result` is asked for."""
        return None if self.calibrated is None else self.calibrated.temperature

    def confidence(self, result: Mapping[str, Tensor]) -> Tensor:
        """(H, W) float32, the confidence that is compared, from a semantic result at `temperature`."""
        if self.calibrated is None:
            return result["sem_seg_confidence"]
        return self.calibrated.of(result["sem_seg_tempered"])

    def apply(self, labels: Tensor, confidence: Tensor) -> Tensor:
        """(H, W) labels, -1 where the confidence is too low.

        Args:
            labels: (H, W) int64, -1 for none.
            confidence: (H, W) float32, see `confidence`.
        """
        least = torch.tensor((*self.least, 0.0), dtype=torch.float32, device=labels.device)
        # The label -1 finds the entry behind the last word.
        return labels.masked_fill((confidence < least[labels]) | (confidence < self.none_below), -1)


def calibration_path(weights: Path) -> Path:
    """Where the calibration of a checkpoint lies: beside its file, which need not be there.

    Args:
        weights: the file or its folder; of NAME.safetensors it is NAME.calibration.json.
    """
    if weights.is_dir():
        return weights / FILE
    return weights.with_name(FILE if weights.stem == "model" else f"{weights.stem}.{FILE}")


def _group(seen: bool) -> str:
    return GROUPS[0] if seen else GROUPS[1]


def _text(content: Mapping[str, Any]) -> str:
    """What the checksum is of; raises ValueError for what is in no JSON: NaN, infinity and half characters."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, allow_nan=False)
    text.encode()
    return text


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
