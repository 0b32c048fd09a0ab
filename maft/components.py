"""Lists every proposer, mask classifier, loss and ensemble with its options: ``python -m maft.components``.

The same text is the reference of component options in the documentation (``--markdown``).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from maft.errors import ToolParser, run_tool
from maft.options import REQUIRED, Option, describe
from maft.registry import CLASSIFIERS, ENSEMBLES, LOSSES, PROPOSERS, Registry, import_components

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


def main() -> None:
    parser = ToolParser(prog="python -m maft.components", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="components to list; default: all")
    parser.add_argument("--imports", nargs="+", default=[], metavar="MODULE", help="what a config has under IMPORTS")
    parser.add_argument("--markdown", action="store_true", help="tables instead of plain lines")
    arguments = parser.parse_args()
    import_components(arguments.imports)
    known = [(registry, name) for registry in REGISTRIES for name in registry]
    for wanted in arguments.names:
        if wanted not in [name for _, name in known]:
            parser.error(f"there is no component {wanted!r}: {', '.join(name for _, name in known)}")
    listed = [(registry, name) for registry, name in known if not arguments.names or name in arguments.names]
    if arguments.markdown:
        print(f"# Components and their options\n\nWritten by `{parser.prog} --markdown`.\n")
    for position, (registry, name) in enumerate(listed):
        if position == 0 or listed[position - 1][0] is not registry:
            title = REGISTRIES[registry]
            print(f"## {title}\n" if arguments.markdown else f"{title}\n")
        print("\n".join((markdown if arguments.markdown else plain_text)(registry, name)) + "\n")


if __name__ == "__main__":
    run_tool(main)
