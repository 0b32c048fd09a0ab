"""The page of an explanation holds everything itself, runs nothing of an outsider's, and can be read by everyone."""

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from maft.evaluation.explain import page as page_module
from maft.evaluation.explain.explanation import Calibration, NameRanks, Parts, ReliabilityBin
from maft.evaluation.explain.markup import Number, table, tag
from maft.evaluation.explain.page import explanation_page, write_page
from maft.evaluation.explain.pictures import worst_picture
from maft.evaluation.explain.plots import Bar, bar_plot, stacked_bars
from maft.evaluation.explain.sections import CAUSES

from .hand_made import SCRIPT, explanation

CSS = Path(page_module.__file__).with_name("page.css").read_text(encoding="utf-8")


class Elements(HTMLParser):
    """What a page is made of."""

    def __init__(self, text):
        super().__init__()
        self.found, self.open = [], []
        self.feed(text)

    def handle_starttag(self, name, attributes):
        self.found.append((name, dict(attributes)))
        if name not in ("meta", "img"):
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def of(self, name):
        return [attributes for kind, attributes in self.found if kind == name]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return explanation(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def text(made):
    return explanation_page(made)


def test_a_class_that_is_called_like_a_script_is_shown_and_not_run(text):
    assert SCRIPT not in text
    assert text.count("&lt;script&gt;document.title=") >= 3
    assert len(Elements(text).of("script")) == 1


def test_names_cannot_leave_an_attribute():
    assert '"' not in str(tag("span", title='" onmouseover="x')).split("title=")[1][1:-9]
    assert tag("p", "<b>", tag("i", "&")) == "<p>&lt;b&gt;<i>&amp;</i></p>"


def test_the_page_asks_nobody(text):
    elements = Elements(text)
    assert not elements.open
    assert not elements.of("link") and not elements.of("iframe")
    addresses = [attributes[key] for _, attributes in elements.found for key in ("src", "href") if key in attributes]
    assert addresses and all(address.startswith(("data:image/jpeg;base64,", "#")) for address in addresses)
    places = {attributes["id"] for _, attributes in elements.found if "id" in attributes}
    assert {address[1:] for address in addresses if address.startswith("#")} == places
    assert "url(" not in text and "@import" not in text
    assert "default-src 'none'" in elements.of("meta")[1]["content"]


def test_everything_has_words_for_who_does_not_see_it(text):
    elements = Elements(text)
    assert all(image["alt"] for image in elements.of("img"))
    plots = [one for one in elements.of("svg") if one.get("aria-hidden") != "true"]
    assert len(plots) == 8 and all(one["role"] == "img" and one["aria-label"] for one in plots)
    assert all(header["scope"] in ("col", "row") for header in elements.of("th"))
    assert len(elements.of("caption")) == len(elements.of("table"))
    levels = [int(name[1]) for name, _ in elements.found if re.fullmatch(r"h\d", name)]
    assert levels[0] == 1 and set(levels[1:]) == {2}
    assert len(re.findall(r"<figcaption><strong>[^<]+</strong>", text)) == len(plots) + len(elements.of("img"))


def luminance(colour):
    shares = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def contrast(one, two):
    low, high = sorted((luminance(one), luminance(two)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_colours_can_be_told_apart_in_light_dark_and_print(place):
    sets = [dict(re.findall(r"--(\w+): (#\w+)", found)) for found in re.findall(r":root \{([^}]*)\}", CSS)]
    assert len(sets) == 3
    colours = {
        key: "#" + "".join(2 * c for c in value[1:]) if len(value) == 4 else value for key, value in sets[place].items()
    }
    for text in ("ink", "quiet", "link"):
        assert contrast(colours[text], colours["paper"]) >= 4.5
        assert contrast(colours[text], colours["panel"]) >= 4.5
    for part in CAUSES:
        assert contrast(colours[part], colours["panel"]) >= 3
        assert contrast(colours[part], "#ffffff") >= 4.5


def test_a_page_of_many_classes_and_pictures_stays_within_a_few_megabytes(made):
    many = dataclasses.replace(
        made, classes=made.classes * 40, worst_masks=made.worst_masks * 30, images=made.images * 500
    )
    text = explanation_page(many)
    assert len(Elements(text).of("img")) == page_module.MOST_PICTURES
    assert len(text) < 5e6


def test_what_was_not_measured_is_said(made):
    empty = dataclasses.replace(
        made,
        total=Parts(0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
        groups={},
        images=(),
        mask_recall=(),
        name_ranks=NameRanks((), ()),
        confusions=(),
        similarity=(),
        calibration=Calibration((ReliabilityBin(0, 1, 0, np.nan, np.nan),), np.nan),
        mask_accuracy=None,
        worst_masks=(),
    )
    text = explanation_page(empty)
    for words in ("Nothing is missing", "No right mask has a wrong name", "Not measured", "Texts were not compared"):
        assert words in text
    assert not re.search(r"\bnan\b", text)


def test_an_image_that_is_gone_is_said_and_its_masks_are_drawn(made):
    gone = dataclasses.replace(made.worst_masks[0], file="/nowhere/scene.png")
    address, found = worst_picture(gone)
    assert not found and address.startswith("data:image/jpeg")
    assert "not there any more" in explanation_page(dataclasses.replace(made, worst_masks=(gone,)))


def test_the_page_is_written_whole(made, tmp_path):
    write_page(tmp_path / "explanation.html", made)
    assert (tmp_path / "explanation.html").read_text(encoding="utf-8").endswith("</html>\n")


def test_bars_are_as_long_as_their_numbers():
    drawn = stacked_bars("t", [("a", [10.0, -5.0, 20.0])], ["x", "y", "z"], ["masks", "names", "void"], "points")
    widths = [float(width) + 1 for width in re.findall(r'width="([\d.]+)"', drawn)]
    assert widths == pytest.approx([2 * widths[1], widths[1], 4 * widths[1]], abs=0.3)
    lefts = [float(left) for left in re.findall(r'<rect x="([\d.]+)"', drawn)]
    assert lefts[1] < lefts[0] < lefts[2]
    heights = re.findall(
        r'height="([\d.]+)"', bar_plot("t", [Bar(0, 1, 2.0, ""), Bar(1, 2, 1.0, "")], "x", "y", (0, 1, 2))
    )
    assert float(heights[0]) == pytest.approx(2 * float(heights[1]), abs=0.2)


def test_numbers_of_a_table_can_be_sorted():
    rows = table("c", ["name", "n"], [["a", Number(1234, ",d")], ["b", Number(None)]], sortable=True)
    assert 'data-value="1234.0">1,234<' in rows and 'data-value="-inf"><' in rows
