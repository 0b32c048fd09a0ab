"""Averaged results against the model itself, called copy by copy and window by window."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from maft.building import build_model
from maft.config import load_config
from maft.errors import UserError
from maft.evaluation import check_evaluation, evaluate
from maft.predictor import Predictor
from maft.structures import Vocabulary
from maft.test_time import AveragedInference, averaging, inference_of

AUGMENTED = ["TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "[33, 50]", "TEST.AUG.MAX_SIZE", "70"]
WINDOWS = ["TEST.SLIDING_WINDOW.ENABLED", "True", "TEST.SLIDING_WINDOW.TILE_SIZE", "40"]
SIZE = (57, 83)


@pytest.fixture
def build(tiny_configs):
    def built(*overrides, name="maft"):
        cfg = load_config(tiny_configs / f"{name}.yaml", ["MODEL.INFERENCE.LABELS_ONLY", "False", *overrides])
        model = build_model(cfg).eval()
        model.set_vocabulary(Vocabulary(("a red disc", "grass", "sky"), (True, False, True)))
        return model, inference_of(cfg, model)

    return built


def record(height=47, width=71):
    return {"image": torch.randint(0, 256, (3, height, width), dtype=torch.uint8), "height": SIZE[0], "width": SIZE[1]}


def resized(image, short, most):
    """Pillow's resize, the longer side limited."""
    height, width = image.shape[-2:]
    scale = min(short / min(height, width), most / max(height, width))
    size = (int(width * scale + 0.5), int(height * scale + 0.5))
    picture = Image.fromarray(image.permute(1, 2, 0).numpy()).resize(size, Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)


def starts(length, window, stride):
    found = []
    while not found or found[-1] + window < length:
        found.append(max(0, min(len(found) * stride, length - window)))
    return found


def windowed(model, image, window, stride):
    """(C, h, w): every window on its own, and for every pixel the mean of those that show it."""
    height, width = image.shape[-2:]
    total, count = torch.zeros(len(model.vocabulary), height, width), torch.zeros(height, width)
    for top in starts(height, window, stride):
        for left in starts(width, window, stride):
            here = (..., slice(top, top + window), slice(left, left + window))
            total[here] += model([{"image": image[here]}])[0]["sem_seg"]
            count[here] += 1
    return total / count


def at_output(scores):
    return F.interpolate(scores[None], SIZE, mode="bilinear", align_corners=False)[0]


def assert_results(result, expected):
    torch.testing.assert_close(result["sem_seg"], expected, atol=1e-5, rtol=0)
    best, labels = expected.max(0)
    torch.testing.assert_close(result["sem_seg_confidence"], best / expected.sum(0).clamp(min=1), atol=1e-5, rtol=0)
    # Rounding may decide between classes that are as good as equal.
    clear = expected.topk(2, dim=0).values.diff(dim=0)[0] < -2e-5
    assert clear.float().mean() > 0.9
    assert torch.equal(result["sem_seg_labels"][clear], labels[clear])


@pytest.mark.parametrize("resize_before", [False, True])
@pytest.mark.parametrize("flip", [False, True])
def test_copies_are_averaged_at_output_size(build, resize_before, flip):
    options = ["MODEL.INFERENCE.RESIZE_BEFORE", str(resize_before), "TEST.AUG.FLIP", str(flip)]
    model, infer = build(*AUGMENTED, *options)
    item = record()
    maps = []
    with torch.no_grad():
        for short in (33, 50):
            copy = resized(item["image"], short, 70)
            maps.append(model([{**item, "image": copy}])[0]["sem_seg"])
            if flip:
                maps.append(model([{**item, "image": copy.flip(-1)}])[0]["sem_seg"].flip(-1))
    (result,) = infer([item])
    assert_results(result, sum(maps) / len(maps))
    assert not torch.allclose(maps[0], maps[-1], atol=1e-4)


@pytest.mark.parametrize(
    "name, options",
    [
        ("maft", []),
        ("freeseg", []),
        ("maft", ["MODEL.CLASSIFIER.NAME", "MaskedCrops", "MODEL.ENSEMBLE.NAME", "OVSegEnsemble"]),
    ],
)
def test_windows_are_averaged_where_they_overlap(build, name, options):
    model, infer = build(*WINDOWS, *options, name=name)
    item = record()
    with torch.no_grad():
        expected = at_output(windowed(model, item["image"], 40, 14))
    (result,) = infer([item])
    assert_results(result, expected)


def test_copies_in_windows_and_a_window_larger_than_the_image(build):
    model, infer = build(*AUGMENTED, *WINDOWS, "TEST.SLIDING_WINDOW.OVERLAP", "0.25")
    item = record()
    with torch.no_grad():
        copies = [resized(item["image"], short, 70) for short in (33, 50)]
        maps = [at_output(windowed(model, copy, 40, 30)) for copy in copies]
        maps += [at_output(windowed(model, copy.flip(-1), 40, 30)).flip(-1) for copy in copies]
        alone = model([item])[0]["sem_seg"]
    (result,) = infer([item])
    assert_results(result, sum(maps) / 4)
    (result,) = AveragedInference(model, window=(100, 0.5))([item])
    assert_results(result, alone)


def test_rules_for_labels_hold_for_the_mean(build, monkeypatch):
    options = ["MODEL.INFERENCE.SEEN_PENALTY", "0.1", "MODEL.INFERENCE.BEST_MASKS_ABOVE", "0.35"]
    model, infer = build(*AUGMENTED, *options)
    item = record()
    with torch.no_grad():
        copies = [resized(item["image"], short, 70) for short in (33, 50)]
        maps = [model([{**item, "image": copy}])[0]["sem_seg"] for copy in copies]
        maps += [model([{**item, "image": copy.flip(-1)}])[0]["sem_seg"].flip(-1) for copy in copies]
    (result,) = infer([item])
    expected = sum(maps) / 4
    torch.testing.assert_close(result["sem_seg"], expected, atol=1e-5, rtol=0)
    uncovered = (expected + torch.tensor([0.1, 0.0, 0.1])[:, None, None] <= 1e-6).all(0)
    assert torch.equal(result["sem_seg_labels"] == -1, uncovered)
    model.inference_options = {**model.inference_options, "labels_only": True}
    (labels,) = infer([item])
    assert labels.keys() == {"sem_seg_labels", "sem_seg_confidence"}
    assert torch.equal(labels["sem_seg_labels"], result["sem_seg_labels"])
    best = (expected + torch.tensor([0.1, 0.0, 0.1])[:, None, None]).gather(0, expected.argmax(0)[None])[0]
    below = float(best.median()) + 1e-4
    model.inference_options = {**model.inference_options, "background_below": below}
    for background, label in ((False, -1), (True, 0)):
        # Another name would have other scores.
        monkeypatch.setattr("maft.test_time.has_background", lambda vocabulary, found=background: found)
        (unsure,) = infer([item])
        assert torch.equal(unsure["sem_seg_labels"], labels["sem_seg_labels"].masked_fill(best < below, label))


def test_without_either_the_model_answers_itself(build, tiny_configs):
    model, infer = build()
    assert infer is model
    assert averaging(load_config(tiny_configs / "maft.yaml")) == {}
    names = {"test_time_augmentation", "sliding_window"}
    assert averaging(load_config(tiny_configs / "maft.yaml", [*AUGMENTED, *WINDOWS])).keys() == names


@pytest.mark.parametrize(
    "overrides, sentence",
    [
        (["MODEL.PROPOSER.NAME", "GroundTruth"], "The masks of GroundTruth are those of the whole image"),
        (["MODEL.INFERENCE.PANOPTIC", "True"], "average semantic results alone: set .*PANOPTIC and INSTANCE False"),
        (["MODEL.INFERENCE.INSTANCE", "True"], "average semantic results alone"),
        (["MODEL.INFERENCE.RESIZE_BEFORE", "True", *WINDOWS], "set MODEL.INFERENCE.RESIZE_BEFORE False"),
    ],
)
def test_what_cannot_be_averaged_is_refused_before_a_model_is_built(tiny_configs, overrides, sentence):
    cfg = load_config(tiny_configs / "maft.yaml", [*AUGMENTED, *overrides])
    with pytest.raises(UserError, match=sentence):
        check_evaluation(cfg, [])


@pytest.mark.parametrize(
    "overrides, sentence",
    [
        (["TEST.AUG.MIN_SIZES", "[0]"], "TEST.AUG.MIN_SIZES.* at least 1"),
        (["TEST.AUG.MIN_SIZES", "[640, -1]"], "TEST.AUG.MIN_SIZES.* at least 1"),
        (["TEST.AUG.MIN_SIZES", "[]"], "TEST.AUG.MIN_SIZES"),
        (["TEST.AUG.ENABLED", "True", "TEST.AUG.MAX_SIZE", "600"], "MIN_SIZES holds 1120, above TEST.AUG.MAX_SIZE"),
        (["TEST.SLIDING_WINDOW.TILE_SIZE", "0"], "TEST.SLIDING_WINDOW.TILE_SIZE.* at least 1"),
        (["TEST.SLIDING_WINDOW.OVERLAP", "1.0"], "TEST.SLIDING_WINDOW.OVERLAP.* at most 0.9"),
    ],
)
def test_impossible_sizes_are_one_sentence(tiny_configs, overrides, sentence):
    with pytest.raises(UserError, match=sentence):
        load_config(tiny_configs / "maft.yaml", overrides)


def test_the_predictor_averages_too(tiny_configs):
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    words = ["a red disc", "grass", "sky"]
    predictor = Predictor.from_config(tiny_configs / "maft.yaml", AUGMENTED)
    found = predictor(image, words)
    other = Predictor.from_config(tiny_configs / "maft.yaml")(image, words)
    assert found.labels.shape == (40, 60)
    assert not np.allclose(found.confidence, other.confidence)
    with pytest.raises(UserError, match="name no things"):
        predictor(image, words, things="all")
    panoptic = ["MODEL.INFERENCE.PANOPTIC", "True"]
    assert Predictor.from_config(tiny_configs / "maft.yaml", [*WINDOWS, *panoptic])(image, words).labels.shape == (
        40,
        60,
    )


def test_an_evaluation_averages_and_says_so(build, tiny_configs, tmp_path):
    root = tmp_path / "own"
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    (root / "classes.txt").write_text("a red disc\ngrass\nsky\n")
    draws = np.random.default_rng(0)
    for index in range(2):
        Image.fromarray(draws.integers(0, 256, (41, 57, 3), dtype=np.uint8)).save(root / "images" / f"{index}.png")
        Image.fromarray(draws.integers(0, 3, (41, 57), dtype=np.uint8)).save(root / "masks" / f"{index}.png")

    def measured(*overrides):
        sizes = ["INPUT.MIN_SIZE_TEST", "41", "DATASETS.TEST", f"['folder:{root}']", "DATALOADER.NUM_WORKERS", "0"]
        options = [*sizes, "OUTPUT_DIR", str(tmp_path / "out"), "TEST.RESUME", "True", *overrides]
        cfg = load_config(tiny_configs / "maft.yaml", options)
        torch.manual_seed(0)
        (results,) = evaluate(cfg, build_model(cfg).eval()).values()
        (report,) = (tmp_path / "out" / "inference").glob("*/results.json")
        return results["sem_seg"]["pACC"], json.loads(report.read_text())

    plain, report = measured()
    assert "test_time_augmentation" not in report
    same, report = measured("TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "[41]", "TEST.AUG.FLIP", "False")
    assert same == plain
    assert report["test_time_augmentation"]["MIN_SIZES"] == [41]
    other, report = measured(*WINDOWS, *AUGMENTED)
    assert other != plain
    assert report["sliding_window"]["TILE_SIZE"] == 40


def test_summed_logits_are_averaged_before_the_softmax(build):
    """TextRegion's own rule on copies: a flipped image and its flipped copy are as good as one."""
    model, averaged = build(
        *AUGMENTED, "TEST.AUG.MIN_SIZES", "[64]", "TEST.AUG.MAX_SIZE", "96", "TEST.AUG.FLIP", "True",
        "MODEL.INFERENCE.SUM_LOGITS", "True",
    )  # fmt: skip
    one = {"image": torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)}
    (found,) = averaged([one])
    logits = []
    for flipped in (False, True):
        image = one["image"].flip(-1) if flipped else one["image"]
        images = model.padded([{"image": image}])
        proposals = model.propose(images, [{"image": image}])
        soft = replace(proposals, masks=proposals.masks.clamp(0, 3)).resized(images.padded_size).clamp(max=1)
        summed = torch.einsum("qc,qhw->chw", model.classify(images, proposals).class_logits[0], soft[0])
        logits.append(summed.flip(-1) if flipped else summed)
    torch.testing.assert_close(found["sem_seg"], (sum(logits) / 2).softmax(0), atol=1e-4, rtol=0)
