"""Lists every proposer, mask classifier, loss and ensemble with its options: ``maft components``."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from maft.errors import run_tool
from maft.options import REQUIRED, Option, describe
from maft.registry import CLASSIFIERS, ENSEMBLES, LOSSES, PROPOSERS, Registry

REGISTRIES: dict[Registry[Any], str] = {
    PROPOSERS: "Proposers",
    CLASSIFIERS: "Mask classifiers",
    LOSSES: "Losses",
    ENSEMBLES: "Ensembles",
}


def summary(component: type) -> str:
    """The first sentence of a component's docstring."""
    paragraph = inspect.cleandoc(component.__doc__ or "").split("\n\n")[0]
    return " ".join(paragraph.split())


def plain_text(registry: Registry, name: str) -> Iterator[str]:
    """The lines of one component for a terminal."""
    yield f"{registry.node}{'.NAME' if registry is not LOSSES else ''}: {name} - {summary(registry.get(name))}"
    for key, option in registry.options(name).items():
        yield f"    {key} ({option.describe()}): {option.text}"


def markdown(registry: Registry, name: str) -> Iterator[str]:
    """The lines of one component for the documentation."""
    yield f"### {name}\n\n{summary(registry.get(name))}\n"
    options = registry.options(name)
    if options:
        yield f"Options, under `{registry.node}.{name}`:\n\n| option | type | default | meaning |\n|---|---|---|---|"
        yield from (_row(key, option) for key, option in options.items())
        yield ""


def _row(key: str, option: Option) -> str:
    default = "must be set" if option.default is REQUIRED else f"`{option.default!r}`"
    return f"| `{key}` | {describe(option.annotation)} | {default} | {option.text} |"


if __name__ == "__main__":
    from maft.cli.components import main

    run_tool(main)
