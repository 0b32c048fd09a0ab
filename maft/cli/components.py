"""List every proposer, mask classifier, loss and ensemble with its options.

The same text is the reference of component options in the documentation (--markdown).
"""

from __future__ import annotations

from collections.abc import Sequence

from maft.errors import ToolParser, closest


def parser() -> ToolParser:
    tool = ToolParser(prog="maft components", description=__doc__)
    tool.add_argument("names", nargs="*", metavar="NAME", help="components to list; default: all")
    tool.add_argument("--imports", nargs="+", default=[], metavar="MODULE", help="what a config has under IMPORTS")
    tool.add_argument("--markdown", action="store_true", help="tables instead of plain lines")
    return tool


def main(argv: Sequence[str] | None = None) -> None:
    tool = parser()
    arguments = tool.parse_args(argv)

    from maft.components import REGISTRIES, markdown, plain_text
    from maft.registry import import_components

    import_components(arguments.imports)
    known = [(registry, name) for registry in REGISTRIES for name in registry]
    names = [name for _, name in known]
    for wanted in arguments.names:
        if wanted not in names:
            tool.error(f"there is no component {wanted!r}: {', '.join(names)}.{closest(wanted, names)}")
    listed = [(registry, name) for registry, name in known if not arguments.names or name in arguments.names]
    if arguments.markdown:
        print("# Components and their options\n\nWritten by `python -m maft.components --markdown`.\n")
    for position, (registry, name) in enumerate(listed):
        if position == 0 or listed[position - 1][0] is not registry:
            title = REGISTRIES[registry]
            print(f"## {title}\n" if arguments.markdown else f"{title}\n")
        print("\n".join((markdown if arguments.markdown else plain_text)(registry, name)) + "\n")
