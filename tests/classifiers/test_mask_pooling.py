"""Mask pooling against its definition, on both kinds of convolutional towers."""

import pytest
import torch

from maft.classifiers.mask_pooling import MaskPooling
from maft.clip import clip_from_config
from maft.interfaces import BuildContext
from maft.registry import CLASSIFIERS
from maft.structures import Images, Proposals, TextClassifier

TEXT = {"context_length": 8, "vocab_size": 16, "width": 16, "heads": 2, "layers": 1}
TOWERS = {
    "convnext": {"timm_model_name": "convnext_atto", "timm_pool": "", "timm_proj": "mlp", "image_size": 64},
    "resnet": {"layers": [1, 1, 1, 1], "width": 8, "head_width": 16, "image_size": 64},
}


@pytest.fixture(scope="module", params=sorted(TOWERS))
def clip(request):
    config = {"embed_dim": 12, "vision_cfg": TOWERS[request.param], "text_cfg": TEXT}
    return clip_from_config(f"a small {request.param}", config, quick_gelu=False)


@pytest.fixture
def images():
    return Images.from_list([255 * torch.rand(3, 64, 96), 255 * torch.rand(3, 60, 90)])


def texts(void=True):
    rows = torch.nn.functional.normalize(torch.randn(4, 12), dim=-1)
    return TextClassifier(rows[:3], torch.arange(3), 3, rows[3:] if void else None, torch.ones(3, dtype=torch.bool))


def build(clip):
    return CLASSIFIERS.build("MaskPooling", {}, BuildContext(clip, 3, torch.nn.Identity))


@torch.no_grad()
def test_features_of_the_proposer_are_used_instead_of_a_second_pass(clip, images, monkeypatch):
    proposals, text, classifier = Proposals(torch.randn(2, 4, 16, 24), images.padded_size), texts(), build(clip)
    expected = classifier(images, proposals, text, clip)
    proposals.clip_features = clip.dense_features(images)
    monkeypatch.setattr(clip.visual, "forward", None)
    monkeypatch.setattr(type(clip), "dense_features", None)
    torch.testing.assert_close(classifier(images, proposals, text, clip).logits, expected.logits)


@torch.no_grad()
def test_logits_masks_and_their_probabilities_are_named_alike(clip, images):
    logits = torch.randn(2, 4, 2, 3)
    soft = Proposals(logits.sigmoid(), images.padded_size, are_logits=False)
    classifier, text = build(clip), texts(void=False)
    results = [classifier(images, p, text, clip) for p in (Proposals(logits, images.padded_size), soft)]
    torch.testing.assert_close(results[0].logits, results[1].logits)
    assert results[0].logits.shape == (2, 4, 3) and not results[0].has_void


@torch.no_grad()
@pytest.mark.parametrize("clip", ["convnext"], indirect=True)
def test_whole_image_mask_of_a_convnext_is_the_image_embedding(clip):
    images = Images.from_list([255 * torch.rand(3, 64, 96)])
    result = build(clip)(images, Proposals(torch.ones(1, 1, 16, 24), images.padded_size), texts(), clip)
    expected = clip.encode_image(clip.normalize(images))
    torch.testing.assert_close(result.embeddings[:, 0], expected, rtol=1e-4, atol=1e-5)
    assert result.logits.abs().max() <= clip.temperature + 1e-3


@torch.no_grad()
def test_masks_without_a_cell_are_not_valid_and_none_at_all_is_fine(clip, images):
    masks = torch.ones(2, 3, 16, 24)
    masks[0, 1] = -1
    result = build(clip)(images, Proposals(masks, images.padded_size), texts(), clip)
    assert result.logits.isfinite().all()
    assert result.valid.tolist() == [[True, False, True], [True] * 3]
    nothing = build(clip)(images, Proposals(torch.zeros(2, 0, 16, 24), images.padded_size), texts(), clip)
    assert nothing.logits.shape == (2, 0, 4)


def test_nothing_trains(clip):
    assert not list(build(clip).parameters())
    assert isinstance(build(clip), MaskPooling)
