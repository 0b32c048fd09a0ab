"""MaskFormer v1: its parts against their definitions, its training interface, and the released names."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from golden.runner import run_case
from torch import nn

from maft.checkpoint.key_map import load_strictly
from maft.checkpoint.official.released import key_map
from maft.errors import UserError
from maft.interfaces import BuildContext
from maft.layers.transformer import Transformer
from maft.proposals.maskformer import FPNPixelDecoder
from maft.registry import PROPOSERS
from maft.structures import Images, Targets, TextClassifier

DIM, CLASSES = 12, 4
CHANNELS = {"res2": 8, "res3": 16, "res4": 24, "res5": 32}
SMALL = {
    "NUM_QUERIES": 7,
    "CONV_DIM": 32,
    "MASK_DIM": 16,
    "HIDDEN_DIM": 24,
    "HEADS": 3,
    "FEEDFORWARD_DIM": 32,
    "DECODER_LAYERS": 3,
    "EMBEDDING_HIDDEN_DIM": 20,
}


class Pyramid(Backbone):
    """One strided convolution a level."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.ModuleDict(
            {n: nn.Conv2d(3, c, 4, stride=2**i) for i, (n, c) in enumerate(CHANNELS.items(), 2)}
        )

    def forward(self, image):
        return {
            name: F.interpolate(level(image), size=tuple(-(-side // level.stride[0]) for side in image.shape[-2:]))
            for name, level in self.levels.items()
        }

    def output_shape(self):
        return {name: ShapeSpec(channels=CHANNELS[name], stride=c.stride[0]) for name, c in self.levels.items()}


def build(**options):
    context = BuildContext(SimpleNamespace(embed_dim=DIM), CLASSES, Pyramid)
    return PROPOSERS.build("MaskFormer", {**SMALL, **options}, context)


def texts():
    rows = F.normalize(torch.randn(CLASSES + 1, DIM), dim=-1)
    seen = torch.ones(CLASSES, dtype=torch.bool)
    return TextClassifier(rows[:-1], torch.arange(CLASSES), CLASSES, rows[-1:], seen)


def batch():
    images = Images.from_list([torch.rand(3, 60, 90) * 255, torch.rand(3, 64, 50) * 255])
    height, width = images.padded_size
    first = torch.zeros(2, height, width, dtype=torch.bool)
    first[0, :30], first[1, 30:60] = True, True
    second = torch.zeros(0, height, width, dtype=torch.bool)
    return images, [Targets(torch.tensor([1, 3]), first), Targets(torch.zeros(0, dtype=torch.int64), second)]


def test_training_predicts_from_every_layer_and_inference_from_the_last():
    proposer, text, (images, _) = build(), texts(), batch()
    proposals = proposer.train()(images, text, None)
    assert proposals.masks.shape == (2, 7, 16, 24) and proposals.padded_size == (64, 96)
    assert proposals.class_logits.shape == (2, 7, CLASSES + 1) and len(proposals.auxiliary) == 2
    assert proposer.eval()(images, text, None).auxiliary == []
    assert build(DEEP_SUPERVISION=False).train()(images, text, None).auxiliary == []


def test_class_logits_are_scaled_cosines():
    proposer, text, (images, _) = build().eval(), texts(), batch()
    logits = proposer(images, text, None).class_logits
    features = proposer.backbone(images.normalized(proposer.pixel_mean, proposer.pixel_std))
    embeddings, _ = proposer.predict(features, all_layers=False)
    expected = 100 * F.normalize(embeddings[-1], dim=-1) @ torch.cat([text.embeddings, text.void]).T
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    assert logits.abs().max() <= 100.001


def test_losses_reach_every_parameter_and_an_image_without_labels_is_fine():
    proposer, text, (images, targets) = build(), texts(), batch()
    losses = proposer.losses(proposer.train()(images, text, None), text, targets)
    kinds = ("loss_ce", "loss_mask", "loss_dice")
    assert set(losses) == {k + layer for k in kinds for layer in ("", "_0", "_1")}
    sum(losses.values()).backward()
    assert [name for name, p in proposer.named_parameters() if p.grad is None] == []
    nothing = [Targets(t.labels[:0], t.masks[:0]) for t in targets]
    losses = proposer.losses(proposer(images, text, None), text, nothing)
    assert all(value.isfinite() for value in losses.values()) and losses["loss_mask"] == 0


def test_overfits_one_image():
    proposer, text, (images, targets) = build(DROPOUT=0.0), texts(), batch()
    images, targets = Images(images.pixels[:1], images.sizes[:1]), targets[:1]
    optimizer = torch.optim.AdamW(proposer.parameters(), lr=2e-3)
    history = []
    for _ in range(40):
        loss = sum(proposer.losses(proposer(images, text, None), text, targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert min(history[-5:]) < 0.5 * history[0]


def test_padding_is_normalised_to_zero():
    """What lies in the padding of the pixel tensor never reaches the backbone."""
    proposer, text, (images, _) = build().eval(), texts(), batch()
    dirty = Images(torch.where(images.inside(), images.pixels, 200.0), images.sizes)
    assert torch.equal(proposer(images, text, None).masks, proposer(dirty, text, None).masks)


def test_pixel_decoder_is_a_top_down_pyramid():
    decoder = FPNPixelDecoder({"res2": 8, "res3": 16}, conv_dim=32, mask_dim=5).eval()
    features = {"res2": torch.randn(1, 8, 9, 7), "res3": torch.randn(1, 16, 5, 4)}
    lateral, fine, coarse = decoder.lateral["res2"], decoder.output["res2"], decoder.output["res3"]
    assert lateral.bias is None and fine.bias is None and coarse.bias is None and lateral.activation is None
    top = F.relu(F.group_norm(F.conv2d(features["res3"], coarse.weight, padding=1), 32))
    rows, columns = torch.arange(9) * 5 // 9, torch.arange(7) * 4 // 7
    merged = F.group_norm(F.conv2d(features["res2"], lateral.weight), 32) + top[:, :, rows][..., columns]
    merged = F.relu(F.group_norm(F.conv2d(merged, fine.weight, padding=1), 32))
    expected = F.conv2d(merged, decoder.mask_features.weight, decoder.mask_features.bias, padding=1)
    torch.testing.assert_close(decoder(features), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize("encoder_layers", [0, 2])
def test_transformer_does_not_care_for_the_order_of_tokens_or_queries(encoder_layers, pre_norm):
    transformer = Transformer(
        16, heads=2, feedforward_dim=24, encoder_layers=encoder_layers, decoder_layers=2, dropout=0.5, pre_norm=pre_norm
    ).eval()
    memory, position, queries = torch.randn(2, 6, 16), torch.randn(6, 16), torch.randn(5, 16)
    tokens, order = torch.randperm(6), torch.randperm(5)
    plain = transformer(memory, position, queries)
    shuffled = transformer(memory[:, tokens], position[tokens], queries[order])
    assert plain.shape == (2, 2, 5, 16)
    torch.testing.assert_close(shuffled, plain[:, :, order], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(transformer(memory, 0 * position, queries), plain, atol=1e-3)
    torch.testing.assert_close(plain.mean(-1), torch.zeros(2, 2, 5), atol=1e-5, rtol=0)


def test_features_of_the_transformers_width_are_not_projected():
    wide = {"HIDDEN_DIM": 32, "HEADS": 4}
    assert isinstance(build(**wide).input_proj, nn.Identity)
    assert build(**wide, TRANSFORMER_FEATURE="res4").input_proj.weight.shape == (32, 24, 1, 1)


def test_a_single_embedding_layer_is_a_projection():
    layers = build(EMBEDDING_LAYERS=1).class_embed.layers
    assert [tuple(layer.weight.shape) for layer in layers] == [(DIM, 24)]


def test_refusals():
    with pytest.raises(UserError, match="TRANSFORMER_FEATURE 'res6'"):
        build(TRANSFORMER_FEATURE="res6")
    with pytest.raises(UserError, match="CONV_DIM 33 must be a multiple of 32, the groups of NORM GN"):
        build(CONV_DIM=33)
    with pytest.raises(UserError, match="NORM is 'XN'; choose one of"):
        build(NORM="XN")
    with pytest.raises(UserError, match="multiple of HEADS 5"):
        build(HEADS=5)
    with pytest.raises(UserError, match=r"EMBEDDING_LAYERS is 0, but it must be a whole number of at least 1 and"):
        build(EMBEDDING_LAYERS=0)
    with pytest.raises(UserError, match=r"PIXEL_MEAN takes a list of 3 \(a number each\), not the list \[1, 2\]\."):
        build(PIXEL_MEAN=[1, 2])
    with pytest.raises(UserError, match="Did you mean NUM_QUERIES"):
        build(NUM_QUERY=5)
    with pytest.raises(UserError, match=r"query_embed.weight: \(9, 24\) in the checkpoint, \(7, 24\) in the model"):
        load_strictly(build(), build(NUM_QUERIES=9).state_dict(), "stage1.safetensors")


def test_autocast_agrees_with_float32():
    proposer, text, (images, targets) = build().eval(), texts(), batch()
    exact = proposer(images, text, None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = proposer(images, text, None)
        losses = proposer.losses(low, text, targets)
    assert all(value.isfinite() for value in losses.values())
    assert low.class_logits.dtype == torch.float32
    assert F.cosine_similarity(low.masks.float().flatten(2), exact.masks.flatten(2), dim=-1).min() > 0.98


def test_released_models_fit_both_ways(golden_dir):
    """Names and shapes of every tensor of the released files, the whole model on the meta device."""
    result = run_case(golden_dir / "ovseg" / "checkpoint_keys.json")
    assert result.status == "pass" and result.tensors >= 5, result.detail


def test_official_encoder_layers_have_a_place():
    proposer = build(ENCODER_LAYERS=2, PRE_NORM=True)
    rules = key_map("maskformer_head")
    official = {
        "layers.1.self_attn.in_proj_weight": "encoder.1.self_attn.in_proj_weight",
        "norm.bias": "encoder_norm.bias",
    }
    for theirs, ours in official.items():
        assert rules.rename(f"predictor.transformer.encoder.{theirs}") == f"transformer.{ours}"
        assert f"transformer.{ours}" in proposer.state_dict()


@pytest.mark.parametrize("case", ["maskformer_head", "set_criterion"])
def test_agrees_with_the_recording(golden_dir, case):
    result = run_case(golden_dir / "ovseg" / f"{case}.json")
    assert result.status == "pass", result.detail
