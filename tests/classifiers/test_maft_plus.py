"""MAFT+: texts that adapt to the image, a tuned trunk and its frozen teacher."""

import pytest
import torch
import torch.nn.functional as F

from maft.building import build_model
from maft.checkpoint.loading import InitialWeights
from maft.classifiers.maft_plus import ContentDependentTransfer
from maft.clip import clip_from_config
from maft.config_keys import default_config
from maft.errors import UserError
from maft.interfaces import BuildContext
from maft.layers.transformer import position_codes
from maft.registry import CLASSIFIERS
from maft.structures import Images, Proposals, TextClassifier


@pytest.fixture
def clip():
    text = {"context_length": 8, "vocab_size": 16, "width": 16, "heads": 2, "layers": 1}
    vision = {"timm_model_name": "convnext_atto", "timm_pool": "", "timm_proj": "mlp", "image_size": 64}
    return clip_from_config("a ConvNeXt", {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}, quick_gelu=False)


def texts(void=True):
    rows = F.normalize(torch.randn(5, 16), dim=-1)
    classes = torch.tensor([0, 0, 1, 2])
    return TextClassifier(rows[:4], classes, 3, rows[4:] if void else None, torch.ones(3, dtype=torch.bool))


def build(clip, **options):
    return CLASSIFIERS.build("MAFTPlus", options, BuildContext(clip, 3, torch.nn.Identity))


@torch.no_grad()
@pytest.mark.parametrize("form", ["post_norm", "res_post_norm"])
@pytest.mark.parametrize("void", [True, False])
def test_transfer_equals_the_attention_it_stands_for(form, void):
    transfer, text, features = ContentDependentTransfer(16, 4, form=form), texts(void), torch.randn(2, 16, 3, 5)
    torch.nn.init.normal_(transfer.mlp.weight, std=0.3)
    adapted = transfer(text, features)
    attention = transfer.attention
    weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
    for image in range(2):
        values = features[image].flatten(1).T
        keys = values + position_codes(torch.zeros(1, 16, 3, 5))
        q, k, v = (
            (tokens @ w.T + b).unflatten(1, (4, 4)).transpose(0, 1)
            for tokens, w, b in zip((text.matrix, keys, values), weights, biases, strict=True)
        )
        attended = ((q @ k.transpose(1, 2) / 2).softmax(-1) @ v).transpose(0, 1).flatten(1)
        change = transfer.mlp(attention.out_proj(attended))
        rows = text.matrix
        expected = transfer.norm(rows + change) if form == "post_norm" else rows + transfer.norm(change)
        torch.testing.assert_close(adapted.matrix[image], expected, rtol=1e-4, atol=1e-4)
    assert adapted.logits(torch.randn(2, 7, 16)).shape == (2, 7, 3 + void)


@torch.no_grad()
def test_a_fresh_panoptic_transfer_changes_nothing():
    text = texts()
    adapted = ContentDependentTransfer(16, 4, form="res_post_norm")(text, torch.randn(2, 16, 3, 5))
    torch.testing.assert_close(adapted.matrix, text.matrix.expand(2, -1, -1))


@torch.no_grad()
def test_images_of_a_batch_have_their_own_texts(clip):
    classifier, text = build(clip), texts()
    images = Images.from_list([255 * torch.rand(3, 64, 96) for _ in range(2)])
    masks = torch.randn(2, 4, 16, 24)
    both = classifier(images, Proposals(masks, images.padded_size), text, clip)
    for index in range(2):
        one = Images(images.pixels[index : index + 1], images.sizes[:1])
        alone = classifier(one, Proposals(masks[index : index + 1], one.padded_size), text, clip)
        torch.testing.assert_close(alone.logits[0], both.logits[index], rtol=1e-4, atol=1e-3)
    text.embeddings = text.embeddings.flip(0)
    official = build(clip, ROWS_IN_MEMORY_ORDER=True)
    official.load_state_dict(classifier.state_dict())
    assert not torch.allclose(
        official(images, Proposals(masks, images.padded_size), text, clip).logits,
        classifier(images, Proposals(masks, images.padded_size), text, clip).logits,
    )


def test_trunk_and_transfer_train_and_the_head_does_not(clip):
    classifier = build(clip)
    tuned = {id(p) for p in classifier.trainable_clip_parameters(clip)}
    names = {name for name, p in clip.visual.named_parameters() if id(p) in tuned}
    rest = {name for name, _ in clip.visual.named_parameters()} - names
    assert {name.split(".")[1] for name in names} == {"stem", "stages"}
    assert rest and all(name.startswith(("trunk.head.", "head.")) for name in rest)
    trained = list(map(id, classifier.trainable_parameters()))
    assert trained == [id(p) for p in classifier.text_transfer.parameters()]


def test_teacher_stays_as_pretrained_and_out_of_checkpoints(clip):
    classifier, images = build(clip), Images.from_list([255 * torch.rand(3, 64, 64)])
    with torch.no_grad():
        before = clip.dense_features(images)["dense"]
        for parameter in classifier.trainable_clip_parameters(clip):
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
        after = clip.dense_features(images)["dense"]
    classifier.train()
    torch.testing.assert_close(classifier.teacher_features(images, clip), before)
    assert not torch.allclose(after, before)
    assert not any(p.requires_grad for p in classifier.teacher.parameters())
    assert all(name.startswith("text_transfer.") for name in classifier.state_dict())


def test_a_tuned_tower_of_a_checkpoint_is_not_its_own_teacher():
    cfg = default_config()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.CLIP.NAME, cfg.MODEL.CLIP.PRETRAINED = "tiny_convnext", ""
    cfg.MODEL.PROPOSER.NAME, cfg.MODEL.CLASSIFIER.NAME = "GroundTruth", "MAFTPlus"
    first = build_model(cfg)
    kept = first.classifier.teacher
    tuned = {name: value + 0.1 * name.startswith("clip.model.visual.") for name, value in first.state_dict().items()}
    resumed = build_model(cfg, InitialWeights.of_model(tuned, "a checkpoint"))
    teacher = resumed.classifier.teacher.state_dict()
    for name, value in kept.state_dict().items():
        assert torch.equal(value, teacher[name])
        assert torch.equal(resumed.clip.visual.state_dict()[name], value + 0.1)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"TEXT_TRANSFER": "none"}, "TEXT_TRANSFER is 'none'; choose one of: post_norm, res_post_norm"),
        ({"TRANSFER_HEADS": 0}, "TRANSFER_HEADS is 0, but it must be a whole number of at least 1"),
        ({"TRANSFER_HEADS": 5}, "TRANSFER_HEADS is 5, but 5 attention heads do not divide the 16 channels"),
    ],
)
def test_says_what_is_wrong(clip, options, sentence):
    with pytest.raises(UserError, match=sentence):
        build(clip, **options)
