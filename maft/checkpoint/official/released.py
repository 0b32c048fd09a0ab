"""The released checkpoints: how each is recognised, and its map onto our model.

``names.json`` lists the official parameter names and ours, by component, and the releases.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from maft.checkpoint.key_map import KeyMap, Rule, Value
from maft.errors import UserError

_TABLE = json.loads(Path(__file__).with_name("names.json").read_text(encoding="utf-8"))


@cache
def key_map(component: str) -> KeyMap:
    """The map of a component of ``names.json``, relative to the component on both sides.

    An entry of two is a rule (pattern, replacement), one of three another component below its own prefixes: (official
    prefix, our prefix, component).
    """
    rules: list[Rule] = []
    for official, ours, *part in _TABLE["components"][component]["names"]:
        rules += KeyMap.nested([(official, ours, key_map(part[0]).rules)]).rules if part else [(official, ours)]
    return KeyMap(rules)


@dataclass(frozen=True)
class Release:
    """One family of released files.

    Attributes:
        name: how messages call it.
        signs: regular expressions of which each must match the beginning of some parameter name.
        component: of ``names.json``, the whole model's.
        absent: like ``signs``, but none may match.
        class_weights: name of a tensor with one number for every class that was trained, and one for void.
        continued: how the names of the first and of the last blocks of one tower begin, where the last ones are counted
            from 0 again; empty where no tower is cut.
    """

    name: str
    signs: tuple[str, ...]
    component: str
    absent: tuple[str, ...] = ()
    class_weights: str = ""
    continued: tuple[str, ...] = ()

    @property
    def key_map(self) -> KeyMap:
        """Official names to ours."""
        return key_map(self.component)

    def fits(self, names: list[str]) -> bool:
        def present(sign: str) -> bool:
            return any(re.match(sign, name) for name in names)

        return all(map(present, self.signs)) and not any(map(present, self.absent))


# The first one that fits is it: a system that adds parts to another one stands before that.
RELEASES = TypeAdapter(tuple[Release, ...]).validate_python(_TABLE["releases"])


def recognise(state: Mapping[str, object]) -> str | None:
    """Name of the release a checkpoint belongs to; None when it has our own names."""
    names = list(state)
    return next((release.name for release in RELEASES if release.fits(names)), None)


def convert_released(state: Mapping[str, Value], name: str, source: str, classes: int = 0) -> dict[str, Value]:
    """A released state dict under our names.

    Args:
        classes: how many the config trains on, 0 where that says nothing.

    Raises:
        UserError: the checkpoint holds a tensor the release does not have, or was trained on another number of classes.
    """
    release = next(release for release in RELEASES if release.name == name)
    if classes and release.class_weights in state:
        weights: Any = state[release.class_weights]
        trained = getattr(weights, "shape", weights)[0] - 1
        if trained != classes:
            raise UserError(
                f"{source} is a {name} checkpoint of {trained} classes and DATASETS.TRAIN has {classes}: take the "
                "config of the data that it was trained on, and name others under DATASETS.TEST."
            )
    if release.continued:
        state = _counted_on(state, *release.continued)
    return release.key_map.convert({key: value for key, value in state.items() if not _no_prompts(key, value)}, source)


def _counted_on(state: Mapping[str, Value], first: str, last: str) -> dict[str, Value]:
    """The same with the blocks that begin with ``last`` counted on from those that begin with ``first``."""
    count = len({name[len(first) :].partition(".")[0] for name in state if name.startswith(first)})

    def counted(name: str) -> str:
        number, _, rest = name.removeprefix(last).partition(".")
        return f"{last}{int(number) + count}.{rest}" if name.startswith(last) and number.isdecimal() else name

    return {counted(name): value for name, value in state.items()}


def _no_prompts(name: str, value: object) -> bool:
    """Whether this is the (0, patches, width) parameter of an OVSeg tower that was built without mask prompts."""
    shape = getattr(value, "shape", value)
    return name.endswith("visual.mask_embedding") and isinstance(shape, tuple) and shape[0] == 0
