import json
from types import SimpleNamespace

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone
from detectron2.projects.deeplab import add_deeplab_config

from maft.checkpoint.key_map import differences
from maft.checkpoint.official.released import key_map
from maft.clip.loading import clip_from_config
from maft.errors import UserError
from maft.interfaces import BuildContext
from maft.registry import PROPOSERS
from maft.structures import Images, Targets, TextClassifier

SMALL = {
    "NUM_QUERIES": 6,
    "HIDDEN_DIM": 32,
    "HEADS": 4,
    "FEEDFORWARD_DIM": 48,
    "ENCODER_LAYERS": 1,
    "ENCODER_FEEDFORWARD_DIM": 48,
    "DECODER_LAYERS": 3,
    "EMBEDDING_HIDDEN_DIM": 24,
}
PLAIN = {**SMALL, "CONV_DIM": 32, "MASK_DIM": 32, "NUM_POINTS": 256}
FREESEG = {**SMALL, "INTERACTION_DIM": 32, "INTERACTION_HEADS": 4}
WITH_CLIP = {**PLAIN, "BACKBONE": "clip", "CLASS_HEAD": "pooled"}
KINDS = {"plain": ("Mask2Former", PLAIN), "freeseg": ("FreeSeg", FREESEG), "clip": ("Mask2Former", WITH_CLIP)}


def resnet(depth=18, **options):
    cfg = get_cfg()
    add_deeplab_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_basic_resnet_backbone" if depth == 18 else "build_resnet_deeplab_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    resnets = cfg.MODEL.RESNETS
    resnets.OUT_FEATURES, resnets.DEPTH = ["res2", "res3", "res4", "res5"], depth
    for key, value in options.items():
        resnets[key] = value
    return build_backbone(cfg)


def resnet_101():
    return resnet(101, RES2_OUT_CHANNELS=256, STEM_OUT_CHANNELS=128, STRIDE_IN_1X1=False)


@pytest.fixture(scope="module")
def clip():
    """A convolutional CLIP of a few thousand parameters."""
    text = {"context_length": 16, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}
    config = {"embed_dim": 20, "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8}, "text_cfg": text}
    return clip_from_config("small", config, quick_gelu=False, tokenizer=SimpleNamespace(context_length=16))


def build(kind, clip):
    name, options = KINDS[kind]
    small = {"STEM_OUT_CHANNELS": 8, "RES2_OUT_CHANNELS": 8, "NORM": "BN"}
    return PROPOSERS.build(name, options, BuildContext(clip, 5, lambda: resnet(**small)))


def texts(void=True):
    rows = torch.nn.functional.normalize(torch.randn(6, 20), dim=-1)
    return TextClassifier(rows[:5], torch.arange(5), 5, rows[5:] if void else None, torch.ones(5, dtype=torch.bool))


def batch():
    """Two bright rectangles on dark ground, classes 3 and 1, and an image without anything."""
    pixels, masks = torch.full((2, 3, 96, 96), 20.0), torch.zeros(2, 96, 96, dtype=torch.bool)
    masks[0, 8:50, 10:60], masks[1, 56:90, 30:90] = True, True
    pixels[0, :, masks[0]], pixels[0, 0, masks[1]] = 250.0, 180.0
    nothing = Targets(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 96, 96, dtype=torch.bool))
    return Images(pixels, [(96, 96), (96, 96)]), [Targets(torch.tensor([3, 1]), masks), nothing]


@pytest.mark.parametrize("kind", KINDS)
def test_learns_two_masks_and_their_classes(kind, clip):
    proposer, text, (images, targets) = build(kind, clip), texts(), batch()
    optimizer = torch.optim.AdamW(proposer.parameters(), lr=2e-3)
    totals = []
    for _ in range(25):
        proposals = proposer(images, text, clip, targets)
        losses = proposer.losses(proposals, text, targets)
        total = sum(losses.values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(float(total.detach()))
    assert len(proposals.auxiliary) == 3 and len(losses) == 12
    assert min(totals[-5:]) < 0.6 * totals[0]
    assert all(p.grad is None for p in clip.parameters())
    untrained = [n for n, p in proposer.named_parameters() if p.grad is None]
    assert not untrained


@pytest.mark.parametrize("kind", KINDS)
def test_inference_has_one_layer_and_the_promised_shapes(kind, clip):
    proposer, (images, _) = build(kind, clip).eval(), batch()
    proposals = proposer(images, texts(), clip)
    assert proposals.masks.shape == (2, 6, 24, 24) and proposals.class_logits.shape == (2, 6, 6)
    assert proposals.auxiliary == [] and proposals.align_corners == (kind == "freeseg")
    assert (proposals.clip_features is not None) == (kind == "clip")
    assert not [name for name in proposer.state_dict() if name.startswith("pixel_mean") or name.startswith("pixel_std")]


def test_only_freeseg_masks_depend_on_the_vocabulary(clip):
    images, _ = batch()
    for kind, depends in (("plain", False), ("freeseg", True)):
        proposer = build(kind, clip).eval()
        masks = [proposer(images, texts(), clip).masks for _ in range(2)]
        assert torch.equal(*masks) != depends


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_agrees_with_float32(kind, clip):
    proposer, text, (images, targets) = build(kind, clip), texts(), batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = proposer.losses(proposer(images, text, clip, targets), text, targets)
    assert all(value.isfinite() for value in losses.values())


@pytest.mark.parametrize(
    ("kind", "options", "sentence"),
    [
        ("plain", {"BACKBONE": "swin"}, r"BACKBONE is 'swin'; choose one of: detectron2, clip\."),
        ("clip", {"NUM_QUERIES": 0}, r"NUM_QUERIES is 0, but it must be a whole number of at least 1\."),
        ("clip", {"CLASS_HEAD": "linear"}, r"CLASS_HEAD is 'linear'; choose one of: query, pooled\."),
        ("clip", {"MASK_LOSS": "iou"}, r"MASK_LOSS is 'iou'; choose one of: focal, bce\."),
        ("clip", {"DICE_WEIGHT": -1}, r"DICE_WEIGHT is -1, but it must be a number of at least 0\."),
        ("clip", {"PIXEL_STD": [0.0, 1.0, 1.0]}, r"PIXEL_STD takes a list of 3 \(a number above 0 each\)"),
        ("clip", {"DROPOUT": 1.0}, "DROPOUT is 1.0, but it must be a number of at least 0 and below 1"),
        ("clip", {"DECODER_LAYERS": 10**9}, "DECODER_LAYERS is 1000000000, but .* at most 1000"),
        ("clip", {"MASK_DIM": 10**9}, "MASK_DIM is 1000000000, but .* at most 65536"),
        ("clip", {"HIDDEN_DIM": 30}, "HIDDEN_DIM 30 .* HEADS, 4"),
        ("freeseg", {"MASK_DIM": 64}, "CONV_DIM and MASK_DIM of FreeSeg must be its HIDDEN_DIM"),
    ],
)
def test_says_what_is_wrong(clip, kind, options, sentence):
    name, small = KINDS[kind]
    with pytest.raises(UserError, match=sentence):
        PROPOSERS.build(name, {**small, **options}, BuildContext(clip, 5, resnet))


def test_a_vocabulary_without_void_cannot_be_trained_on(clip):
    proposer, text, (images, targets) = build("plain", clip), texts(void=False), batch()
    with pytest.raises(UserError, match="VOCABULARY.VOID"):
        proposer.losses(proposer(images, text, clip), text, targets)


def released(golden_dir, system):
    """(file, {name: shape}) of the sem_seg_head and, for ResNets, of the backbone of every released checkpoint."""
    files = json.loads((golden_dir / system / "checkpoint_keys.json").read_text())
    for file, record in files.items():
        keys = {name: torch.Size(shape[:-1]) for name, shape in record.get("keys", {}).items()}
        for prefix in ("sem_seg_head.", "backbone."):
            part = {name.removeprefix(prefix): s for name, s in keys.items() if name.startswith(prefix)}
            yield file, prefix, part


def test_released_freeseg_generators_fit(golden_dir):
    checked = set()
    for file, prefix, official in released(golden_dir, "maft"):
        if not official:
            continue
        clip_dim = official.get("predictor.class_embed.layers.1.weight", [0])[0]
        with torch.device("meta"):
            context = BuildContext(SimpleNamespace(embed_dim=clip_dim), 171, resnet_101)
            # The releases are one layer deeper than the paper.
            model = PROPOSERS.build("FreeSeg", {"DECODER_LAYERS": 10}, context)
        if prefix == "backbone.":
            ours, state = model.backbone.state_dict(), key_map("resnet").convert(official)
        else:
            ours = {n: v for n, v in model.state_dict().items() if not n.startswith("backbone.")}
            state = key_map("mask2former_head").convert(official)
        assert differences(ours, state) == []
        checked.add((file, prefix))
    assert {prefix for _, prefix in checked} == {"sem_seg_head.", "backbone."} and len(checked) >= 4


def test_released_fcclip_segmenters_fit(golden_dir):
    checked = 0
    for _, prefix, official in released(golden_dir, "maskadapter"):
        if prefix != "sem_seg_head." or not official:
            continue
        widths = [official[f"pixel_decoder.input_proj.{i}.0.weight"][1] for i in (2, 1, 0)]
        widths.insert(0, official["pixel_decoder.adapter_1.weight"][1])
        channels = dict(zip(("res2", "res3", "res4", "res5"), widths))
        embed_dim = official["predictor.class_embed.layers.2.weight"][0]
        queries = official["predictor.query_feat.weight"][0]
        tower = SimpleNamespace(require=lambda *_: None, pyramid_channels=lambda channels=channels: channels)
        stand_in = SimpleNamespace(embed_dim=embed_dim, tower=tower)
        options = {"BACKBONE": "clip", "CLASS_HEAD": "pooled", "NUM_QUERIES": queries}
        with torch.device("meta"):
            model = PROPOSERS.build("Mask2Former", options, BuildContext(stand_in, 133, resnet))
        assert differences(model.state_dict(), key_map("mask2former_head").convert(official)) == []
        checked += 1
    assert checked >= 4
