"""Images in every form, any words, and checkpoints that are complete in themselves."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from maft.building import build_model
from maft.checkpoint.loading import InitialWeights
from maft.config import load_config
from maft.engine.checkpointer import Checkpointer
from maft.errors import UserError
from maft.predictor import Predictor

WORDS = ["a red disc", "grass", "sky"]


@pytest.fixture(scope="module")
def predictor(tiny_configs):
    return Predictor.from_config(tiny_configs / "maft.yaml")


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def checkpoint(tiny_configs, tmp_path_factory):
    """A checkpoint as training writes it, with a CLIP that is not the shipped one."""
    folder = tmp_path_factory.mktemp("run")
    rules = [{"FILE": "stage_one"}, {"FILE": "R-103.pkl", "INTO": "proposer.backbone"}]
    cfg = load_config(tiny_configs / "maft.yaml", ["MODEL.WEIGHTS", "other", "MODEL.START_FROM", str(rules)])
    torch.manual_seed(1)
    model = build_model(cfg, InitialWeights())
    state = {name: value + 0.01 for name, value in model.state_dict().items()}
    return Checkpointer(folder, cfg).save_final(state), state


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


@pytest.mark.parametrize("kind", ["PANOPTIC", "INSTANCE"])
def test_a_config_for_panoptic_results_labels_pictures(tiny_configs, image, kind):
    other = Predictor.from_config(tiny_configs / "maft.yaml", [f"MODEL.INFERENCE.{kind}", "True"])
    assert other(image, WORDS).labels.shape == (40, 60)


def test_strips_keep_a_pixel(predictor):
    assert predictor(np.zeros((1, 3000, 3), np.uint8), WORDS).labels.shape == (1, 3000)


def test_masks_from_disk_are_found_by_the_path(tiny_configs, image, tmp_path):
    (tmp_path / "masks").mkdir()
    Image.fromarray(image).save(tmp_path / "a.png")
    Image.fromarray(np.repeat([[1, 2]], 30, axis=1).repeat(40, axis=0).astype(np.uint8)).save(tmp_path / "masks/a.png")
    masks = ["MODEL.PROPOSER.NAME", "MaskFiles", "MODEL.PROPOSER.MaskFiles.PATH", str(tmp_path / "masks")]
    assert Predictor.from_config(tiny_configs / "maft.yaml", masks)(tmp_path / "a.png", WORDS).labels.shape == (40, 60)


def test_a_checkpoint_folder_needs_neither_clip_nor_the_weights_it_was_trained_from(checkpoint, image):
    folder, state = checkpoint
    predictor = Predictor.from_pretrained(folder, ["MODEL.CLIP.PRETRAINED", "nowhere.pt"])
    for name, value in predictor.model.state_dict().items():
        assert torch.equal(value, state[name])
    assert predictor(image, WORDS).labels.shape == (40, 60)


def test_a_checkpoint_folder_is_loaded_strictly(checkpoint, tmp_path):
    from maft.checkpoint.io import write_safetensors

    folder, state = checkpoint
    (tmp_path / "config.yaml").write_text((folder / "config.yaml").read_text())
    # Stage 2 may start without a classifier; its own checkpoint may not be without one.
    kept = {name: value for name, value in state.items() if not name.startswith("classifier.")}
    write_safetensors(tmp_path / "model.safetensors", kept)
    with pytest.raises(UserError, match=r"lacks 80 of its tensors \(classifier\."):
        Predictor.from_pretrained(tmp_path)


def test_folders_that_are_no_checkpoints(checkpoint, tmp_path):
    with pytest.raises(UserError, match=r"holds 0 \.safetensors files"):
        Predictor.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UserError, match=r"no config\.yaml beside it"):
        Predictor.from_pretrained(tmp_path)


def test_an_unknown_device_is_refused_by_name(tiny_configs):
    with pytest.raises(UserError, match="MODEL.DEVICE is 'tpu'"):
        Predictor.from_config(tiny_configs / "freeseg.yaml", overrides=["MODEL.DEVICE", "tpu"])


def test_panoptic_segments_come_when_things_are_named(predictor, image, monkeypatch):
    for threshold in ("object_mask_threshold", "overlap_threshold"):
        monkeypatch.setitem(predictor.model.inference_options, threshold, 0.0)
    before = dict(predictor.model.inference_options)
    plain = predictor(image, WORDS)
    assert plain.segment_ids is None and plain.segments == ()
    for things, countable in (("all", WORDS), (["A  red disc"], WORDS[:1]), ([], [])):
        found = predictor(image, WORDS, things)
        assert found.labels.shape == found.segment_ids.shape == (40, 60)
        assert {segment["id"] for segment in found.segments} == set(np.unique(found.segment_ids)) - {0} != set()
        for segment in found.segments:
            assert segment["name"] == WORDS[segment["label"]]
            assert segment["isthing"] == (segment["name"] in countable)
            assert segment["area"] == (found.segment_ids == segment["id"]).sum() > 0
        stuff = [segment["label"] for segment in found.segments if not segment["isthing"]]
        assert len(stuff) == len(set(stuff))
    assert predictor.model.inference_options == before


def test_images_that_cannot_be_used(predictor):
    with pytest.raises(UserError, match=r"missing\.jpg does not exist"):
        predictor("missing.jpg", WORDS)


@pytest.mark.parametrize("path", [None, 0, b"x", ["a"], "x" * 5000, "a\0b", "nowhere"])
@pytest.mark.parametrize("way", ["from_config", "from_pretrained", "from_path"])
def test_paths_that_lead_to_no_model(way, path):
    with pytest.raises(UserError):
        getattr(Predictor, way)(path)


@pytest.mark.parametrize("overrides", [[1, 2], ["MODEL.DEVICE", None], 5])
def test_overrides_are_texts(tiny_configs, overrides):
    with pytest.raises(UserError, match="Overrides are texts KEY VALUE, not "):
        Predictor.from_config(tiny_configs / "maft.yaml", overrides)


PICTURES = [(40, 60), (61, 35), (48, 48), (33, 90), (20, 21)]
CLASSIFIERS = {
    "IPCLIP": ["MODEL.CLIP.NAME", "tiny_vit"],
    "MaskedCrops": ["MODEL.CLASSIFIER.NAME", "MaskedCrops", "MODEL.ENSEMBLE.NAME", "OVSegEnsemble"],
    "MaskPooling": ["MODEL.CLIP.NAME", "tiny_convnext", "MODEL.CLASSIFIER.NAME", "MaskPooling"],
    "MaskAdapter": ["MODEL.CLIP.NAME", "tiny_convnext", "MODEL.CLASSIFIER.NAME", "MaskAdapter"],
}


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_pictures_of_many_sizes_are_labelled_as_each_by_itself(tiny_configs, classifier):
    predictor = Predictor.from_config(tiny_configs / "maft.yaml", [*CLASSIFIERS[classifier], "MODEL.LOSSES", "{}"])
    draws = np.random.default_rng(0)
    images = [draws.integers(0, 256, (*size, 3), dtype=np.uint8) for size in PICTURES]
    together = predictor(images, WORDS, "all")
    assert [found.labels.shape for found in together] == PICTURES
    for image, found in zip(reversed(images), reversed(together), strict=True):
        alone = predictor(image, WORDS, "all")
        np.testing.assert_allclose(found.confidence, alone.confidence, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(found.labels, alone.labels)
        np.testing.assert_array_equal(found.segment_ids, alone.segment_ids)
        np.testing.assert_allclose([i.score for i in found.instances], [i.score for i in alone.instances], atol=1e-5)


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


def test_confidence_and_scores_lie_in_0_to_1_and_what_is_less_sure_is_none_of_these(tiny_configs, image):
    soft = ["MODEL.CLASSIFIER.LOGIT_SCALE", "5.0", "MODEL.INFERENCE.OVERLAP_THRESHOLD", "0.0"]
    predictor = Predictor.from_config(tiny_configs / "maft.yaml", soft)
    found = predictor(image, WORDS, "all")
    assert found.confidence.dtype == np.float32 and 0 < found.confidence.min() < found.confidence.max() <= 1
    assert all(0 < one["score"] <= 1 for one in found.segments) and all(0 < one.score <= 1 for one in found.instances)
    scores = [one.score for one in found.instances]
    assert scores == sorted(scores, reverse=True)
    for one in found.instances:
        rows, columns = np.nonzero(one.mask)
        assert one.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert one.name == WORDS[one.label] and one.mask.shape == (40, 60)
    # One name for each mask.
    assert len({one.mask.tobytes() for one in found.instances}) == len(found.instances)
    for limit in (np.median(found.confidence), np.median(scores), 1.0):
        some = predictor(image, WORDS, "all", none_below=float(limit))
        np.testing.assert_array_equal(some.labels, np.where(found.confidence < limit, -1, found.labels))
        np.testing.assert_array_equal(some.confidence, found.confidence)
        kept = [one for one in found.segments if one["score"] >= limit]
        assert list(some.segments) == kept
        inside = np.isin(found.segment_ids, [one["id"] for one in kept])
        np.testing.assert_array_equal(some.segment_ids, np.where(inside, found.segment_ids, 0))
        assert [one.score for one in some.instances] == [score for score in scores if score >= limit]


def test_areas_and_boxes_are_those_of_the_masks_and_labels_do_not_depend_on_things(predictor, image, monkeypatch):
    monkeypatch.setattr("maft.layers.score_maps._STRIP_BYTES", 0)
    found = predictor(image, WORDS, "all")
    assert found.segment_ids.shape == (40, 60)
    assert [one["area"] for one in found.segments] == [(found.segment_ids == s["id"]).sum() for s in found.segments]
    for one in found.instances:
        rows, columns = np.nonzero(one.mask)
        assert one.mask.shape == (40, 60)
        assert one.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    np.testing.assert_array_equal(found.labels, predictor(image, WORDS).labels)


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


def test_a_model_that_was_saved_is_the_same(predictor, image, tmp_path):
    again = Predictor.from_pretrained(predictor.save_pretrained(tmp_path / "new" / "model"))
    np.testing.assert_array_equal(again(image, WORDS).confidence, predictor(image, WORDS).confidence)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be saved in .*file"):
        predictor.save_pretrained(tmp_path / "file")


def test_a_model_goes_to_the_hub_and_comes_back_with_its_origin(predictor, image, hub_server, tmp_path):
    from maft.zoo.cache import ORIGIN

    folder = predictor.save_pretrained(tmp_path / "model")
    (folder / ORIGIN).write_text('{"file": "MAFT.pt", "link": "https://example.org/1", "licence": "none stated"}')
    assert Predictor.from_pretrained(folder).push_to_hub("org/mine", private=True) == f"{hub_server.url}/org/mine"
    assert "converted from: MAFT.pt" in hub_server.repositories["org/mine"]["README.md"].decode()
    again = Predictor.from_pretrained("org/mine", revision="main")
    np.testing.assert_array_equal(again(image, WORDS).labels, predictor(image, WORDS).labels)


def test_the_shipped_model_is_made_by_its_name():
    assert len(Predictor.from_pretrained("miniature", device="cpu").vocabulary()) > 3
    with pytest.raises(UserError, match="output/demo/none does not exist"):
        Predictor.from_pretrained("output/demo/none")
    with pytest.raises(UserError, match="no revisions"):
        Predictor.from_pretrained("miniature", revision="main")
    with pytest.raises(UserError, match="miniatur"):
        Predictor.from_pretrained("miniatur")


def test_pictures_that_do_not_fit_into_the_memory_are_one_sentence(predictor, image, monkeypatch):
    def full(*given):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes.")

    monkeypatch.setattr(type(predictor.model), "combine", full)
    with pytest.raises(UserError, match="60x40 pixels and 3 words does not fit into the memory"):
        predictor(image, WORDS)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (4000, 3)])
def test_pictures_of_any_shape_are_labelled(predictor, size):
    assert predictor(np.full((*size, 3), 90, np.uint8), WORDS).labels.shape == size
