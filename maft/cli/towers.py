"""List every CLIP that open_clip names, or those given, with the mask classifiers that work on it.

One line a name: kind of the image tower, parameters, native size, context of the texts, and the classifiers, or why
none does. Nothing is downloaded. With names given, each classifier that does not work says why.
"""

from __future__ import annotations

from collections.abc import Sequence

from maft.errors import ToolParser, UserError, closest


def parser() -> ToolParser:
    tool = ToolParser(prog="maft towers", description=__doc__)
    tool.add_argument("names", nargs="*", metavar="NAME", help="CLIPs to look at; default: all that open_clip lists")
    tool.add_argument("--check", action="store_true", help="compare small copies with open_clip (minutes for all)")
    return tool


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)

    from maft.clip.shrinking import listed_clips
    from maft.towers import check, describe, summary

    known = listed_clips()
    if wrong := [wanted for wanted in arguments.names if wanted not in known]:
        raise UserError(f"open_clip lists no CLIP {', '.join(map(repr, wrong))}.{closest(wrong[0], known)}")
    towers = []
    for name in arguments.names or known:
        towers.append(check(name) if arguments.check else describe(name))
        print(towers[-1].line(), flush=True)
        for fault in towers[-1].faults:
            print(f"    FAULT: {fault}")
        for key, reason in towers[-1].reasons.items() if arguments.names else ():
            print(f"    not {key or 'usable'}: {reason}")
    if any("*" in tower.facts for tower in towers):
        print("* the image tower alone: the description of the text tower is not at hand, see its model card")
    print(summary(towers))
    return 1 if any(tower.faults for tower in towers) else 0
