"""Images in every form, any words, and checkpoints that are complete in themselves."""

from concurrent.futures import ThreadPoolExecutor

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


def test_threads_get_their_own_words(predictor, image):
    words = [("carrot", "brick"), ("gift",)] * 4
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda names: predictor(image, names), words))
    assert [answer.class_names for answer in answers] == words


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


@pytest.mark.parametrize(
    ("words", "sentence"), [([], "empty"), (["dog", ""], "number 2"), (["dog", "dog"], "'dog' occurs twice")]
)
def test_words_that_cannot_be_told_apart(predictor, image, words, sentence):
    with pytest.raises(UserError, match=sentence):
        predictor(image, words)


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


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (4000, 3)])
def test_pictures_of_any_shape_are_labelled(predictor, size):
    assert predictor(np.full((*size, 3), 90, np.uint8), WORDS).labels.shape == size
