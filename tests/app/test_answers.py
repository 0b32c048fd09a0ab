"""From fields to an answer; a mistake belongs to its field."""

import numpy as np
import pytest

from maft.app.answers import FieldError, ask
from maft.app.photos import Limits, drawn_examples, read_photo

FIVE_THOUSAND = "\n".join(f"thing number {number}" for number in range(5000))


@pytest.fixture(scope="module")
def photo():
    return read_photo(drawn_examples(2)[1][1](), Limits())


def asked(predictor, photo, words, things="", clicks=""):
    stages = []
    answer = ask(predictor, photo, words, things, lambda done, text: stages.append(done), clicks)
    assert stages == sorted(stages) and len(stages) > 1
    return answer


def test_an_answer_has_labels_segments_and_what_was_seen(predictor, photo):
    answer = asked(predictor, photo, "star\nbadge\nbrick\ncactus", "star\nbadge")
    found = answer.prediction
    assert found.labels.shape == (96, 96) and found.segment_ids is not None and found.instances is not None
    assert {one["name"] for one in found.segments if one["isthing"]} <= {"star", "badge"}
    assert len(answer.seen) == 4 and answer.size > found.labels.nbytes


@pytest.mark.parametrize(
    ("words", "things", "field", "sentence"),
    [
        ("", "", "words", "no words"),
        (" \n ; ", "", "words", "no words"),
        ("cat\nCat", "", "words", "occurs twice"),
        (",", "", "words", "blank"),
        (FIVE_THOUSAND + "\none more", "", "words", "5001 words, and this app takes 5000"),
        ("cat\nsky", "dog", "things", "'dog' is none of the class names"),
    ],
)
def test_mistakes_are_said_at_their_field(predictor, photo, words, things, field, sentence):
    with pytest.raises(FieldError, match=sentence) as caught:
        asked(predictor, photo, words, things)
    assert caught.value.field == field


def test_words_that_the_model_does_not_know_are_said(predictor, photo):
    (remark,) = asked(predictor, photo, "brick\nzebra\nслон").remarks
    assert "never seen: zebra, слон" in remark
    (first, second) = asked(predictor, photo, "zebra, giraffe, bus").remarks
    assert "zebra" in first and "one class with synonyms" in second
    assert asked(predictor, photo, "brick\nbadge").remarks == ()


def test_five_thousand_words(predictor, photo):
    answer = asked(predictor, photo, FIVE_THOUSAND)
    assert answer.prediction.labels.max() < 5000 and len(answer.remarks[0]) < 500


def test_clicks_are_answered_by_their_objects_the_last_on_top(on_sam, photo):
    answer = asked(on_sam, photo, "star\nbrick", clicks="[[0.25, 0.5], [0.75, 0.1]]")
    expected = on_sam(photo.pixels(), ["star", "brick"], points=[(72, 9.6), (24, 48)])
    assert answer.clicked and len(answer.prediction.instances) == 2
    for one, other in zip(answer.prediction.instances, expected.instances, strict=True):
        np.testing.assert_array_equal(one.mask, other.mask)
        assert one.name == other.name
    assert asked(on_sam, photo, "star\nbrick", clicks="[[0.9999999999, 0.1]]").clicked
    assert not asked(on_sam, photo, "star\nbrick").clicked


@pytest.mark.parametrize(
    "clicks",
    [
        "[[1.0, 0.5]]", "[[0.5]]", "7", "[[NaN, 0.5]]", "[", '[["a", 1]]', "null", "[" * 100_000,
        f"[[1{'0' * 400}, 0.5]]",
    ],
)  # fmt: skip
def test_clicks_that_are_none_are_said(on_sam, photo, clicks):
    with pytest.raises(FieldError, match="The click did not arrive: click the picture again") as caught:
        asked(on_sam, photo, "star", clicks=clicks)
    assert caught.value.field == "photo"


def test_clicks_are_bounded_and_belong_to_models_that_take_them(on_sam, predictor, photo):
    with pytest.raises(FieldError, match="names 50 clicked objects at a time"):
        asked(on_sam, photo, "star", clicks=str([[0.5, 0.5]] * 51))
    with pytest.raises(FieldError, match="the proposer of this model, takes no boxes and points"):
        asked(predictor, photo, "star", clicks="[[0.5, 0.5]]")
