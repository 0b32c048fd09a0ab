"""What the text fields of the app mean, and the vocabularies to begin with."""

import pytest

from maft.app.words import OWN, first_preset, looks_like_a_list, presets, split_names, without_leftovers
from maft.data.label_sets import label_set
from maft.errors import UserError
from maft.structures import Vocabulary


class Trained:
    """Has a vocabulary of its own, or none."""

    def __init__(self, *names):
        self.names = names

    def vocabulary(self):
        if not self.names:
            raise UserError("The model has no vocabulary of its own.")
        return Vocabulary(self.names)


def test_one_class_a_line_or_between_semicolons():
    assert split_names("cat, kitten\n\n dog ; sky \n") == ["cat, kitten", "dog", "sky"]


def test_things_that_a_vocabulary_wrote_go_with_its_words():
    given = ("apple", "traffic light, lamp", "fan")
    assert without_leftovers("apple\ntraffic light, lamp\nfan", given, "Apple, pear\nsky\nfan") == "apple\nfan"
    assert without_leftovers("apple\ndog", given, "cat") == "dog", "what the visitor wrote stays, mistakes too"


@pytest.mark.parametrize(
    ("names", "is_list"), [(["cat, dog"], True), (["cat"], False), (["cat, kitten", "dog"], False)]
)
def test_one_line_with_commas_was_perhaps_meant_as_a_list(names, is_list):
    assert looks_like_a_list(names) == is_list


def test_presets_hold_seen_and_unseen_words():
    stuff = label_set("coco_stuff_171")
    every, unseen = (presets()[f"coco_stuff_171: {which} classes"] for which in ("all 171", "the 15 unseen"))
    assert every.names == stuff.names() and set(every.things) == {stuff.names()[index] for index in stuff.things}
    assert unseen.names == tuple(stuff.names()[index] for index in stuff.unseen)
    assert set(unseen.things) <= set(unseen.names)


def test_begins_with_the_label_set_that_the_model_was_trained_on_seen_classes_of():
    seen = label_set("miniature_0").seen
    names = [name for name, is_seen in zip(label_set("miniature_0").names(), seen) if is_seen]
    assert first_preset(Trained(*names))[0] == "miniature: all 24 classes"
    title, preset = first_preset(Trained("my class", "my other class"))
    assert (title, preset.names) == (OWN, ("my class", "my other class"))
    assert first_preset(Trained())[1].names == ()
