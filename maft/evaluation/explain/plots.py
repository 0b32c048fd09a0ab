"""Plots as SVG whose text stays text and whose colours are those of the page, light, dark and printed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from maft.evaluation.explain.markup import Markup, joined, tag

WIDTH = 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 14, 10, 40
# Room that a number takes, at the size of the page's plots.
_NUMBER_WIDTH = 26


@dataclass(frozen=True)
class Line:
    """A line of a plot: its name, the class of its style ("line-1" to "line-3") and its points."""

    name: str
    style: str
    xs: Sequence[float]
    ys: Sequence[float]


@dataclass(frozen=True)
class Bar:
    """A bar from ``low`` to ``high`` on the x axis; one of height NaN is left out."""

    low: float
    high: float
    height: float
    title: str


def line_plot(
    title: str, lines: Sequence[Line], x_label: str, y_label: str, x_ticks: Sequence[float], x_form: str = "g"
) -> Markup:
    """Lines over an axis from the first to the last tick; y goes from 0 to 1."""
    axes = _Axes(x_ticks[0], x_ticks[-1], 1.0)
    drawn = [axes.frame(x_label, y_label, x_ticks, x_form)]
    for line in lines:
        points = " ".join(f"{axes.x(x):.1f},{axes.y(y):.1f}" for x, y in zip(line.xs, line.ys, strict=True))
        drawn.append(tag("polyline", tag("title", line.name), points=points, class_=f"line {line.style}"))
    return _svg(title, axes.height, drawn)


def bar_plot(
    title: str, bars: Sequence[Bar], x_label: str, y_label: str, x_ticks: Sequence[float], *, diagonal: bool = False
) -> Markup:
    """Bars over an axis from the first to the last tick.

    Args:
        diagonal: y goes from 0 to 1 as x does, and a line shows where both are equal.
    """
    heights = [bar.height for bar in bars if not math.isnan(bar.height)]
    axes = _Axes(x_ticks[0], x_ticks[-1], 1.0 if diagonal else _round_up(max(heights, default=1.0)))
    drawn = [axes.frame(x_label, y_label, x_ticks, "g")]
    for bar in bars:
        if math.isnan(bar.height):
            continue
        left, top = axes.x(bar.low), axes.y(bar.height)
        drawn.append(_rectangle(left + 0.5, top, axes.x(bar.high) - left - 1, axes.y(0) - top, bar.title, "bar"))
    if diagonal:
        drawn.append(axes.diagonal())
    return _svg(title, axes.height, drawn)


def dot_plot(
    title: str, dots: Sequence[tuple[float, float, str]], x_label: str, y_label: str, x_ticks: Sequence[float]
) -> Markup:
    """Dots (x, y, what they are) where both axes go from 0 to the last tick, and a line where both are equal."""
    axes = _Axes(x_ticks[0], x_ticks[-1], x_ticks[-1])
    drawn = [axes.frame(x_label, y_label, x_ticks, "g"), axes.diagonal()]
    drawn += [
        tag("circle", tag("title", what), cx=f"{axes.x(x):.1f}", cy=f"{axes.y(y):.1f}", r=4, class_="dot")
        for x, y, what in dots
    ]
    return _svg(title, axes.height, drawn)


def stacked_bars(
    title: str, rows: Sequence[tuple[str, Sequence[float]]], names: Sequence[str], styles: Sequence[str], x_label: str
) -> Markup:
    """One bar a row, of parts beside each other; those below zero go to the left of it.

    Args:
        rows: what stands above a bar, and its parts.
        names, styles: of the parts.
    """
    ends = [(sum(v for v in parts if v < 0), sum(v for v in parts if v > 0)) for _, parts in rows]
    most = _round_up(max((high for _, high in ends), default=1.0))
    least = min((low for low, _ in ends), default=0.0)
    least = -_round_up(-least) if least < 0 else 0.0
    step = _round_up((most - least) / 5)
    ticks = [place * step for place in range(math.floor(least / step), math.ceil(most / step) + 1)]
    pitch, thick = 46, 22
    bottom = pitch * len(rows) + 4
    scale = (WIDTH - 2 * _RIGHT) / (ticks[-1] - ticks[0])

    def x(value: float) -> float:
        return _RIGHT + (value - ticks[0]) * scale

    drawn: list[Markup] = []
    for tick in ticks:
        drawn.append(tag("line", x1=f"{x(tick):.1f}", x2=f"{x(tick):.1f}", y1=0, y2=bottom, class_="grid"))
        drawn.append(_text(x(tick), bottom + 14, f"{tick:g}", "middle"))
    drawn.append(tag("line", x1=f"{x(0):.1f}", x2=f"{x(0):.1f}", y1=0, y2=bottom, class_="axis"))
    drawn.append(_text(WIDTH / 2, bottom + 32, x_label, "middle"))
    for place, (label, parts) in enumerate(rows):
        top = pitch * place
        drawn.append(_text(x(0) + 3, top + 13, label, "start", "label"))
        drawn += _stack(parts, names, styles, x, top + 18, thick)
    return _svg(title, bottom + 38, drawn)


def _stack(
    parts: Sequence[float],
    names: Sequence[str],
    styles: Sequence[str],
    x: Callable[[float], float],
    top: float,
    thick: float,
) -> list[Markup]:
    drawn, low, high = [], 0.0, 0.0
    for value, name, style in zip(parts, names, styles, strict=True):
        start = low + value if value < 0 else high
        low, high = low + min(value, 0.0), high + max(value, 0.0)
        left, width = x(start), x(start + abs(value)) - x(start)
        if width > 0.2:
            drawn.append(_rectangle(left, top, max(width - 1, 0.2), thick, f"{name}: {value:.1f}", f"part {style}"))
        if width > _NUMBER_WIDTH:
            drawn.append(_text(left + width / 2, top + thick / 2 + 4, f"{value:.1f}", "middle", "inside"))
    return drawn


class _Axes:
    """Where numbers of a plot lie."""

    height = 230

    def __init__(self, low: float, high: float, top: float) -> None:
        self.low, self.top = low, top
        self._scale = (WIDTH - _LEFT - _RIGHT) / (high - low)

    def x(self, value: float) -> float:
        return _LEFT + (value - self.low) * self._scale

    def y(self, value: float) -> float:
        return self.height - _BOTTOM - value / self.top * (self.height - _TOP - _BOTTOM)

    def diagonal(self) -> Markup:
        """Where x and y are equal."""
        ends = {"x1": self.x(0), "y1": self.y(0), "x2": self.x(self.top), "y2": self.y(self.top)}
        return tag("line", **{key: f"{value:.1f}" for key, value in ends.items()}, class_="diagonal")

    def frame(self, x_label: str, y_label: str, x_ticks: Sequence[float], x_form: str) -> Markup:
        drawn: list[Markup] = []
        for part in range(5):
            value = self.top * part / 4
            place = self.y(value)
            drawn.append(tag("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=f"{place:.1f}", y2=f"{place:.1f}", class_="grid"))
            drawn.append(_text(_LEFT - 5, place + 4, f"{value:.3g}", "end"))
        drawn += [_text(self.x(tick), self.y(0) + 15, format(tick, x_form), "middle") for tick in x_ticks]
        drawn.append(_text((_LEFT + WIDTH - _RIGHT) / 2, self.height - 6, x_label, "middle"))
        middle = (_TOP + self.height - _BOTTOM) / 2
        turned = f"rotate(-90 13 {middle:.0f})"
        drawn.append(tag("text", y_label, x=13, y=f"{middle:.0f}", text_anchor="middle", transform=turned))
        return joined(drawn)


def _rectangle(left: float, top: float, width: float, height: float, title: str, style: str) -> Markup:
    place = {"x": f"{left:.1f}", "y": f"{top:.1f}", "width": f"{width:.1f}", "height": f"{max(height, 0):.1f}"}
    return tag("rect", tag("title", title), **place, class_=style)


def _text(x: float, y: float, words: str, anchor: str, style: str | None = None) -> Markup:
    return tag("text", words, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, class_=style)


def _svg(title: str, height: float, drawn: Sequence[Markup]) -> Markup:
    return tag("svg", tag("title", title), *drawn, viewBox=f"0 0 {WIDTH} {height:.0f}", role="img", aria_label=title)


def _round_up(value: float) -> float:
    """The next of 1, 2, 2.5, 5 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= value * (1 - 1e-9))
