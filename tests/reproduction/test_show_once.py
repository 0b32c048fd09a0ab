"""The table of examples."""

import numpy as np

from maft.miniature import miniature_classes
from maft.reproduction.show_once import NAMES, SETTINGS, Setting, _lines, drawn_examples, ious_of, methods
from maft.structures import Vocabulary

WORDS = Vocabulary(("apple", "sand"), (False, True))


def test_rows_are_those_of_the_table_of_classifiers():
    assert tuple(method.name for method in methods()) == NAMES


def test_examples_of_a_seed_are_the_same_again_and_fewer_are_the_first_of_more():
    five, again, other = (drawn_examples(("apple", "water"), seed) for seed in (1, 1, 2))
    assert five == again and five != other and all(len(set(masks)) == 5 for masks in five.values())
    assert drawn_examples(("apple",), 1, most=2)["apple"] == five["apple"][:2]


def test_a_setting_says_what_is_asked():
    examples = drawn_examples(("apple",), 1)
    assert Setting(0, True).vocabulary(WORDS, examples) == WORDS
    assert Setting(3, True).vocabulary(WORDS, examples) == WORDS.add("apple", examples["apple"][:3])
    alone = Setting(1, False).vocabulary(WORDS, examples)
    assert alone.names == ("sand", "apple") and alone.in_words().names == ("sand",) and alone.seen == (True, False)


def test_pixels_without_a_label_count_as_missed():
    confusion = np.array([[6, 2, 2], [0, 5, 5]])
    assert ious_of(confusion, ("a", "b")) == {"a": 60.0, "b": 100 * 5 / 12}


def test_the_table_says_what_changes():
    names, unseen = miniature_classes().names, miniature_classes().unseen[0]

    def rows(base):
        return [
            {"iou": {name: base + (number if name in unseen else -number) for name in names}}
            for number in range(len(SETTINGS))
        ]

    words, one, *_, last = _lines("IP-CLIP", [rows(40.0), rows(42.0)])
    assert (
        words["unseen mIoU"] == "41.0 ± 1.4"
        and words["change"] == ""
        and words["unseen classes are known by"] == "words"
    )
    assert one["unseen classes are known by"] == "1 example and words" and one["change"] == "1.0 ± 0.0"
    assert last["unseen classes are known by"] == "5 examples" and last["change of the others"] == "-6.0 ± 0.0"
