"""Classes that example masks show are asked of an index like any others."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from maft.data.pixels import pixels_of
from maft.errors import UserError
from maft.examples import Example
from maft.index.index import Index
from maft.structures import Vocabulary

WORDS = Vocabulary(("sand", "water", "brick", "bee", "gift", "hoop"))


@pytest.fixture(scope="module")
def shown(predictor, index_folder, scenes):
    """Words, of which one is sharpened by a mask that the index finds, and a class that is shown by the rest alone."""
    index = Index(index_folder)
    best = index.ask(["donut"], top=1)[0]
    mask = coco_mask.decode(best.segmentation).astype(bool)
    example = Example(pixels_of(scenes[best.image]), mask)
    return WORDS.add("hoop", [example]).add("that ring", [Example(example.image, ~mask)], words=False)


def test_labels_are_those_of_the_predictor(index_folder, predictor, scenes, shown):
    index, words = Index(index_folder), predictor.prepare(shown)
    for image in range(3):
        assert np.array_equal(index.labels(image, words).numpy(), predictor(scenes[image], shown).labels)


def test_examples_beside_are_what_a_word_means(index_folder, predictor, shown):
    index, words = Index(index_folder), predictor.prepare(shown)
    found = index.ask(["hoop"], beside=words, top=3)
    assert found == index.ask(Vocabulary(("hoop",)), beside=words, top=3)
    assert found != index.ask(["hoop"], beside=WORDS, top=3)
    assert {one.word for one in index.ask(["that ring"], beside=words, top=3)} == {"that ring"}


def test_a_vector_index_is_asked_for_what_is_like_the_examples_too(index_folder, predictor, shown, tmp_path):
    pytest.importorskip("faiss")
    index, words = Index(index_folder), predictor.prepare(shown)
    exact = index.ask(["hoop", "that ring"], beside=words, top=5)
    assert index.ask(["hoop", "that ring"], beside=words, top=5, engine="faiss") == exact


def test_examples_that_the_model_has_not_seen_are_said(index_folder, shown):
    with pytest.raises(UserError, match="has not looked at the examples of 'hoop'"):
        Index(index_folder).ask(["hoop"], beside=shown)
