"""MaskCLIP++ as a classifier: its texts, its own CLIP, what trains, and mistakes."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from detectron2.structures import Instances

from maft.building import build_model
from maft.classifiers.mask_clip_pp import MaskCLIPpp
from maft.clip import load_clip
from maft.config import load_config
from maft.conformance import batch, context, predictions, texts
from maft.errors import UserError
from maft.registry import CLASSIFIERS
from maft.structures import Vocabulary

BASE = Path(__file__).resolve().parents[2] / "configs" / "_base_" / "miniature.yaml"
NAMES = ("cat, tom", "dog", "brick")


@pytest.fixture(scope="module")
def clip():
    return load_clip("tiny_vit")


def logits(classifier, clip, names=NAMES, **options):
    images = batch((64, 96), (96, 64))
    return classifier(images, predictions(images), texts(clip, names, **options), clip).logits


@torch.no_grad()
def test_a_class_has_the_best_of_its_synonyms(clip):
    classifier = MaskCLIPpp(clip, similarity="mean", templates="single", blocks=1).eval()
    found = logits(classifier, clip, void=False)
    cat, tom = (logits(classifier, clip, (name, "dog", "brick"), void=False) for name in ("cat", "tom"))
    torch.testing.assert_close(found[..., 0], torch.maximum(cat[..., 0], tom[..., 0]))
    torch.testing.assert_close(found[..., 1:], cat[..., 1:])


@torch.no_grad()
def test_in_training_one_synonym_is_drawn(clip):
    classifier = MaskCLIPpp(clip, similarity="mean", templates="single", blocks=1)
    wanted = [logits(classifier.eval(), clip, (name, "dog", "brick"), void=False) for name in ("cat", "tom")]
    seen = set()
    classifier.train()
    for seed in range(6):
        random.seed(seed)
        found = logits(classifier, clip, void=False)
        seen |= {index for index, one in enumerate(wanted) if torch.allclose(found, one, atol=1e-4)}
    assert seen == {0, 1}


@torch.no_grad()
def test_a_clip_of_its_own_names_the_masks(clip):
    own = CLASSIFIERS.build(
        "MaskCLIPpp", {"OWN_CLIP": "tiny_convnext", "SIMILARITY": "mean", "TEMPLATES": "single"}, context(clip)
    ).eval()
    other = load_clip("tiny_convnext")
    alone = MaskCLIPpp(other, similarity="mean", templates="single").eval()
    # A void row of the shared CLIP means nothing to another one.
    torch.testing.assert_close(logits(own, clip), logits(alone, other, void=False))
    assert not list(own.trainable_clip_parameters(clip))
    assert any(name.startswith("clip.model.visual.") for name in own.state_dict())
    assert not any(name.startswith("clip.") for name in alone.state_dict())


def test_the_text_tower_trains_where_it_is_told_to(clip):
    clip = load_clip("tiny_vit")
    classifier = MaskCLIPpp(clip, similarity="mean", templates="single", train_text="attention", train="none", blocks=1)
    tuned = list(classifier.trainable_clip_parameters(clip))
    for parameter in tuned:
        parameter.requires_grad_(True)
    logits(classifier.train(), clip, void=False).square().mean().backward()
    assert tuned and all(parameter.grad is not None and parameter.grad.any() for parameter in tuned)
    classifier.eval()
    with torch.no_grad():
        before = logits(classifier, clip, void=False)
        torch.nn.init.normal_(tuned[-1])
        assert not torch.allclose(logits(classifier, clip, void=False), before), "kept texts are those of the weights"


def test_a_step_that_tunes_the_text_tower_encodes_its_own_prompts_alone(tmp_path, monkeypatch):
    options = {"TRAIN_TEXT": "attention", "TEMPLATES": "single", "BLOCKS": 1}
    model = {
        "DEVICE": "cpu",
        "CLIP": {"NAME": "tiny_vit", "PRETRAINED": "random"},
        "PROPOSER": {"NAME": "GroundTruth"},
        "CLASSIFIER": {"NAME": "MaskCLIPpp", "MaskCLIPpp": options},
        "LOSSES": {"BalancedCrossEntropyLoss": {}},
    }
    (tmp_path / "a.yaml").write_text(yaml.safe_dump({"_BASE_": str(BASE), "MODEL": model}))
    model = build_model(load_config(tmp_path / "a.yaml")).train()
    model.set_vocabulary(Vocabulary(NAMES))
    encode, encoded = model.clip.encode_text, []

    def counted(tokens):
        encoded.append(len(tokens))
        return encode(tokens)

    monkeypatch.setattr(model.clip, "encode_text", counted)
    instances = Instances((64, 64), gt_classes=torch.tensor([2]), gt_masks=torch.ones(1, 64, 64, dtype=torch.bool))
    losses = model([{"image": torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8), "instances": instances}])
    assert losses.keys() == {"loss_balanced_cross_entropy"} and encoded == [len(NAMES)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocks": 99}, r"BLOCKS is 99, but the image tower of tiny_vit has \d+ blocks"),
        ({"test_size": 3}, "TEST_SIZE is 3, less than one cell"),
        ({"divisor": 7}, "DIVISOR is 7, less than one cell of the grid of tiny_vit, 8"),
        ({"similarity": "pseudo_text"}, "pseudo_text reads the map that a ConvNeXt pools"),
        ({"official_batches": True}, "OFFICIAL_BATCHES is what the release does with EVA towers"),
        ({"templates": "a photo"}, "Unknown prompt template set"),
    ],
)
def test_options_that_do_not_fit_the_tower_are_refused(clip, options, message):
    with pytest.raises(UserError, match=message):
        MaskCLIPpp(clip, **options)


@pytest.mark.parametrize("scale", [-1000.0, 1000.0])
def test_factors_that_no_float_holds_are_refused(clip, scale):
    with pytest.raises(UserError, match="MASK_SCALE"):
        CLASSIFIERS.build("MaskCLIPpp", {"MASK_SCALE": scale}, context(clip))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"OWN_PRETRAINED": "openai"}, "OWN_PRETRAINED is set without OWN_CLIP"),
        ({"OWN_CLIP": "no-such-clip"}, "OWN_CLIP no-such-clip cannot be loaded: .*no-such-clip"),
    ],
)
def test_a_clip_of_its_own_that_is_none_is_told_by_its_key(clip, options, message):
    with pytest.raises(UserError, match=message):
        CLASSIFIERS.build("MaskCLIPpp", options, context(clip))


def test_rows_of_no_texts_are_refused(clip):
    classifier, images = MaskCLIPpp(clip, blocks=1).eval(), batch((64, 64))
    with pytest.raises(UserError, match="of no names"):
        classifier(images, predictions(images), replace(texts(clip), vocabulary=None), clip)
