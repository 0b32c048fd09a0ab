"""Images in every form, and any words."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from maft.errors import UserError
from maft.predictor import Predictor

WORDS = ["a red disc", "grass", "sky"]


def test_arrays_pillow_images_and_files_give_the_same(predictor, image, tmp_path):
    Image.fromarray(image).save(tmp_path / "image.png")
    expected = predictor(image, WORDS)
    assert expected.labels.shape == expected.confidence.shape == (40, 60)
    assert expected.class_names == tuple(WORDS)
    assert set(np.unique(expected.labels)) <= {0, 1, 2}
    for form in (Image.fromarray(image), tmp_path / "image.png", str(tmp_path / "image.png")):
        other = predictor(form, WORDS)
        np.testing.assert_array_equal(other.labels, expected.labels)
        np.testing.assert_array_equal(other.image, image)


def test_a_predictor_goes_to_another_process(predictor, image):
    expected = predictor(image, WORDS)
    sent = pickle.loads(pickle.dumps(predictor))
    np.testing.assert_array_equal(sent(image, WORDS).confidence, expected.confidence)
    assert sent.vocabulary() == predictor.vocabulary()


@pytest.mark.parametrize("form", [np.asarray, torch.from_numpy, Image.fromarray, lambda array: array.tobytes(), id])
def test_one_picture_is_no_stream(predictor, image, form):
    with pytest.raises(UserError, match="goes through several pictures, .*: for one, call the predictor with it"):
        predictor.stream(form(image), WORDS)


def test_a_batch_in_one_array_is_a_stream(predictor, image):
    assert [one.labels.shape for one in predictor.stream(np.stack([image, image]), WORDS)] == [(40, 60)] * 2


def test_numbers_of_numpy_are_a_least_confidence(predictor, image):
    assert (predictor(image, WORDS, none_below=np.float32(1)).labels == -1).any()


def test_a_turned_photograph_is_set_upright(predictor, image):
    photograph = Image.fromarray(image)
    exif = photograph.getexif()
    exif[0x0112] = 6
    photograph.info["exif"] = exif.tobytes()
    assert predictor(photograph, WORDS).labels.shape == (60, 40)


def test_the_summary_covers_the_image_and_the_picture_shows_it(predictor, image):
    prediction = predictor(image, WORDS)
    summary = prediction.summary()
    assert sum(entry["area"] for entry in summary) == 40 * 60
    assert sum(entry["share"] for entry in summary) == pytest.approx(1)
    assert [entry["area"] for entry in summary] == sorted((entry["area"] for entry in summary), reverse=True)
    for entry in summary:
        here = prediction.labels == entry["label"]
        assert entry["area"] == here.sum()
        assert entry["score"] == pytest.approx(prediction.confidence[here].mean(), rel=1e-4)
    assert prediction.overlay().dtype == np.uint8


def test_without_words_the_training_vocabulary_is_used(tiny_configs, image):
    fresh = Predictor.from_config(tiny_configs / "maft.yaml")
    assert fresh(image).class_names == fresh.vocabulary().names
    assert len(fresh.vocabulary()) > 3


def test_words_of_the_training_vocabulary_count_as_seen(predictor, image):
    known = predictor.vocabulary().names[0]
    for spelling in (known, known.upper(), f"  {known.title()} "):
        assert predictor.vocabulary([spelling, "zeppelin"]).seen == (True, False)


def test_a_call_leaves_nothing_behind(predictor, image):
    before = predictor(image).class_names
    assert len(before) > 3 and predictor(image, ["gift"]).class_names == ("gift",)
    with pytest.raises(UserError):
        predictor(image, ["brick " * 100])
    assert predictor(image).class_names == before


def test_strips_keep_a_pixel(predictor):
    assert predictor(np.zeros((1, 3000, 3), np.uint8), WORDS).labels.shape == (1, 3000)


def test_masks_from_disk_are_found_by_the_path(tiny_configs, image, tmp_path):
    (tmp_path / "masks").mkdir()
    Image.fromarray(image).save(tmp_path / "a.png")
    Image.fromarray(np.repeat([[1, 2]], 30, axis=1).repeat(40, axis=0).astype(np.uint8)).save(tmp_path / "masks/a.png")
    masks = ["MODEL.PROPOSER.NAME", "MaskFiles", "MODEL.PROPOSER.MaskFiles.PATH", str(tmp_path / "masks")]
    assert Predictor.from_config(tiny_configs / "maft.yaml", masks)(tmp_path / "a.png", WORDS).labels.shape == (40, 60)


def test_images_that_cannot_be_used(predictor):
    with pytest.raises(UserError, match=r"missing\.jpg does not exist"):
        predictor("missing.jpg", WORDS)


def test_a_folder_is_a_list_and_a_stream_takes_one_picture_after_the_other(predictor, image, tmp_path):
    for name in ("b.png", "a.png"):
        Image.fromarray(image[: 30 if name == "a.png" else 40]).save(tmp_path / name)
    assert [found.labels.shape for found in predictor(tmp_path, WORDS)] == [(30, 60), (40, 60)]
    assert [found.labels.shape for found in predictor.stream(tmp_path, WORDS)] == [(30, 60), (40, 60)]
    assert predictor([], WORDS) == []
    taken = []

    def pictures():
        for number in range(3):
            taken.append(number)
            yield image

    stream = predictor.stream(pictures(), WORDS)
    assert not taken
    next(stream)
    assert taken == [0]
    with pytest.raises(UserError, match="empty"):
        predictor.stream(pictures(), [])


@pytest.mark.parametrize("limit", [-0.1, 1.5, float("nan"), "0.5", None, True])
def test_a_limit_outside_0_to_1_is_refused(predictor, image, limit):
    with pytest.raises(UserError, match="none_below is .*: give a number from 0 to 1"):
        predictor(image, WORDS, none_below=limit)


def test_words_the_clip_has_never_seen_are_said(predictor, image, caplog):
    words = ["a carrot", "zebra on the moon", "漢", "grass"]
    assert predictor.unknown_words(words) == predictor(image, words).unknown_words
    assert set(predictor.unknown_words(words)) >= {"zebra", "moon", "漢"}
    assert not {"carrot", "grass", "a"} & set(predictor.unknown_words(words))
    assert predictor(image).unknown_words == ()
    assert "CLIP tiny_vit has never seen zebra" in caplog.text


def test_thousands_of_words(predictor, image):
    words = [f"thing {number}" for number in range(5000)]
    found = predictor(image, words)
    assert len(found.class_names) == 5000 and found.labels.max() < 5000
    assert found.confidence.max() <= 1


def test_mixed_precision_changes_little_and_gives_float32(tiny_configs, predictor, image):
    half = Predictor.from_config(tiny_configs / "maft.yaml", dtype="bfloat16", device="cpu")
    half.model.load_state_dict(predictor.model.state_dict())
    found, expected = half(image, WORDS), predictor(image, WORDS)
    assert found.confidence.dtype == np.float32
    assert 0 < np.abs(found.confidence - expected.confidence).mean() < 0.1


def test_pictures_that_do_not_fit_into_the_memory_are_one_sentence(predictor, image, monkeypatch):
    def full(*given):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes.")

    monkeypatch.setattr(type(predictor.model), "combine", full)
    with pytest.raises(UserError, match="60x40 pixels and 3 words does not fit into the memory"):
        predictor(image, WORDS)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (4000, 3)])
def test_pictures_of_any_shape_are_labelled(predictor, size):
    assert predictor(np.full((*size, 3), 90, np.uint8), WORDS).labels.shape == size
