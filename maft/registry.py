"""Registries of the interchangeable parts: proposers, mask classifiers, losses and score ensembles.

A component is one class (or function) in one file. Its options are the keyword-only parameters of its ``from_options``
class method (or of the component itself when it has none), so the YAML node under the component's own name is
checked against a real signature and a misspelt option is refused by name.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from maft.errors import UserError

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class BuildContext:
    """What a component may need from the model under construction, besides its own options.

    Attributes:
        clip: the shared CLIP encoder (``maft.clip.CLIPEncoder``).
        num_classes: number of classes of the training vocabulary.
        backbone: builds the Detectron2 backbone that ``MODEL.BACKBONE`` names; called only by components that use one.
        pretrained_clip: loads CLIP as ``MODEL.CLIP`` names it, where ``clip`` comes from a checkpoint that may have
            tuned it; None where ``clip`` is that CLIP.
    """

    clip: Any
    num_classes: int
    backbone: Callable[[], nn.Module]
    pretrained_clip: Callable[[], Any] | None = None


def _closest(word: str, known: list[str]) -> str:
    match = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f" Did you mean {match[0]}?" if match else ""


class Registry:
    """Named components of one kind.

    Args:
        kind: what the components are, in words used by error messages, such as ``"proposer"``.
        node: the config node that chooses among them, such as ``"MODEL.PROPOSER"``.
        package: where the components live; imported at the first look-up, so that the light modules of the project
            (the doctor, the config) can be imported where Detectron2 or open_clip are missing.
    """

    def __init__(self, kind: str, node: str, package: str) -> None:
        self.kind = kind
        self.node = node
        self.package = package
        self._components: dict[str, Callable[..., Any]] = {}

    def _filled(self) -> dict[str, Callable[..., Any]]:
        importlib.import_module(self.package)
        return self._components

    def register(self, name: str | None = None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Decorator that adds a class or function under ``name`` (default: its own name)."""

        def add(component: Callable[..., Any]) -> Callable[..., Any]:
            key = name or component.__name__
            if key in self._components:
                raise ValueError(f"{self.kind} {key!r} is registered twice")
            self._components[key] = component
            return component

        return add

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._filled()))

    def __contains__(self, name: object) -> bool:
        return name in self._filled()

    def get(self, name: str) -> Callable[..., Any]:
        """The component called ``name``; raises `UserError` listing the known ones."""
        if name not in self._filled():
            known = list(self)
            raise UserError(
                f"Unknown {self.kind} {name!r} in {self.node}; the known ones are: {', '.join(known)}."
                + _closest(name, known)
            )
        return self._components[name]

    def options(self, name: str) -> dict[str, inspect.Parameter]:
        """Keyword-only parameters of a component by their YAML (upper-case) name."""
        component = self.get(name)
        builder = getattr(component, "from_options", component)
        parameters = inspect.signature(builder).parameters.values()
        return {p.name.upper(): p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}

    def arguments(self, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """Checks the YAML options of a component and returns them as keyword arguments.

        Raises:
            UserError: an option is unknown or a required one is missing; the sentence lists the component's options.
        """
        known = self.options(name)
        for key in options:
            if key not in known:
                listed = ", ".join(known) or "none"
                raise UserError(
                    f"{self.kind.capitalize()} {name} has no option {key!r} ({self.node}.{name}.{key}); "
                    f"its options are: {listed}." + _closest(key, list(known))
                )
        missing = [k for k, p in known.items() if p.default is inspect.Parameter.empty and k not in options]
        if missing:
            raise UserError(f"{self.kind.capitalize()} {name} needs {self.node}.{name}.{missing[0]} to be set.")
        return {key.lower(): value for key, value in options.items()}

    def build(self, name: str, options: Mapping[str, Any], *context: Any) -> Any:
        """Constructs the component from its options; ``context`` is passed first, positionally."""
        component = self.get(name)
        builder = getattr(component, "from_options", component)
        return builder(*context, **self.arguments(name, options))


PROPOSERS = Registry("proposer", "MODEL.PROPOSER", "maft.proposals")
CLASSIFIERS = Registry("mask classifier", "MODEL.CLASSIFIER", "maft.classifiers")
LOSSES = Registry("loss", "MODEL.LOSSES", "maft.losses")
ENSEMBLES = Registry("ensemble", "MODEL.ENSEMBLE", "maft.ensembles")
