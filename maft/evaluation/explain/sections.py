"""What the page says of the parts of a score: in all, by class and by image, and how masks are named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, fields
from pathlib import Path

from maft.evaluation.explain.explanation import Confusion, Explanation, ImageLoss, Parts
from maft.evaluation.explain.markup import Markup, Number, joined, table, tag
from maft.evaluation.explain.plots import stacked_bars
from maft.evaluation.explain.relations import RELATIONS

CAUSES = {
    "masks": "no good mask",
    "names": "wrong name",
    "ensemble": "ensemble",
    "fusion": "overlapping masks",
    "void": "void",
}
MEANINGS = {
    "masks": "no proposal shows the pixels well",
    "names": "the right masks have wrong names",
    "ensemble": "right names become wrong where the scores of proposer and classifier are joined",
    "fusion": "of several masks over a pixel, a wrong one wins",
    "void": "right masks are taken for no object",
}
# Rows of the tables and bars of the plots that are shown before the reader asks for more.
_BARS, _CONFUSIONS, _IMAGES = 12, 25, 15


def where(explanation: Explanation) -> Markup:
    """What is lost where, in all and over seen and unseen classes."""
    rows = [("in all", explanation.total), *((f"{name} classes", one) for name, one in explanation.groups.items())]
    return section(
        "where",
        "What is lost where",
        tag("p", *_sentence(explanation)),
        together(
            _bars(
                "Points of mIoU that each part costs",
                rows,
                "Each bar is what is missing to 100 % mIoU, cut into its parts; what lies left of zero is a gain.",
            ),
            tag("ul", *(tag("li", tag("strong", CAUSES[key]), f": {MEANINGS[key]}.") for key in CAUSES)),
        ),
        _parts_table("Percentage points that are missing to 100 % mIoU", "classes", rows),
    )


def _sentence(explanation: Explanation) -> list[object]:
    total = explanation.total
    if total.loss <= 0:
        return ["Nothing is missing."]
    largest = max(CAUSES, key=lambda key: getattr(total, key))
    return [
        f"Of the {total.loss:.1f} points that are missing to 100\u00a0%, the largest part is ",
        tag("strong", CAUSES[largest]),
        f", {getattr(total, largest):.1f}: {MEANINGS[largest]}.",
    ]


def classes(explanation: Explanation) -> Markup:
    """The classes that lose most, and a table of all."""
    there = sorted(
        ((one, one.parts) for one in explanation.classes if one.parts is not None), key=lambda pair: -pair[1].loss
    )
    split = any(one.seen is not None for one in explanation.classes)
    headers = ["class", *(["seen"] if split else []), "pixels", "IoU", "loss", *CAUSES.values()]
    rows = [
        [
            one.name,
            *([_yes(one.seen)] if split else []),
            Number(one.pixels, ",d"),
            Number(100 - parts.loss),
            *map(Number, astuple(parts)),
        ]
        for one, parts in there
    ]
    absent = [one.name for one in explanation.classes if one.parts is None]
    return section(
        "classes",
        "Classes",
        alone(
            _bars(
                "The classes that lose most",
                [(_short(one.name), parts) for one, parts in there[:_BARS]],
                "Each bar is what a class is missing to 100 % IoU, cut into its parts.",
            )
        ),
        tag(
            "details",
            tag("summary", f"All {len(rows)} classes in numbers"),
            table("Pixels, and percentages; a click on a heading sorts by it", headers, rows, sortable=True),
        ),
        tag("p", f"No pixel of the dataset is of: {'; '.join(absent)}.") if absent else "",
    )


def names(explanation: Explanation) -> Markup:
    """Right masks with wrong names, and how these are related to the true ones."""
    found = explanation.confusions
    if not found:
        return section("names", "Wrong names", tag("p", "No right mask has a wrong name."))
    pixels = sum(one.pixels for one in found)
    counts = {kind: sum(one.pixels for one in found if one.relation == kind) for kind in RELATIONS}
    summary = [
        [kind, RELATIONS[kind], Number(count, ",d"), Number(100 * count / pixels)] for kind, count in counts.items()
    ]
    return section(
        "names",
        "Wrong names",
        tag("p", "Right masks (at least half of their labelled pixels are of one class) whose final name is another."),
        table("How the wrong name is related to the true one", ["relation", "meaning", "pixels", "%"], summary),
        tag(
            "p",
            "How this was decided: no dictionary was asked. Names that share a word, or that a label set of this "
            "package lists for one class, are synonyms; a name that ends in all of another one is a kind of it "
            "(a coffee table is a table); lists of FC-CLIP that hold kinds beside synonyms name their first word as "
            "the parent of the others; names that end in the same word, or have one parent, are siblings.",
        ),
        table(
            f"The {min(len(found), _CONFUSIONS)} pairs with the most pixels, of {len(found)}",
            ["true class", "named", "the name is its", "pixels", "% of the class", "cosine of the texts"],
            [_confused(one) for one in found[:_CONFUSIONS]],
            sortable=True,
        ),
    )


def _confused(one: Confusion) -> list[object]:
    return [
        one.true,
        one.named,
        one.relation,
        Number(one.pixels, ",d"),
        Number(100 * one.share),
        Number(one.similarity, ".2f"),
    ]


def images(explanation: Explanation) -> Markup:
    """The images that lose most."""
    there = sorted(
        ((one, one.parts) for one in explanation.images if one.parts is not None), key=lambda pair: -pair[1].loss
    )[:_IMAGES]
    rows = [[shown_file(one), *map(Number, astuple(parts))] for one, parts in there]
    return section(
        "images",
        "Worst images",
        table(
            f"The {len(rows)} images that lose most: points missing to 100 % mIoU over the classes of each",
            ["image", "loss", *CAUSES.values()],
            rows,
            sortable=True,
        ),
    )


def shown_file(one: ImageLoss) -> Markup:
    """The name of an image's file, and where it lies for who asks."""
    return tag("span", Path(one.file).name, title=one.file)


def section(place: str, title: str, *content: object) -> Markup:
    """A part of the page with a heading that can be linked to."""
    return tag("section", tag("h2", title, id=place), *content, aria_labelledby=place)


def figure(title: str, plot: Markup, reading: str, *more: object) -> Markup:
    """A plot with its title, and one sentence that says how to read it."""
    return tag("figure", plot, *more, tag("figcaption", tag("strong", f"{title}. "), reading))


def _bars(title: str, rows: Sequence[tuple[str, Parts]], reading: str) -> Markup:
    plot = stacked_bars(
        title,
        [(name, [getattr(parts, key) for key in CAUSES]) for name, parts in rows],
        list(CAUSES.values()),
        list(CAUSES),
        "percentage points",
    )
    return figure(title, plot, reading, _keys())


def _keys() -> Markup:
    return tag("ul", *(tag("li", _swatch(key), text) for key, text in CAUSES.items()), class_="keys")


def _swatch(style: str) -> Markup:
    box = tag("rect", width=16, height=8, class_=f"key {style}")
    return tag("svg", box, viewBox="0 0 16 8", aria_hidden="true")


def _parts_table(caption: str, first: str, rows: Sequence[tuple[str, Parts]]) -> Markup:
    assert [field.name for field in fields(Parts)] == ["loss", *CAUSES]
    return table(
        caption, [first, "loss", *CAUSES.values()], [[name, *map(Number, astuple(parts))] for name, parts in rows]
    )


def _short(name: str) -> str:
    first = name.split(",")[0].strip()
    return first if len(first) <= 40 else first[:39] + "…"


def _yes(seen: bool | None) -> str:
    return "" if seen is None else "yes" if seen else "no"


def together(*figures: Markup) -> Markup:
    """Figures beside each other where there is room."""
    return tag("div", joined(figures), class_="figures")


def alone(one: Markup) -> Markup:
    """A figure that is no wider than those beside others."""
    return tag("div", one, class_="figures one")
