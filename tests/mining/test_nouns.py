import unicodedata

import pytest

from maft.mining.captions import has_overlong_word, image_nouns, nouns_of, tag


@pytest.mark.parametrize(
    ("caption", "nouns"),
    [
        ("There are apple and orange and teapot.", ("apple", "orange", "teapot")),
        ("A man riding a wave on top of a surfboard.", ("man", "wave", "top", "surfboard")),
        ("A bathroom with a toilet and sink.", ("bathroom", "toilet", "sink")),
        ("Two dogs sleep on a brown couch next to a dog bed.", ("dogs", "couch", "dog", "bed")),
        ("The young child's umbrella is left open in the house.", ("child", "umbrella", "house")),
        ("TWO LARGE ELEPHANTS IN A RIVER!!", ("elephants", "river")),
    ],
)
def test_nouns_of_captions(caption, nouns):
    assert image_nouns([caption]) == nouns


@pytest.mark.parametrize("caption", ["", "   ", "...", "2 + 2 = 4", "running very quickly"])
def test_captions_without_a_noun(caption):
    assert image_nouns([caption]) == ()


def test_every_penn_noun_tag_counts_and_no_other():
    tagged = [
        ("Dog", "NN"),
        ("cats", "NNS"),
        ("Rome", "NNP"),
        ("Alps", "NNPS"),
        ("run", "VB"),
        ("%", "NN"),
        ("dog", "NN"),
    ]
    assert nouns_of(tagged) == ("dog", "cats", "rome", "alps")


def test_tags_of_nouns_are_penn_treebanks():
    assert dict(tag("The dog chases cats in Paris"))["dog"] == "NN"
    assert dict(tag("The dog chases cats in Paris"))["cats"] == "NNS"


def test_an_image_counts_a_noun_once():
    assert image_nouns(["A dog on a bed.", "The dog sleeps on a pillow.", "Asleep."]) == ("dog", "bed", "pillow")


def test_all_words_of_the_miniature_world_are_nouns():
    from maft.miniature.classes import miniature_classes
    from maft.miniature.scene import TEMPLATES

    for name in miniature_classes().names:
        for template in TEMPLATES:
            assert name in image_nouns([template.format(f"a small {name} on the {name}")]), (name, template)


def test_letters_of_two_parts_and_invisible_ones_leave_a_word_whole():
    assert image_nouns([unicodedata.normalize("NFD", "a dog in a café"), "a surf\u00adboard"]) == (
        "dog", "café", "surfboard",
    )  # fmt: skip


def test_overlong_words_are_left_out_and_said():
    caption = "a dog and a " + "dog" * 2000 + " on a bed"
    assert has_overlong_word(caption) and image_nouns([caption]) == ("dog", "bed")
    assert not has_overlong_word("a dog and a cat on a bed in a very, very, very long caption")
