"""The page of an explanation: one HTML file that needs nothing else and asks nobody."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from maft.evaluation.explain.explanation import Explanation, WorstMask
from maft.evaluation.explain.markup import Markup, joined, tag
from maft.evaluation.explain.mask_sections import accuracy, confidence, masks
from maft.evaluation.explain.pictures import worst_picture
from maft.evaluation.explain.sections import CAUSES, classes, images, names, section, where
from maft.files import write_text_atomic

# Of some 30 kB each, so that the page stays within a few MB.
MOST_PICTURES = 100
_FOLDER = Path(__file__).parent
_SCORED = 5


def write_page(path: Path, explanation: Explanation) -> None:
    """Writes the page, whole or not at all."""
    write_text_atomic(path, explanation_page(explanation))


def explanation_page(explanation: Explanation) -> str:
    """The page as HTML; its pictures are of the ``worst_masks``, at most 100 of them.

    No name of a class or file can run as a script, and nothing is fetched: beside being escaped, the page's own policy
    allows its one script and pictures that it holds alone.
    """
    script = _part("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    dataset = explanation.facts.get("dataset", "")
    parts = {
        "title": escape(f"Explanation of {explanation.miou:.1f} % mIoU on {dataset}"),
        "style": _part("page.css"),
        "body": joined([_head(explanation), *_sections(explanation)]),
        "script": script,
        "digest": digest,
    }
    return Template(_part("page.html")).substitute(parts)


def _part(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _sections(explanation: Explanation) -> list[Markup]:
    return [
        where(explanation),
        classes(explanation),
        names(explanation),
        masks(explanation),
        confidence(explanation),
        accuracy(explanation),
        images(explanation),
        _worst(explanation),
        _provenance(explanation.facts),
    ]


_PLACES = {
    "where": "What is lost where",
    "classes": "Classes",
    "names": "Wrong names",
    "masks": "Masks and ranks",
    "confidence": "Confidence",
    "accuracy": "Mask accuracy",
    "images": "Worst images",
    "worst": "Worst masks",
    "provenance": "Provenance",
}


def _head(explanation: Explanation) -> Markup:
    facts = explanation.facts
    links = (tag("li", tag("a", text, href=f"#{place}")) for place, text in _PLACES.items())
    return tag(
        "header",
        tag("h1", f"Where the score on {facts.get('dataset', 'these images')} is lost"),
        tag(
            "p",
            tag("strong", f"{explanation.miou:.1f}"),
            f" % mIoU over {len(explanation.images):,d} images and "
            f"{sum(one.parts is not None for one in explanation.classes):,d} classes.",
            class_="score",
        ),
        tag("nav", tag("ul", *links), aria_label="Sections"),
    )


def _worst(explanation: Explanation) -> Markup:
    shown = explanation.worst_masks[:MOST_PICTURES]
    if not shown:
        return section("worst", "Worst masks", tag("p", "None were kept."))
    return section(
        "worst",
        "Worst masks",
        tag(
            "p",
            "The pixels that one cause took from one class of one image, the most first. The white line is around "
            "them, magenta is the mask that shows the most of them; without it no proposal shows them well.",
        ),
        tag("div", *map(_worst_figure, shown), class_="pictures"),
    )


def _worst_figure(one: WorstMask) -> Markup:
    address, found = worst_picture(one)
    said = "nothing" if one.predicted is None else one.predicted
    file = Path(one.file).name
    text = f"{file}: {one.pixels:,d} pixels of {one.true}, labelled {said}"
    scores = [
        tag("li", f"{who}: " + ", ".join(f"{name} {value:.2f}" for name, value in _best(given, one.true)))
        for who, given in one.scores.items()
    ]
    mask = "" if one.mask is None else f" The mask's final name: {'no object' if one.named is None else one.named}."
    return tag(
        "figure",
        tag("img", src=address, alt=text),
        tag(
            "figcaption",
            tag("strong", one.true),
            f" labelled {said} ({CAUSES[one.cause]}): {one.pixels:,d} pixels of {file}.{mask}",
            "" if found else " The image's file is not there any more.",
            tag("ul", *scores) if scores else "",
        ),
    )


def _best(scores: Mapping[str, float], true: str) -> list[tuple[str, float]]:
    """The best names, and the true one if it is none of them."""
    ordered = sorted(scores.items(), key=lambda pair: -pair[1])
    best = ordered[:3]
    return best + [pair for pair in ordered[3 : _SCORED + 1] if pair[0] == true]


def _provenance(facts: Mapping[str, Any]) -> Markup:
    rows = [(name, value) for name, value in _flat(facts) if value not in ("", None)]
    content = (one for name, value in rows for one in (tag("dt", name), tag("dd", value)))
    return section(
        "provenance", "Provenance", tag("p", "What was explained; digests are SHA-256."), tag("dl", *content)
    )


def _flat(facts: Mapping[str, Any], above: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in facts.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{above}{key}, ")
        else:
            rows.append((f"{above}{key}".replace("_", " "), value))
    return rows
