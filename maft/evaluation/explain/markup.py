"""HTML of which all is escaped that is not HTML already, so that no class name or path can become a part of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

_WITHOUT_END = ("img",)


class Markup(str):
    """HTML as it is; any other text is escaped where it is put into an element."""


def tag(name: str, *content: object, **attributes: object) -> Markup:
    """An element.

    Args:
        content: `Markup` as it is, other things as text.
        attributes: "class_" stands for class, "aria_label" for aria-label; one that is None is left out, True is a
            bare one.
    """
    said = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{escape(str(value))}"')
        for key, value in attributes.items()
        if value is not None
    )
    end = "" if name in _WITHOUT_END else f"</{name}>"
    return Markup(f"<{name}{said}>{joined(content)}{end}")


def joined(content: Iterable[object]) -> Markup:
    """Things one after the other."""
    return Markup("".join(one if isinstance(one, Markup) else escape(str(one)) for one in content))


def table(caption: str, headers: Sequence[str], rows: Iterable[Sequence[object]], *, sortable: bool = False) -> Markup:
    """A table whose first column names its rows; numbers stand to the right.

    Args:
        sortable: the reader may sort it by a column, where scripts are allowed.
    """
    first = tag("tr", *(tag("th", header, scope="col") for header in headers))
    body = (
        tag("tr", *(_cell(cell, "row" if place == 0 else None) for place, cell in enumerate(cells))) for cells in rows
    )
    content = tag(
        "table",
        tag("caption", caption),
        tag("thead", first),
        tag("tbody", *body),
        class_="sortable" if sortable else None,
    )
    # Scrolled by itself, so that the page is never wider than its window; by the keyboard, too.
    return tag("div", content, class_="wide", tabindex="0", role="region", aria_label=caption)


def _cell(value: object, scope: str | None) -> Markup:
    number = value.value if isinstance(value, Number) else None
    style = "number" if number is not None else None
    return tag("th" if scope else "td", value, scope=scope, class_=style, data_value=number)


class Number(str):
    """A number as it is shown in a table, with its value for sorting."""

    value: float

    def __new__(cls, value: float | None, form: str = ".1f") -> Number:
        text = super().__new__(cls, "" if value is None or value != value else format(value, form))
        text.value = float("-inf") if value is None or value != value else float(value)
        return text
