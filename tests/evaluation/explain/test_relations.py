"""Relations of real names: COCO-Stuff, ADE20K-847, Pascal Context, Cityscapes."""

import itertools
import time

import pytest

from maft.data.label_sets import label_set
from maft.evaluation.explain.relations import RELATIONS, relation

OPPOSITE = {"parent": "child", "child": "parent"}


@pytest.mark.parametrize(
    ("true", "other", "expected"),
    [
        ("sofa, couch, lounge", "couch", "synonym"),
        ("earth, ground", "land, ground, soil", "synonym"),
        ("stairs, steps", "step, stair", "synonym"),
        ("rug", "carpet", "synonym"),
        ("aeroplane", "airplane", "synonym"),
        ("motorbike", "motorcycle", "synonym"),
        ("Stop Sign", "stop  sign", "synonym"),
        ("coffee table, cocktail table", "table", "parent"),
        ("wall-brick", "wall-other", "parent"),
        ("wall-brick", "wall", "parent"),
        ("palm, palm tree", "tree", "parent"),
        ("dog", "animal", "parent"),
        ("river", "terrain", "parent"),
        ("table", "pool table, billiard table, snooker table", "child"),
        ("floor-other", "floor-wood", "child"),
        ("building", "house", "child"),
        ("wall-brick", "wall-concrete", "sibling"),
        ("coffee table", "dining table", "sibling"),
        ("dog", "cat", "sibling"),
        ("wood", "floor-wood", "other"),
        ("pineapple", "apple", "other"),
        ("bench", "bed", "other"),
        ("stool", "pot", "other"),
        ("cow", "traffic light", "other"),
    ],
)
def test_pairs_of_real_names(true, other, expected):
    assert relation(true, other) == expected
    assert relation(other, true) == OPPOSITE.get(expected, expected)


@pytest.mark.parametrize(("table", "variant"), [("coco_stuff_171", "plain"), ("ade20k_847", "maft")])
def test_all_pairs_of_a_label_set_have_a_relation_and_its_opposite(table, variant):
    names = label_set(table).names(variant)[:300]
    start = time.perf_counter()
    for one, two in itertools.combinations(names, 2):
        there, back = relation(one, two), relation(two, one)
        assert there in RELATIONS and back == OPPOSITE.get(there, there), (one, two)
    assert time.perf_counter() - start < 4


def test_most_pairs_of_a_label_set_are_unrelated():
    names = label_set("coco_stuff_171").names()
    kinds = [relation(one, two) for one, two in itertools.combinations(names, 2)]
    assert kinds.count("other") > 0.95 * len(kinds)
    assert set(kinds) == set(RELATIONS)


def test_names_of_outsiders_are_read_as_they_are():
    assert relation("<script>alert(1)</script>", "my mug") == "other"
    assert relation("-", ", ,x") == "other"
    assert relation("my mug", "mug") == "parent"
