"""DINO's towers block by block, and EoMT on them, on tiny random models of transformers."""

import pytest
import torch
from tiny_dinos import KINDS, save_dino

from maft.conformance import batch, context, ground_truth, texts, tiny_clip
from maft.errors import UserError
from maft.proposals.dino import DINOTower, load_dino
from maft.registry import CLASSIFIERS, PROPOSERS

transformers = pytest.importorskip("transformers")

SMALL = {"NUM_QUERIES": 4, "BLOCKS": 2, "TRAINED_BLOCKS": 3, "EMBEDDING_HIDDEN_DIM": 16, "NUM_POINTS": 0}


@pytest.fixture(scope="module", params=KINDS)
def folder(request, tmp_path_factory):
    return save_dino(request.param, tmp_path_factory.mktemp("dino"))


def build(folder, clip="tiny_vit", **options):
    torch.manual_seed(0)
    return PROPOSERS.build("EoMT", {**SMALL, "PRETRAINED": str(folder), **options}, context(tiny_clip(clip)))


@torch.no_grad()
def test_tokens_are_those_of_transformers(folder):
    tower, pixels = load_dino(str(folder)), torch.randn(2, 3, 64, 96)
    tokens, grid, _ = tower(pixels)
    expected = transformers.AutoModel.from_pretrained(folder)(pixels).last_hidden_state
    torch.testing.assert_close(tokens, expected, atol=1e-5, rtol=1e-5)
    assert grid == (8, 12) and tokens.shape[1] == tower.prefix + 96


@torch.no_grad()
def test_queries_that_no_patch_sees_change_no_patch(folder):
    """The mask reaches the attention, and of DINOv3 the rotation reaches the patches alone."""
    proposer, images = build(folder).eval(), batch((64, 96))
    clip = tiny_clip("tiny_vit")
    seen = []
    proposer.norm.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))

    def alone(logits, share, grid):
        mask = torch.ones(1, 1, 4 + proposer.prefix + 96, 4 + proposer.prefix + 96, dtype=torch.bool)
        mask[..., 4:, :4] = False
        return mask

    proposer._attention_mask = alone
    proposer(images, texts(clip), clip)
    model = DINOTower(transformers.AutoModel.from_pretrained(folder), "whole")
    model.norm = torch.nn.Identity()
    expected, _, _ = model(images.normalized(proposer.pixel_mean, proposer.pixel_std))
    torch.testing.assert_close(seen[-1][:, 4:], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("trained", [3, 4])
def test_training_lowers_the_loss_and_leaves_the_first_blocks_unless_all_train(folder, trained):
    clip = tiny_clip("tiny_convnext")
    proposer, images = build(folder, "tiny_convnext", TRAINED_BLOCKS=trained).train(), batch((64, 64), (64, 64))
    before = {name: value.clone() for name, value in proposer.state_dict().items()}
    optimizer, targets = torch.optim.AdamW(proposer.trainable_parameters(), lr=2e-3), ground_truth(images)
    totals = []
    for _ in range(8):
        text = texts(clip)
        losses = proposer.losses(proposer(images, text, clip), text, targets)
        totals.append(sum(losses.values()))
        optimizer.zero_grad()
        totals[-1].backward()
        optimizer.step()
    assert totals[-1] < 0.9 * totals[0]
    assert all(parameter.grad is not None for parameter in proposer.trainable_parameters())
    moved = {
        name.split(".")[0] for name, value in proposer.state_dict().items() if not torch.equal(value, before[name])
    }
    assert ("dino" in moved) == (trained == 4) and {"blocks", "norm", "queries"} <= moved


@torch.no_grad()
def test_masks_of_a_dino_are_named_by_any_clip_and_come_back_from_a_checkpoint(folder):
    clip, images = tiny_clip("tiny_convnext"), batch((64, 96), (50, 40))
    proposer = build(folder, "tiny_convnext").eval()
    proposals = proposer(images, texts(clip), clip)
    assert proposals.clip_features is None and proposals.class_logits.shape == (2, 4, 4)
    named = CLASSIFIERS.build("MaskPooling", {}, context(clip))(images, proposals, texts(clip), clip)
    assert named.logits.shape == (2, 4, 4)
    again = build(folder, "tiny_convnext").eval()
    torch.nn.init.zeros_(again.queries)
    again.load_state_dict(proposer.state_dict())
    assert torch.equal(again(images, texts(clip), clip).masks, proposals.masks)


def test_on_the_meta_device_it_has_names_and_shapes_alone(folder):
    real = {name: value.shape for name, value in build(folder).state_dict().items()}
    with torch.device("meta"):
        proposer = build(folder)
    assert {name: value.shape for name, value in proposer.state_dict().items()} == real


def test_what_cannot_be_read_is_told(tmp_path, monkeypatch):
    folder = save_dino("dinov2", tmp_path / "dino")
    with pytest.raises(UserError, match="TRAINED_BLOCKS is 5: it must be at least BLOCKS, 2, and at most the 4 blocks"):
        build(folder, TRAINED_BLOCKS=5)
    with pytest.raises(
        UserError, match="EoMT.PRETRAINED no/such is neither a folder nor .* set MODEL.* to that folder"
    ):
        build("no/such")
    transformers.CLIPTextConfig().save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"type 'clip_text_model': give a DINO \(dinov2, dinov2_with_registers, dino"):
        build(tmp_path)
    module = transformers.models.dinov2.modeling_dinov2
    monkeypatch.setattr(module.Dinov2Layer, "forward", lambda self, hidden_states: hidden_states)
    installed = transformers.__version__
    with pytest.raises(UserError, match=f"take a mask in transformers 5.18 or newer, and {installed} is installed"):
        build(folder)
