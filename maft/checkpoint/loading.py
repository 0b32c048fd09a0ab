"""The one rule for weights: which file gives which part of a model.

`MODEL.WEIGHTS` names a trained model, the entries of `MODEL.START_FROM` the files that a training starts from::

    START_FROM:
      - {FILE: output/segmentation/model_final, TAKE: [proposer, vocabulary_encoder]}
      - {FILE: output/region_clip/model_final, TAKE: mask_prompts, INTO: classifier.mask_prompts}
      - {FILE: R-103.pkl, INTO: proposer.backbone}

They are asked in this order, `MODEL.WEIGHTS` first. Each fills what is still open of the parts it gives, and one that
has nothing left to fill is not even read: a trained model is evaluated without the files it was started from. Parts
are clip, vocabulary_encoder, proposer and classifier, or anything below one. A part that is named has to fit to the
last tensor, but for what MAY_LACK allows. A file whose parts are not named gives every part that the model has too.
The weights of another kind of proposer or classifier than the config's are left out with a line in the log, where the
config's needs none. What is open in the end keeps what it was built
with: CLIP the weights of `MODEL.CLIP.PRETRAINED`, a component of its own weights those; with `MODEL.WEIGHTS` anything
else is an error.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from torch import Tensor, nn

from maft.addresses import downloaded, is_address
from maft.checkpoint.io import read_state_dict
from maft.checkpoint.key_map import differences, load_strictly, some
from maft.checkpoint.official.released import convert_released, recognise
from maft.config import WeightsRule, start_from
from maft.errors import UserError, closest

# What models may have; one without a part leaves a file for it unread.
_PARTS = ("proposer", "classifier", "clip", "vocabulary_encoder", "classifier_vocabulary_encoder", "mask_prompts")

logger = logging.getLogger(__name__)

_CLIP_TOWERS = ("clip.model.visual.", "clip.model.")
_OWN_CLIP = "classifier.clip.model."


Tensors = Mapping[str, Tensor]
# (prefix in the file, prefix in the model), each with a dot at the end or empty.
Parts = list[tuple[str, str]]


@dataclass
class _File:
    """One file of the list, read when it is first asked for."""

    rule: WeightsRule
    whole: bool = False
    tensors: Tensors | None = None
    classes: int = 0

    @cached_property
    def state(self) -> Tensors:
        return read_weights(self.rule.file, self.classes) if self.tensors is None else self.tensors

    @property
    def named(self) -> Parts:
        """The parts that its rule names."""
        rule = self.rule
        if rule.take:
            return [(f"{part}.", f"{rule.into or part}.") for part in rule.take]
        return [("", f"{rule.into}.")] if rule.into else []

    def clip(self) -> dict[str, Tensor]:
        """The whole CLIP that it gives, named from its own root; empty when it gives none."""
        prefix = {target: source for source, target in self.named}.get("clip.") if self.named else "clip."
        if prefix is None:
            return {}
        found = _below(self.state, prefix)
        images = sum(name.startswith(f"{prefix}model.visual.") for name in found)
        return {n.removeprefix(prefix): value for n, value in found.items()} if 0 < images < len(found) else {}

    def parts_of(self, model: Tensors, own: Sequence[str]) -> Parts:
        """What its rule names, as far as the model has it; a part of another kind of component is left out."""
        parts = []
        for source, target in self.named:
            top = target.partition(".")[0]
            if _below(model, target):
                parts.append((source, target))
            elif (tensor := target.rstrip(".")) in model:
                raise UserError(
                    f"MODEL.START_FROM takes {tensor} from {self.rule.file}, which is a single tensor: take the part "
                    f"that it belongs to, {tensor.rpartition('.')[0]}."
                )
            elif top not in (known := sorted({*_PARTS, *(name.partition(".")[0] for name in model)})):
                raise UserError(
                    f"MODEL.START_FROM names {top!r}, which is no part of a model ({', '.join(known)})."
                    f"{closest(top, known)}"
                )
            elif top in own or not _below(model, f"{top}."):
                logger.warning("%s is not read: this model's %s has no such weights.", self.rule.file, top)
            else:
                raise UserError(
                    f"{self.rule.file} is for {target.rstrip('.')}, which this model does not have: leave it out of "
                    "MODEL.START_FROM."
                )
        return parts

    def taken(self, parts: Parts) -> dict[str, Tensor]:
        """Its tensors for the parts, under the model's names."""
        taken: dict[str, Tensor] = {}
        for source, target in parts:
            found = {target + n.removeprefix(source): value for n, value in _below(self.state, source).items()}
            if not found:
                held = ", ".join(sorted({name.partition(".")[0] for name in self.state}))
                raise UserError(
                    f"{self.rule.file} has nothing called {source.rstrip('.')}, which MODEL.START_FROM takes from it: "
                    f"it has {held or 'nothing that a model holds'}."
                )
            taken.update(found)
        return taken

    def without_strangers(self, state: dict[str, Tensor], model: Tensors, tops: Iterable[str]) -> dict[str, Tensor]:
        """The tensors without those of components of another kind than the model's."""
        for top in tops:
            found, wanted = _below(state, f"{top}."), _below(model, f"{top}.")
            if found and not found.keys() & wanted.keys():
                kind = f"another kind of {top}" if wanted else f"a {top}"
                logger.warning("%s holds %s: its %d tensors are left out.", self.rule.file, kind, len(found))
                state = {name: value for name, value in state.items() if name not in found}
        return state

    def give(self, model: nn.Module, still_open: Tensors, own: Sequence[str]) -> list[str]:
        """Copies what it has for the open tensors of a model and returns their names."""
        expected = model.state_dict()
        if self.named:
            parts = self.parts_of(expected, own)
            targets = tuple(target for _, target in parts)
            among = {name: value for name, value in still_open.items() if name.startswith(targets)}
            if not among:
                return []
            state = self.without_strangers(self.taken(parts), expected, own)
        else:
            if not self.whole and all(name.partition(".")[0] in ("clip", *own) for name in still_open):
                return []
            state = self.without_strangers(dict(self.state), expected, _PARTS)
            held = {name.partition(".")[0] for name in state}
            # A file without any part of the model is held against all of it, so that the message can say so.
            among = {n: value for n, value in still_open.items() if n.partition(".")[0] in held} or dict(still_open)
        # What a file before this one gave stays.
        state = {name: value for name, value in state.items() if name in still_open or name not in expected}
        if not state:
            return []
        for name, value in state.items():
            if name in expected and expected[name].is_floating_point():
                if not value.is_floating_point():
                    raise UserError(f"{self.rule.file} holds {value.dtype} under {name}, where the model has weights.")
                if not value.isfinite().all():
                    raise UserError(
                        f"{self.rule.file} holds numbers that are not finite under {name}: it is of no use."
                    )
        for name in self.rule.may_lack:
            if not _below(expected, f"{name}."):
                tops = {".".join(known.split(".")[: name.count(".") + 1]) for known in expected}
                logger.warning(
                    "MODEL.START_FROM: MAY_LACK %s of %s is nothing that this model has.%s",
                    name, self.rule.file, closest(name, tops),
                )  # fmt: skip
        lacking = [*(f"{name}." for name in self.rule.may_lack), *pruned_parts(self.state), *_own_texts(among, state)]
        load_strictly(model, state, self.rule.file, may_lack=lacking, among=among)
        return [name for name in state if name in expected]


@dataclass
class InitialWeights:
    """The files that a model's weights come from, in the order in which they are asked.

    Attributes:
        files: see the module's text.
        given: name -> file of what `load_into` has filled.
    """

    files: list[_File] = field(default_factory=list)
    given: dict[str, str] = field(default_factory=dict)

    @classmethod
    def from_config(cls, cfg: CfgNode, classes: int = 0) -> InitialWeights:
        """What ``MODEL.WEIGHTS`` and ``MODEL.START_FROM`` name; nothing is read yet.

        Args:
            classes: how many the trained model of ``MODEL.WEIGHTS`` was trained on, 0 for any number.

        Raises:
            UserError: an entry of ``MODEL.START_FROM`` is misspelt or of another form.
        """
        whole = [_File(WeightsRule(file=cfg.MODEL.WEIGHTS), whole=True, classes=classes)] if cfg.MODEL.WEIGHTS else []
        return cls([*whole, *(_File(rule) for rule in start_from(cfg))])

    @classmethod
    def of_model(cls, tensors: Tensors, source: str) -> InitialWeights:
        """The tensors of a whole model under our names; ``source`` is how messages call them."""
        return cls([_File(WeightsRule(file=source), whole=True, tensors=tensors)])

    def clip(self) -> dict[str, Tensor]:
        """The first whole CLIP among the files, named from its own root; empty when there is none.

        A model is built around it, so that no other one is downloaded first and copies of its tower start from it.
        """
        # A trained model without its CLIP was pruned: what it was started from is not asked for another one.
        trained = any(file.whole for file in self.files)
        asked = (file for file in self.files if file.whole or file.named or not trained)
        return next((clip for file in asked if (clip := file.clip())), {})

    def load_into(self, model: nn.Module, own: Sequence[str] = ()) -> list[str]:
        """Fills the model.

        Args:
            own: parts whose tensors were right from the start (components that bring their weights).

        Returns:
            the names that no file gave, without those of ``own`` and of CLIP.

        Raises:
            UserError: a file cannot be read, does not fit, gives nothing, or leaves something of a trained model open.
        """
        still_open = dict(model.state_dict())
        for file in self.files:
            for name in file.give(model, still_open, own):
                del still_open[name]
                self.given[name] = file.rule.file
        left = [name for name in still_open if name.partition(".")[0] not in ("clip", *own)]
        whole = next((file.rule.file for file in self.files if file.whole), None)
        if left and whole:
            raise UserError(
                f"{whole} does not fit the model: it lacks {len(left)} of its tensors ({some(left)}); use the config "
                "it was trained with, or say under MODEL.START_FROM which file gives them, as in "
                f"[{{'FILE': ..., 'TAKE': '{left[0].partition('.')[0]}'}}]."
            )
        return left


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name: value for name, value in tensors.items() if name.startswith(prefix)}


def read_weights(path: str | os.PathLike[str], classes: int = 0) -> dict[str, Tensor]:
    """A checkpoint of ours (file or folder) or an official release, under our names.

    Args:
        path: of a file, or an address as `maft.addresses` takes it.
        classes: how many a release was trained on, 0 for any number.

    Raises:
        UserError: the file cannot be downloaded or read, or `convert_released` refuses it.
    """
    state = read_state_dict(downloaded(str(path)) if is_address(str(path)) else Path(path))
    release = recognise(state)
    if release is None:
        return state
    logger.info("%s holds official weights (%s): translating their names.", path, release)
    return convert_released(state, release, str(path), classes)


def _own_texts(model: Tensors, state: Tensors) -> list[str]:
    """What a classifier's own CLIP has beside its image tower, where a file holds nothing but that tower of it.

    MaskCLIP++'s released files leave out text towers that were not tuned; they are those of the CLIP that it names.
    """
    found = _below(state, _OWN_CLIP)
    if not found or any(not name.startswith(f"{_OWN_CLIP}visual.") for name in found):
        return []
    return [name for name in _below(model, _OWN_CLIP) if not name.startswith(f"{_OWN_CLIP}visual.")]


def pruned_parts(state: Mapping[str, object]) -> tuple[str, ...]:
    """Prefixes of CLIP and its image tower, as far as a file with a whole model has nothing below them.

    Such a file may be pruned: the model keeps the CLIP of its config.
    """
    return tuple(prefix for prefix in _CLIP_TOWERS if not any(name.startswith(prefix) for name in state))


def unfit(model: Mapping[str, Any], state: Mapping[str, Any]) -> list[str]:
    """What differs between a model and a file that may lack CLIP, one line each."""
    lacking = pruned_parts(state)
    return differences({n: s for n, s in model.items() if n in state or not n.startswith(lacking)}, state)
