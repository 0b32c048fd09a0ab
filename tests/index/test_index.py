"""An index says of every image what its model says of it, to the last bit, and finds masks in all of them."""

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from maft.errors import UserError
from maft.index.index import Index
from maft.structures import Vocabulary

WORDS = ["bear", "tree", "lake", "a red kite", "cloud, sky"]


@pytest.fixture(scope="module")
def index(index_folder):
    return Index(index_folder)


def test_it_lists_the_images(index, scenes):
    assert len(index) == len(scenes)
    assert list(index.files) == scenes


def test_labels_are_those_of_the_predictor(index, predictor, scenes):
    for image, file in enumerate(scenes):
        assert np.array_equal(index.labels(image, WORDS).numpy(), predictor(file, WORDS).labels)


def test_without_words_of_its_own_the_training_vocabulary_is_asked(index, predictor, scenes):
    assert index.training == predictor.vocabulary()
    assert np.array_equal(index.labels(3, index.training).numpy(), predictor(scenes[3]).labels)


def test_no_image_tower_is_there_while_it_is_asked(index):
    index.ask(["bear"])
    assert all(parameter.is_meta for parameter in index.model.clip.visual.parameters())
    assert all(parameter.is_meta for parameter in index.model.proposer.parameters())


def test_areas_count_the_labels_of_each_image(index):
    areas = index.areas(WORDS)
    assert areas.shape == (len(index), len(WORDS) + 1)
    assert (areas.sum(axis=1) == 96 * 96).all()
    labels = index.labels(4, WORDS).numpy()
    assert areas[4].tolist() == [(labels == place).sum() for place in (*range(len(WORDS)), -1)]


def test_masks_are_ranked_by_the_joint_probability_of_the_words(index, predictor, scenes):
    found = index.ask(["bear", "tree"], top=30)
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    # The same by one image after the other, with the classes of the training beside.
    others = [name for name in predictor.vocabulary().names if name not in ("bear", "tree")]
    words = predictor.vocabulary(["bear", "tree", *others])
    for one in found[:5]:
        _, proposals, named, _ = index.said(one.image, words)
        probabilities = index.model.class_probabilities(proposals, named, words)[0, one.mask]
        assert one.score == pytest.approx(float(probabilities[:2].sum()), abs=1e-6)
        assert one.word == ["bear", "tree"][int(probabilities[:2].argmax())]
        assert one.file == scenes[one.image]


def test_each_object_is_found_once(index):
    found = index.ask(index.training, top=200)
    for image in range(len(index)):
        codes = [one.segmentation for one in found if one.image == image]
        overlaps = coco_mask.iou(codes, codes, [0] * len(codes)) - np.eye(len(codes))
        assert overlaps.max() < 0.6


def test_area_and_box_are_those_of_the_mask_in_its_image(index):
    one = index.ask(["tree"], top=1)[0]
    mask = coco_mask.decode(one.segmentation).astype(bool)
    assert mask.shape == (96, 96)
    assert one.area == mask.sum() > 0
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    assert one.box == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    assert index.masks(one.image)[one.mask] == one.segmentation


def test_a_mask_that_has_no_pixel_at_the_size_of_its_image_is_no_answer(index):
    everything = [*index.ask(["donut"], top=500), *index.nearest((0, 0), top=500)]
    assert min(mask.area for mask in everything) > 0


def test_a_mask_that_rather_shows_a_word_against_is_left_out(index):
    both = index.ask(["bear", "tree"], beside=[], top=500)
    bears = index.ask(["bear"], not_words=["tree"], beside=[], top=500)
    assert {(one.image, one.mask) for one in both if one.word == "tree"}
    assert bears
    assert not {(one.image, one.mask) for one in bears} & {(one.image, one.mask) for one in both if one.word == "tree"}


def test_words_of_the_training_are_beside_those_asked_for_but_not_twice(index):
    name = index.training.names[0]
    assert index.ask([name], top=5) == index.ask([f"{name}"], beside=index.training, top=5)
    alone = index.ask([name], not_words=["tree"], beside=[], top=5)
    assert [one.score for one in alone] != [one.score for one in index.ask([name], top=5)]


def test_masks_like_a_mask(index):
    best = index.ask(["tree"], top=1)[0]
    found = index.nearest((best.image, best.mask), top=10)
    assert (best.image, best.mask) not in {(one.image, one.mask) for one in found}
    shard = index.stored.shard(0)
    units = torch.nn.functional.normalize(shard.embeddings, dim=-1)
    query = units[shard.rows(best.image)][best.mask]
    for one in found:
        assert one.score == pytest.approx(float(units[shard.rows(one.image)][one.mask] @ query), abs=1e-6)
    again = index.nearest(7.5 * query, top=1)[0]
    assert (again.image, again.mask) == (best.image, best.mask)


def test_embeddings_of_any_precision_find_the_same_masks(index):
    query = index.stored.shard(0).embeddings[7]
    expected = [(one.image, one.mask) for one in index.nearest(query, top=3)]
    for embedding in (query.double(), query.clone().requires_grad_()):
        assert [(one.image, one.mask) for one in index.nearest(embedding, top=3)] == expected
    assert len(index.nearest(query.half(), top=3)) == 3


def test_what_is_no_embedding_is_said(index):
    query = index.stored.shard(0).embeddings[7]
    for embedding in (query[:-1], query[None], query.long(), query[0]):
        with pytest.raises(
            UserError, match=f"What masks are compared with is torch.*: give .* {len(query)} real numbers"
        ):
            index.nearest(embedding)
    with pytest.raises(UserError, match="What masks are compared with is array.*: give the numbers of an image and a"):
        index.nearest(query.numpy())
    for embedding in (0 * query, torch.inf * query):
        with pytest.raises(UserError, match="is zero or not finite: give another"):
            index.nearest(embedding)
    for pair in ((0,), (0, 1, 2), (0.0, 1), ("0", "1")):
        with pytest.raises(UserError, match="What masks are compared with is .*: give the numbers of an image and a"):
            index.nearest(pair)


def test_a_mask_that_shows_nothing_is_like_no_other(index, monkeypatch):
    visible = index.rows.visible.clone()
    visible[3] = False
    monkeypatch.setitem(index.rows.__dict__, "visible", visible)
    with pytest.raises(UserError, match="Mask 3 of image 0 shows nothing that others could be like: give another"):
        index.nearest((0, 3))


def test_a_device_that_is_not_there_is_said(index_folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match="The device is cuda, but PyTorch sees 0 GPUs here: use cpu"):
        Index(index_folder, device="cuda")


def test_what_cannot_be_asked_is_said(index):
    for ask in (lambda: index.labels(99, ["bear", "tree"]), lambda: index.masks(99), lambda: index.entry(-1)):
        with pytest.raises(UserError, match="There is no image .*: the index holds 10, numbered from 0"):
            ask()
    with pytest.raises(UserError, match="no option 'semantics' of results. Did you mean semantic?"):
        index.result(0, ["bear", "tree"], options={"semantics": True})
    with pytest.raises(UserError, match="vocabulary is empty"):
        index.ask([])
    with pytest.raises(UserError, match="masks to be found is 0"):
        index.ask(["bear"], top=0)
    with pytest.raises(UserError, match="'Bear' is asked for and ruled out"):
        index.ask(["bear", "tree"], not_words=["Bear "])
    with pytest.raises(UserError, match="alone has nothing to compete with"):
        index.ask(["bear"], beside=[])
    with pytest.raises(UserError, match="list of texts, not 'bear'"):
        index.ask("bear")
    with pytest.raises(UserError, match="There is no image 10: the index holds 10"):
        index.nearest((10, 0))
    with pytest.raises(UserError, match="Image 2 has no mask 20"):
        index.nearest((2, 20))
    with pytest.raises(UserError, match="no search engine 'hnsw'"):
        index.ask(["bear"], engine="hnsw")
    with pytest.raises(UserError, match="26"):
        index.labels(0, ["a word that is so much longer than the text tower reads"])
    with pytest.raises(UserError, match="occurs twice"):
        index.labels(0, Vocabulary(("bear", "bear")))
