"""What a visitor shows joins the words, and is taken back to the last bit."""

import json

import numpy as np
import pytest

from maft.app.answers import ask
from maft.app.explanations import explanation_page
from maft.app.marks import example_of, typed_box
from maft.app.photos import Limits, drawn_examples, read_photo
from maft.app.shown import Shown, thumbnail
from maft.errors import UserError

OUTLINE = json.dumps({"outline": [[0.25, 0.25], [0.75, 0.25], [0.75, 0.75], [0.25, 0.75]]})


@pytest.fixture(scope="module")
def photo():
    return read_photo(drawn_examples(2)[1][1](), Limits())


def test_a_drawn_outline_is_the_mask_of_an_example(predictor, photo):
    example = example_of(predictor, photo, OUTLINE)
    assert example.mask.shape == (96, 96) and example.mask[30:70, 30:70].all() and not example.mask[:20].any()
    assert thumbnail(example).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "mark", ["", "{}", "[]", '{"outline": [[0, 0]]}', '{"box": [0, 0, 2, 1]}', '{"point": [NaN, 0]}']
)
def test_a_mark_that_is_none_is_said(predictor, photo, mark):
    with pytest.raises(UserError, match="mark the object again"):
        example_of(predictor, photo, mark)


def test_a_box_is_typed_in_pixels(photo):
    assert json.loads(typed_box("0, 24 48,96", photo)) == {"box": [0.0, 0.25, 0.5, 1.0]}
    for text in ("1,2,3", "", "a,b,c,d", "5,5,1,9", "0,0,97,5", "nan,0,1,1"):
        with pytest.raises(UserError, match="96x96"):
            typed_box(text, photo)


def test_removal_restores_the_answer(predictor, photo):
    def answered(shown):
        return ask(predictor, photo, "star\nbadge\nbrick", "", lambda done, text: None, "", shown).prediction

    before, shown = answered(Shown()), Shown().add("my thing", example_of(predictor, photo, OUTLINE), False)
    assert answered(shown).class_names == ("star", "badge", "brick", "my thing")
    after = answered(shown.remove("my thing"))
    assert np.array_equal(before.labels, after.labels) and np.array_equal(before.confidence, after.confidence)


def test_a_class_needs_a_name_and_takes_an_example_once(predictor, photo):
    example = example_of(predictor, photo, OUTLINE)
    with pytest.raises(UserError, match="no name"):
        Shown().add(" ", example, True)
    with pytest.raises(UserError, match="same example twice"):
        Shown().add("mug", example, True).add("Mug", example, True)


def test_an_explanation_that_is_not_there_is_said(tmp_path):
    with pytest.raises(UserError, match="0 HTML files"):
        explanation_page(str(tmp_path))
    with pytest.raises(UserError, match="cannot be read"):
        explanation_page(str(tmp_path / "page.html"))
    (tmp_path / "page.html").write_text("<p>here")
    assert explanation_page(str(tmp_path)).page == b"<p>here"
