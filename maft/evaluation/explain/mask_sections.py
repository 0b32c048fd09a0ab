"""What the page says of masks and names apart from the score: recall, ranks, calibration, similarity, mask accuracy."""

from __future__ import annotations

import itertools
import math

from maft.evaluation.explain.explanation import Calibration, Explanation, MaskAccuracy, MaskRecall, NameRanks
from maft.evaluation.explain.markup import Markup, Number, table, tag
from maft.evaluation.explain.plots import Bar, Line, bar_plot, dot_plot, line_plot
from maft.evaluation.explain.sections import alone, figure, section, together

# Places of the true name that the plot shows.
_RANKS = 20
_TENTHS = (0, 0.2, 0.4, 0.6, 0.8, 1)
_MOST_KINDS = 3


def masks(explanation: Explanation) -> Markup:
    """Mask recall and the rank of the true name."""
    return section(
        "masks",
        "Masks and the rank of the true name",
        together(_recall(explanation.mask_recall), _ranks(explanation.name_ranks)),
        tag("details", tag("summary", "Mask recall in numbers"), *map(_recall_table, explanation.mask_recall)),
    )


def _recall(kinds: tuple[MaskRecall, ...]) -> Markup:
    lines = [
        Line(f"{one.kind} ({one.count:,d})", f"line-{place}", one.thresholds, one.recall)
        for place, one in enumerate(kinds[:_MOST_KINDS], start=1)
        if one.count
    ]
    title = "Mask recall"
    ticks = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    plot = line_plot(title, lines, "IoU with the best proposal, at least", "share of true masks", ticks)
    return figure(
        title,
        plot,
        "A line shows which share of the true masks some proposal meets at least so well; what is missing at 0.5 no "
        "classifier can make good.",
        _keys(lines),
    )


def _recall_table(one: MaskRecall) -> Markup:
    rows = [["all", Number(one.count, ",d"), *(Number(100 * share) for share in one.recall)]]
    rows += [
        [name, Number(one.counts[name], ",d"), *(Number(100 * share) for share in shares)]
        for name, shares in one.by_class.items()
    ]
    headers = ["class", "masks", *(f"IoU ≥ {threshold:.2f}" for threshold in one.thresholds)]
    return table(f"Recall in percent; a true mask is a {one.kind}", headers, rows, sortable=True)


def _ranks(ranks: NameRanks) -> Markup:
    title = "Rank of the true name"
    if not sum(ranks.masks):
        return tag("p", "No mask is a right one, so that no name has a rank.")
    # An axis needs two ends.
    shown = max(2, min(_RANKS, len(ranks.masks)))
    lines = [
        Line(name, f"line-{place}", *_cumulative(counts, shown))
        for place, (name, counts) in enumerate((("of masks", ranks.masks), ("of pixels", ranks.pixels)), start=1)
    ]
    step = max(1, math.ceil((shown - 1) / 5))
    ticks = [*range(1, shown, step), shown]
    if len(ticks) > 2 and ticks[-1] - ticks[-2] < step / 2:
        del ticks[-2]
    plot = line_plot(title, lines, "true name among the best", "share of right masks", ticks)
    return figure(
        title,
        plot,
        "A line shows for which share of the right masks the true name is among the best so many; the first point is "
        "how often it is the best.",
        _keys(lines),
    )


def _cumulative(counts: tuple[int, ...], most: int) -> tuple[list[int], list[float]]:
    """Ranks up to ``most``, and the share of what has one of at most each."""
    total = sum(counts)
    shares = [count / total for count in itertools.accumulate(counts[:most])]
    return list(range(1, len(shares) + 1)), shares


def confidence(explanation: Explanation) -> Markup:
    """Calibration, and confusion against the similarity of texts."""
    return section(
        "confidence",
        "Confidence, and names that read alike",
        together(*_reliability(explanation.calibration), _similarity(explanation)),
    )


def _reliability(calibration: Calibration) -> list[Markup]:
    total = max(1, sum(one.pixels for one in calibration.bins))
    right = [
        Bar(
            one.low,
            one.high,
            one.accuracy,
            f"confidence {one.confidence:.2f}: {one.accuracy:.2f} right, {one.pixels:,d} pixels",
        )
        for one in calibration.bins
        if one.pixels
    ]
    often = [
        Bar(one.low, one.high, 100 * one.pixels / total, f"{one.low:.2f} to {one.high:.2f}: {one.pixels:,d} pixels")
        for one in calibration.bins
    ]
    error = "" if math.isnan(calibration.error) else f" The mean distance is {100 * calibration.error:.1f} points."
    title, spread = "Calibration", "Confidences"
    return [
        figure(
            title,
            bar_plot(title, right, "confidence of a pixel's label", "share that is right", _TENTHS, diagonal=True),
            f"A bar that ends below the dashed line is surer than it is right, one above it less sure.{error}",
        ),
        figure(
            spread,
            bar_plot(spread, often, "confidence of a pixel's label", "% of the pixels", _TENTHS),
            "A bar shows how many pixels have such a confidence: those of the bars of the plot on calibration.",
        ),
    ]


def _similarity(explanation: Explanation) -> Markup:
    title = "Confusion and text similarity"
    bins = [one for one in explanation.similarity if one.pairs]
    if not bins:
        return tag("p", "Texts were not compared, so that confusion is not shown against their similarity.")
    bars = [
        Bar(one.low, one.high, 100 * one.rate, f"cosine {one.low:.2f} to {one.high:.2f}: {one.pairs} pairs")
        for one in bins
    ]
    low, high = bins[0].low, bins[-1].high
    ticks = [round(low + (high - low) * place / 4, 2) for place in range(5)]
    return figure(
        title,
        bar_plot(title, bars, "cosine of the texts of two classes", "% of pixels so confused", ticks),
        "A bar is the mean share of a class that is named as another one whose text is so similar; where bars rise to "
        "the right, names are confused that read alike.",
    )


def accuracy(explanation: Explanation) -> Markup:
    """Names that the classifier gives to true masks."""
    found = explanation.mask_accuracy
    if found is None:
        text = "Not measured: the evaluation kept no true masks, or the model has no mask classifier."
        return section("accuracy", "Mask accuracy: names given to true masks", tag("p", text))
    return section(
        "accuracy",
        "Mask accuracy: names given to true masks",
        tag(
            "p",
            f"With the true masks in the place of proposals the classifier alone names {found.total:.1f} % of them "
            f"right (MaskAcc), in the mean over classes {found.mean:.1f} % (mMaskAcc).",
        ),
        alone(_against_iou(explanation, found)),
    )


def _against_iou(explanation: Explanation, found: MaskAccuracy) -> Markup:
    title = "Mask accuracy and IoU of classes"
    dots = [
        (right, 100 - one.parts.loss, f"{one.name}: {right:.1f} % named right, IoU {100 - one.parts.loss:.1f}")
        for one in explanation.classes
        if one.parts is not None and (right := found.by_class.get(one.name)) is not None
    ]
    return figure(
        title,
        dot_plot(title, dots, "% of its true masks named right", "IoU", (0, 20, 40, 60, 80, 100)),
        "A dot is a class: far to the right and low, it has the right name as soon as it has the right mask; on the "
        "left, its name is the trouble.",
    )


def _keys(lines: list[Line]) -> Markup:
    return tag("ul", *(tag("li", _swatch(line.style), line.name) for line in lines), class_="keys")


def _swatch(style: str) -> Markup:
    stroke = tag("line", x1=0, y1=4, x2=20, y2=4, class_=f"line {style}")
    return tag("svg", stroke, viewBox="0 0 20 8", aria_hidden="true")
