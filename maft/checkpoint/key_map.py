"""Translates the parameter names of one code base into those of another, and reports what does not fit."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from maft.errors import UserError

Shapes = Mapping[str, Tensor | torch.Size]

_QUERIES = "query_embed.weight"
_PROMPTS = re.compile(r".*\bprompts\.(prefix|suffix|task)")


def explain(model: Shapes, state: Shapes) -> str:
    """The likeliest mistake behind a misfit as the end of a sentence; empty when there is no telling.

    Args:
        model: names and tensors, or shapes, of the model.
        state: those of the checkpoint.
    """
    common = [name for name in model if name in state]
    if len(common) < min(len(model), len(state)) / 2:
        return (
            f"it belongs to another architecture (only {len(common)} of its {len(state)} tensors have a counterpart "
            f"among the model's {len(model)}); choose the config it was trained with"
        )
    if prompts := _explain_prompts(model, state):
        return prompts
    theirs, ours = (embedding_width(shapes) for shapes in (state, model))
    if theirs and ours and theirs != ours:
        return (
            f"it was trained with a CLIP of embedding width {theirs} and MODEL.CLIP.NAME has one of {ours}; "
            "use the CLIP it was trained with, or train stage 1 again with this one"
        )
    for name in filter(lambda name: name.endswith(_QUERIES), common):
        theirs, ours = _shape(state[name])[0], _shape(model[name])[0]
        if theirs != ours:
            return f"it has {theirs} queries, not {ours}; set NUM_QUERIES of the proposer to {theirs}"
    return ""


def _explain_prompts(model: Shapes, state: Shapes) -> str:
    """What differs between learned prompts; empty where nothing does."""
    theirs, ours = ([name for name in shapes if _PROMPTS.fullmatch(name)] for shapes in (state, model))
    if theirs and not ours:
        return "it has learned prompts; set MODEL.VOCABULARY.TEMPLATES to learned"
    if ours and not theirs:
        return "it has no learned prompts; set MODEL.VOCABULARY.TEMPLATES to those it was trained with"
    for name in theirs:
        if len(shape := _shape(state[name])) != 2:
            return f"its {name} has the shape {tuple(shape)}, which is no list of vectors; download it again"
    for name in sorted({*theirs, *ours}):
        (has, width), (wants, wanted) = (
            tuple(_shape(shapes.get(name, torch.Size([0, 0])))) for shapes in (state, model)
        )
        if has and wants and width != wanted:
            return (
                f"its prompts are for a text tower of width {width} and MODEL.CLIP.NAME has one of {wanted}; use the "
                "CLIP they were learned with"
            )
        if has != wants:
            part = name.rpartition(".")[2]
            return (
                f"it has {has} learned vectors of the kind {part}, not {wants}; set MODEL.VOCABULARY.PROMPTS."
                f"{part.upper()} to {has}"
            )
    return ""


def embedding_width(shapes: Shapes) -> int:
    """Width of the joint space of CLIP that a model or checkpoint was made for; 0 when nothing says."""
    for name, value in shapes.items():
        if name.endswith(("void_embedding", "text_projection")):
            return _shape(value)[-1]
    return 0


def _shape(value: Tensor | torch.Size) -> torch.Size:
    return value.shape if isinstance(value, Tensor) else value


Rule = tuple[str, str | None]
Value = TypeVar("Value")


class KeyMap:
    """An ordered list of renaming rules.

    Args:
        rules: pairs (regular expression matching a whole name, replacement). The first match wins; a replacement of
            None drops the tensor knowingly (buffers that are rebuilt, towers that are never used).
    """

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.rules: tuple[Rule, ...] = tuple(rules)
        self._compiled = [(re.compile(pattern), target) for pattern, target in self.rules]

    @classmethod
    def nested(cls, parts: Sequence[tuple[str, str, Iterable[Rule]]]) -> KeyMap:
        """Joins the maps of components: (official prefix, our prefix, rules without prefixes), in order."""
        rules: list[Rule] = []
        for official, ours, component in parts:
            for pattern, target in component:
                rules.append((f"{re.escape(official)}(?:{pattern})", None if target is None else ours + target))
        return cls(rules)

    def rename(self, name: str) -> str | None:
        """Our name of an official one, None when it is dropped; raises KeyError when no rule matches."""
        for pattern, target in self._compiled:
            match = pattern.fullmatch(name)
            if match:
                return None if target is None else match.expand(target)
        raise KeyError(name)

    def convert(self, state: Mapping[str, Value], source: str = "the checkpoint") -> dict[str, Value]:
        """Renames every entry of ``state``.

        Raises:
            UserError: a name matches no rule, or two names map to the same one.
        """
        converted: dict[str, Value] = {}
        unknown: list[str] = []
        for name, value in state.items():
            try:
                target = self.rename(name)
            except KeyError:
                unknown.append(name)
                continue
            if target is None:
                continue
            if target in converted:
                raise UserError(f"Two tensors of {source} map to {target!r}: it is not a checkpoint of this model.")
            converted[target] = value
        if unknown:
            raise UserError(f"{source} has {len(unknown)} unknown tensors ({some(unknown)}): is it of another model?")
        return converted


def differences(model: Shapes, state: Shapes) -> list[str]:
    """What differs between the names and shapes of a model and of a state dict, one line each."""
    ours, theirs = ({name: tuple(_shape(value)) for name, value in shapes.items()} for shapes in (model, state))
    return [
        *(f"missing: {name} {shape}" for name, shape in ours.items() if name not in theirs),
        *(f"unexpected: {name} {shape}" for name, shape in theirs.items() if name not in ours),
        *(
            f"shape of {name}: {theirs[name]} in the checkpoint, {shape} in the model"
            for name, shape in ours.items()
            if theirs.get(name, shape) != shape
        ),
    ]


def load_strictly(
    module: nn.Module,
    state: Mapping[str, Tensor],
    source: str,
    *,
    may_lack: Sequence[str] = (),
    among: Mapping[str, Tensor] | None = None,
) -> list[str]:
    """Copies a state dict into a module, all or nothing.

    Args:
        may_lack: prefixes of our names that the checkpoint may lack.
        among: the tensors of the module that it is for; None: all.

    Returns:
        the names that were missing and keep their present values.

    Raises:
        UserError: names or shapes differ elsewhere; nothing is copied then.
    """
    present = module.state_dict() if among is None else among
    problems = differences(present, state)
    allowance = tuple(may_lack)
    allowed = [p for p in problems if p.startswith("missing: ") and p.split()[1].startswith(allowance)]
    refused = [p for p in problems if p not in allowed]
    if refused:
        # What may be missing is no evidence of another architecture.
        reason = explain({k: v for k, v in present.items() if k in state or not k.startswith(allowance)}, state)
        raise UserError(
            f"{source} does not fit the model: {reason or 'use the config it was trained with'} "
            f"({len(refused)} differences: {some(refused, '; ')})."
        )
    module.load_state_dict(state, strict=False)
    return [p.split()[1] for p in allowed]


def some(items: Sequence[str], separator: str = ", ", most: int = 4) -> str:
    """The first items in a row, and how many more there are."""
    more = f"{separator}and {len(items) - most} more" if len(items) > most else ""
    return separator.join(items[:most]) + more
