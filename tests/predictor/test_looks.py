"""A predictor and an index that are shown what a class looks like."""

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from maft.data.photos import PhotoMapper
from maft.errors import UserError
from maft.examples import Example, ExampleEmbeddings
from maft.index.index import Index
from maft.index.making import Collection, make_index
from maft.miniature import materialise, miniature_classes, render_scene
from maft.predictor import Predictor
from maft.structures import Vocabulary

NAMES = miniature_classes().names
# The shipped model, which has not been trained with it, takes it for a fan.
UNSEEN = "hoop"
WITHOUT = tuple(name for name in NAMES if name != UNSEEN)


@pytest.fixture(scope="module")
def predictor():
    return Predictor.from_pretrained("miniature")


@pytest.fixture(scope="module")
def examples():
    """Three of a class that the model was not trained with."""
    scenes = (render_scene(number, "train") for number in range(200))
    masks = ((scene.image, scene.sem_seg == NAMES.index(UNSEEN)) for scene in scenes)
    return list(islice((Example(image, mask) for image, mask in masks if mask.sum() > 150), 3))


@pytest.fixture(scope="module")
def scenes():
    return [scene for scene in (render_scene(number, "val") for number in range(60)) if _size(scene) > 150]


def _size(scene):
    return (scene.sem_seg == NAMES.index(UNSEEN)).sum()


def iou(predictor, words, scenes):
    both = either = 0
    for scene in scenes:
        found = predictor(scene.image, words)
        there, said = scene.sem_seg == NAMES.index(UNSEEN), found.labels == found.class_names.index(UNSEEN)
        both, either = both + (there & said).sum(), either + (there | said).sum()
    return both / either


def test_examples_sharpen_a_class_and_define_one_without_words(predictor, examples, scenes):
    words = predictor.vocabulary(NAMES)
    alone = iou(predictor, words, scenes)
    assert iou(predictor, words.add(UNSEEN, examples), scenes) > alone + 0.05
    nameless = predictor.vocabulary(WITHOUT).add(UNSEEN, examples, words=False)
    assert iou(predictor, nameless, scenes) > alone + 0.05


def test_removed_examples_leave_no_trace_to_the_bit(predictor, examples, scenes):
    words, image = predictor.vocabulary(NAMES), scenes[0].image
    before = predictor(image, words, things="all")
    for grown in (words.add(UNSEEN, examples), words.add("my mug", examples, words=False)):
        changed = predictor(image, grown, things="all")
        assert not np.array_equal(changed.confidence, before.confidence)
        after = predictor(image, grown.without_examples(), things="all")
        for name in ("labels", "confidence", "segment_ids"):
            assert np.array_equal(getattr(after, name), getattr(before, name))


def test_a_name_that_takes_no_part_may_be_any(predictor, examples, scenes):
    known = predictor.vocabulary(WITHOUT)
    one, other = (predictor(scenes[0].image, known.add(name, examples, words=False)) for name in (UNSEEN, "zxqj vwkk"))
    assert np.array_equal(one.confidence, other.confidence) and np.array_equal(one.labels, other.labels)
    assert not other.unknown_words


def test_segments_and_instances_are_named_by_examples(predictor, examples, scenes):
    grown = predictor.vocabulary(WITHOUT).add("my mug", examples, words=False)
    found = [predictor(scene.image, grown, things="all") for scene in scenes[:6]]
    assert any(one.name == "my mug" for prediction in found for one in prediction.instances)
    assert any(segment["name"] == "my mug" for prediction in found for segment in prediction.segments)


def test_an_example_is_looked_at_once(predictor, examples, scenes, monkeypatch):
    own = Predictor.from_pretrained("miniature")
    prepared = own.prepare(own.vocabulary(NAMES).add(UNSEEN, examples))
    monkeypatch.setattr(own, "_look", None)
    expected = predictor(scenes[0].image, predictor.vocabulary(NAMES).add(UNSEEN, examples))
    assert np.array_equal(own(scenes[0].image, prepared).confidence, expected.confidence)


def test_what_a_file_keeps_of_a_look_is_what_the_model_sees(predictor, examples, scenes, tmp_path):
    grown = predictor.vocabulary(NAMES).add(UNSEEN, examples)
    predictor.prepare(grown).save(tmp_path / "mine.safetensors")
    loaded = Vocabulary.load(tmp_path / "mine.safetensors")
    other = Predictor.from_pretrained("miniature")
    assert loaded == grown and all(one.look(other.fingerprint) for one in loaded.of(loaded.index(UNSEEN)))
    assert np.array_equal(other(scenes[0].image, loaded).confidence, predictor(scenes[0].image, grown).confidence)


def test_an_index_says_what_the_model_says(predictor, examples, tmp_path):
    files = sorted(map(str, materialise(tmp_path / "world", "val", 4).rglob("images/*.png")))
    records = [{"file_name": file} for file in files]
    make_index(predictor.cfg, predictor.model, tmp_path / "index", Collection(records, PhotoMapper(predictor.cfg)))
    index = Index(tmp_path / "index")
    for words in (True, False):
        grown = predictor.vocabulary(NAMES if words else WITHOUT).add(UNSEEN, examples, words=words)
        with pytest.raises(UserError, match=f"has not looked at the examples of '{UNSEEN}'"):
            index.labels(0, grown)
        prepared = predictor.prepare(grown)
        for number, file in enumerate(files):
            assert np.array_equal(index.labels(number, prepared).numpy(), predictor(file, grown).labels)
    assert index.ask(prepared, top=2)


def test_threads_with_examples_of_their_own_get_what_one_gets(predictor, examples, scenes, monkeypatch):
    monkeypatch.setattr("maft.predictor.looks._MOST_KEPT", 2)  # they push each other out all the time
    words = predictor.vocabulary(NAMES)
    asked = [words, *(words.add(UNSEEN, examples[:shots]) for shots in (1, 2, 3))]
    asked += [words.add("mug", examples[shots:], words=False) for shots in (0, 1, 2)]
    expected = [predictor(scenes[0].image, one).confidence for one in asked]
    own = Predictor.from_pretrained("miniature")
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(3) as pool:
            order = [number % len(asked) for number in range(10)]
            found = pool.map(lambda number: own(scenes[0].image, asked[number]).confidence, order)
            for number, confidence in zip(order, found, strict=True):
                assert np.array_equal(confidence, expected[number])
    finally:
        sys.setswitchinterval(interval)


def test_another_model_sees_something_else(predictor, examples):
    other = Predictor.from_config("quickstart/frozen_clip.yaml")
    (seen,), (beside,) = (
        one.prepare(one.vocabulary(["tree"]).add("mug", examples[:1])).of(1) for one in (predictor, other)
    )
    assert predictor.fingerprint != other.fingerprint
    both = other.with_looks(Vocabulary(("tree",)).add("mug", [seen])).of(1)[0]
    assert {one for one, _ in both.looks} == {predictor.fingerprint, other.fingerprint}
    mine, theirs = both.look(predictor.fingerprint), both.look(other.fingerprint)
    assert torch.equal(theirs.embeddings, beside.looks[0][1].embeddings)
    assert not torch.equal(mine.embeddings[:1], theirs.embeddings[:1])
    assert mine.shares[0] == 1 and (mine.shares[1:] <= 1).all() and mine.shares[1] == 0


def test_a_mask_that_the_model_cannot_see_is_refused(predictor):
    mask = np.zeros((2000, 2000), bool)
    mask[7, 7] = True
    shown = Example(np.zeros((2000, 2000, 3), np.uint8), mask)
    with pytest.raises(UserError, match="'mug' is too small for the model to see"):
        predictor.prepare(predictor.vocabulary(["tree"]).add("mug", [shown]))


def test_an_example_beside_which_the_model_sees_nothing_is_refused(predictor, examples):
    """The one pixel beside it vanishes at the size at which the model looks."""
    image = np.asarray(Image.fromarray(examples[0].image).resize((960, 960)))
    mask = np.ones((960, 960), bool)
    mask[0, 0] = False
    with pytest.raises(
        UserError, match="nothing but the example in an image that shows 'mug': give an image with more"
    ):
        predictor(examples[0].image, predictor.vocabulary(["tree"]).add("mug", [Example(image, mask)]))


def test_a_look_of_another_width_is_one_sentence(predictor, examples):
    look = ExampleEmbeddings(torch.randn(3, 7), torch.tensor([1.0, 0.0, 0.0]))
    for words in (True, False):
        grown = predictor.vocabulary(["tree"]).add(
            "mug", [examples[0].with_look(predictor.fingerprint, look)], words=words
        )
        with pytest.raises(UserError, match="'mug' .* width 7, and this model's have 128"):
            predictor(examples[0].image, grown)


def test_a_model_without_a_classifier_refuses_examples(examples):
    alone = Predictor.from_config(
        "quickstart/proposer.yaml", ["MODEL.START_FROM", "[{'FILE': 'configs/quickstart/proposer.safetensors'}]"]
    )
    with pytest.raises(UserError, match="'mug' has examples, and this model has no mask classifier"):
        alone(examples[0].image, alone.vocabulary(["tree"]).add("mug", examples[:1]))


def test_flags_that_a_vocabulary_lacks_are_filled_in(predictor, examples):
    given = Vocabulary(("bee", UNSEEN)).add("gift", examples, words=False)
    assert predictor.vocabulary(given).seen == (True, False, False)
    assert predictor.vocabulary(replace(given, seen=(False, False, True))).seen == (False, False, True)
