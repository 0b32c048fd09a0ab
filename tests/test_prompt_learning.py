"""Learning prompts on the miniature world, handing them over, and mistakes."""

import json
from pathlib import Path

import pytest
import torch

from maft.building import build_model
from maft.checkpoint.io import read_state_dict
from maft.clip import VocabularyEncoder, load_clip
from maft.clip.prompt_learner import PromptLearner
from maft.config import load_config
from maft.data.miniature import ensure_miniature
from maft.engine.training import run
from maft.errors import UserError
from maft.prompt_learning import PromptLearning
from maft.structures import Vocabulary

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
WORDS = Vocabulary(("apple", "bee", "plum"))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("datasets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(root))
        ensure_miniature(counts={"train": 24, "val": 6})
        yield root


def config(name, out, *overrides):
    return load_config(CONFIGS / name, ["MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(out), "SEED", "1", *overrides])


@pytest.fixture(scope="module")
def learned(world, tmp_path_factory):
    """A finished stage of prompt learning and its results."""
    out = tmp_path_factory.mktemp("prompts")
    short = ["SOLVER.MAX_ITER", "16", "SOLVER.IMS_PER_BATCH", "8", "SOLVER.LOG_PERIOD", "4", "SOLVER.WARMUP_ITERS", "2"]
    results = run(config("quickstart/learn_prompts.yaml", out, *short))
    return out, results


def losses(out, name):
    lines = (json.loads(line) for line in (out / "metrics.json").read_text().splitlines())
    return [line[name] for line in lines if name in line]


def test_the_loss_falls_nothing_but_prompts_changes_and_regions_are_named(learned):
    out, results = learned
    values = losses(out, "loss_ce")
    assert values[-1] < 0.8 * values[0]
    state = read_state_dict(out / "model_final")
    fresh = build_model(config("quickstart/learn_prompts.yaml", out)).state_dict()
    assert {name for name in state if not torch.equal(state[name], fresh[name])} == {
        "vocabulary_encoder.prompts.prefix"
    }
    regions = results["miniature_val"]["regions"]
    # 24 names compete.
    assert regions["accuracy"] > 50 and {"seen_mACC", "unseen_mACC", "harmonic_mACC"} <= regions.keys()
    written = json.loads((out / "inference/miniature_val/results.json").read_text())
    assert written["results"]["regions"]["accuracy"] == regions["accuracy"] and written["regions"] > 6


def test_a_segmentor_takes_the_prompts_and_keeps_them_as_they_are(learned, tmp_path):
    out, _ = learned
    file = str(out / "model_final")
    overrides = [
        "MODEL.VOCABULARY.TEMPLATES", "learned",
        "MODEL.VOCABULARY.PROMPTS.PREFIX", "4",
        "MODEL.VOCABULARY.PROMPTS.FROZEN", "True",
        "MODEL.START_FROM", str([{"FILE": file, "TAKE": "vocabulary_encoder.prompts"}]),
        "SOLVER.MAX_ITER", "20", "SOLVER.IMS_PER_BATCH", "4", "SOLVER.LOG_PERIOD", "5", "DATASETS.TEST", "[]",
    ]  # fmt: skip
    run(config("quickstart/proposer.yaml", tmp_path / "frozen", *overrides))
    prompts, after = (read_state_dict(folder / "model_final") for folder in (out, tmp_path / "frozen"))
    name = "vocabulary_encoder.prompts.prefix"
    assert torch.equal(after[name], prompts[name])
    values = losses(tmp_path / "frozen", "total_loss")
    assert values[-1] < values[0]
    overrides += ["MODEL.VOCABULARY.PROMPTS.FROZEN", "False", "SOLVER.MAX_ITER", "2", "SOLVER.WARMUP_ITERS", "0"]
    run(config("quickstart/proposer.yaml", tmp_path / "trained", *overrides))
    assert not torch.equal(read_state_dict(tmp_path / "trained/model_final")[name], prompts[name])


def test_the_crop_branch_takes_prompts_of_its_own(learned):
    file = str(learned[0] / "model_final")
    rule = {"FILE": file, "TAKE": "vocabulary_encoder.prompts", "INTO": "classifier_vocabulary_encoder.prompts"}
    overrides = ["MODEL.VOCABULARY.CLASSIFIER_TEMPLATES", "learned", "MODEL.VOCABULARY.PROMPTS.PREFIX", "4"]
    cfg = config("quickstart/masked_crops.yaml", "unused", *overrides)
    cfg.MODEL.START_FROM = [*cfg.MODEL.START_FROM, rule]
    model = build_model(cfg).eval()
    assert model.vocabulary_encoder.prompts is None
    with torch.no_grad():
        model.set_vocabulary(WORDS)
        of_queries, of_regions = model.vocabulary_encoder(WORDS, model.clip), model.classifier_text()
        prompts = PromptLearner(model.clip, prefix=4)
        prompts.prefix.copy_(read_state_dict(learned[0] / "model_final")["vocabulary_encoder.prompts.prefix"])
        torch.testing.assert_close(of_regions.embeddings, prompts(WORDS.names, model.clip))
    assert of_queries.void is not None and of_regions.void is None
    assert not torch.allclose(of_queries.embeddings, of_regions.embeddings)


@pytest.mark.parametrize("into", ["vocabulary_encoder.prompts", "classifier_vocabulary_encoder.prompts"])
def test_an_official_file_of_prompts_is_taken_by_either_branch(tmp_path, into):
    clip = load_clip("tiny_vit")
    prefix = torch.randn(4, clip.text_width)
    official = {f"clip_adapter.clip_model.{name}": value for name, value in clip.model.state_dict().items()}
    official["clip_adapter.prompt_learner.prefix_prompt"] = prefix
    official |= {f"clip_adapter.prompt_learner.{name}_signal": prefix[:1] for name in ("start", "dot", "end", "pad")}
    torch.save({"model": official}, tmp_path / "prompts.pth")
    branch = "TEMPLATES" if into.startswith("vocabulary") else "CLASSIFIER_TEMPLATES"
    overrides = [f"MODEL.VOCABULARY.{branch}", "learned", "MODEL.VOCABULARY.PROMPTS.PREFIX", "4"]
    cfg = config("quickstart/masked_crops.yaml", tmp_path, *overrides)
    rule = {"FILE": str(tmp_path / "prompts.pth"), "TAKE": "vocabulary_encoder.prompts", "INTO": into}
    # First, for the file of the proposer gives every part that it has, and has no prompts.
    cfg.MODEL.START_FROM = [rule, *cfg.MODEL.START_FROM]
    model = build_model(cfg)
    assert torch.equal(model.state_dict()[f"{into}.prefix"], prefix)
    # The config's classifier is frozen, and with it texts of its own.
    assert model.get_parameter(f"{into}.prefix").requires_grad == (into == "vocabulary_encoder.prompts")


@pytest.mark.parametrize(
    "config_name, changes, sentence",
    [
        (
            "miniature_train_seen_1",
            {},
            r"holds prompts that were learned on '.*', which is unseen in miniature_train_seen_1",
        ),
        (
            "miniature_train_seen",
            {"PREFIX": 8},
            "it has 4 learned vectors of the kind prefix, not 8; set .*PREFIX to 4",
        ),
    ],
)
def test_prompts_of_other_classes_or_another_length_are_refused(learned, config_name, changes, sentence):
    cfg = config("quickstart/proposer.yaml", "unused", "MODEL.VOCABULARY.TEMPLATES", "learned")
    cfg.MODEL.VOCABULARY.PROMPTS.PREFIX = changes.get("PREFIX", 4)
    cfg.DATASETS.TRAIN = [config_name]
    for file in (learned[0] / "model_final", learned[0] / "model_final/model.safetensors"):
        cfg.MODEL.START_FROM = [{"FILE": str(file), "TAKE": "vocabulary_encoder.prompts"}]
        with pytest.raises(UserError, match=sentence):
            build_model(cfg, training=True)


@pytest.mark.parametrize(
    "name, overrides, part",
    [
        (
            "quickstart/proposer.yaml",
            ["TEMPLATES", "learned", "PROMPTS.FROZEN", "True"],
            "vocabulary_encoder.prompts.prefix",
        ),
        ("quickstart/proposer.yaml", ["TEST_TEMPLATES", "learned"], "vocabulary_encoder.prompts.prefix"),
        (
            "quickstart/masked_crops.yaml",
            ["CLASSIFIER_TEMPLATES", "learned"],
            "classifier_vocabulary_encoder.prompts.prefix",
        ),
    ],
)
def test_prompts_that_nothing_gives_or_trains_are_refused(name, overrides, part):
    pairs = [f"MODEL.VOCABULARY.{word}" if place % 2 == 0 else word for place, word in enumerate(overrides)]
    with pytest.raises(UserError, match=rf"Nothing gives or trains the learned prompts {part}.*TAKE: {part[:-7]}"):
        build_model(config(name, "unused", *pairs), training=True)


@pytest.mark.parametrize(
    "overrides, sentence",
    [
        (["INPUT.MAPPER", "semantic"], "INPUT.MAPPER is semantic: set it to class_regions"),
        (["MODEL.VOCABULARY.TEMPLATES", "vild"], "has no prompts to train"),
        (["MODEL.VOCABULARY.PROMPTS.FROZEN", "True"], "has no prompts to train"),
        (["INPUT.REGIONS.SIZE", "4"], "less than one patch"),
        (["INPUT.REGIONS.HEIGHT", "3"], "INPUT.REGIONS.HEIGHT is 3, less than one patch"),
    ],
)
def test_a_stage_that_cannot_be(overrides, sentence):
    with pytest.raises(UserError, match=sentence):
        build_model(config("quickstart/learn_prompts.yaml", "unused", *overrides))


def test_regions_are_compared_with_all_names(world, tmp_path):
    cfg = config("quickstart/learn_prompts.yaml", tmp_path, "TEST.PROTOCOL", "unseen_only")
    with pytest.raises(UserError, match="TEST.PROTOCOL is unseen_only, but a region is compared with all names"):
        run(cfg)


@pytest.mark.parametrize("fill", ["mean", "mean_value"])
def test_what_clip_sees_outside_a_region(fill):
    clip = load_clip("tiny_vit")
    texts = VocabularyEncoder(
        clip.embed_dim, clip.text_width, templates="learned", prompts=PromptLearner(clip, prefix=2), void=False
    )
    model = PromptLearning(clip=clip, vocabulary_encoder=texts, vocabulary=WORDS, fill=fill)
    regions = torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8)
    masks = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    masks[..., :8] = True
    shown = model.shown(regions, masks)
    torch.testing.assert_close(shown[..., :8], clip.normalize_pixels(regions)[..., :8])
    expected = clip.pixel_mean / 255 if fill == "mean_value" else torch.zeros(3)
    torch.testing.assert_close(shown[0, :, 3, 12], expected)
