"""EoMT on the shipped tiny towers: one run of the tower, masked attention that goes block by block, and training."""

import pytest
import torch
from torch import nn

from maft.clip import load_clip
from maft.conformance import batch, context, ground_truth, texts, tiny_clip
from maft.errors import UserError
from maft.registry import CLASSIFIERS, PROPOSERS

pytest.importorskip("transformers")

SMALL = {"NUM_QUERIES": 4, "BLOCKS": 2, "TRAINED_BLOCKS": 3, "EMBEDDING_HIDDEN_DIM": 16, "NUM_POINTS": 0}


@pytest.fixture(params=["tiny_vit", "tiny_siglip"])
def clip(request):
    return tiny_clip(request.param)


def build(clip, **options):
    torch.manual_seed(0)
    return PROPOSERS.build("EoMT", {**SMALL, **options}, context(clip))


def test_names_come_from_the_towers_only_run(clip, monkeypatch):
    proposer, images = build(clip).eval(), batch((64, 96))
    runs = []
    patches = type(clip.tower).patches
    monkeypatch.setattr(type(clip.tower), "patches", lambda self, pixels: runs.append(1) or patches(self, pixels))
    with torch.no_grad():
        proposals = proposer(images, texts(clip), clip)
        named = CLASSIFIERS.build("MaskPooling", {}, context(clip))(images, proposals, texts(clip), clip)
    assert len(runs) == 1 and named.logits.shape == (1, 4, 4)
    torch.testing.assert_close(proposals.clip_features["dense"], clip.dense_features(images)["dense"])
    # Patches of 8 pixels, upscaled once.
    assert proposals.masks.shape == (1, 4, 16, 24)


def test_training_lowers_the_loss_of_every_block_with_queries_and_leaves_clip_alone(clip):
    proposer, images = build(clip, ANNEALING_STEPS=8).train(), batch((64, 64), (64, 64))
    before = {name: value.clone() for name, value in clip.state_dict().items()}
    optimizer, targets = torch.optim.AdamW(proposer.trainable_parameters(), lr=1e-3), ground_truth(images)
    totals = []
    for _ in range(8):
        text = texts(clip)
        losses = proposer.losses(proposer(images, text, clip), text, targets)
        assert {"loss_dice", "loss_dice_0", "loss_dice_1"} <= losses.keys() and "loss_dice_2" not in losses
        totals.append(sum(losses.values()))
        optimizer.zero_grad()
        totals[-1].backward()
        optimizer.step()
    assert totals[-1] < 0.9 * totals[0]
    assert all(parameter.grad is not None for parameter in proposer.trainable_parameters())
    assert all(torch.equal(value, before[name]) for name, value in clip.state_dict().items())


def test_masked_attention_goes_block_by_block():
    proposer = build(tiny_clip("tiny_vit"), BLOCKS=3, ANNEALING_STEPS=50).train()

    def shares(steps):
        proposer.trained_steps.fill_(steps)
        return proposer.masked_shares()

    assert shares(0) == shares(10) == [1, 1, 1]
    assert shares(15) == [pytest.approx(0.5**0.9), 1, 1]
    assert shares(20) == [0, 1, 1] and shares(30) == [0, 0, 1] and shares(40) == shares(99) == [0, 0, 0]
    proposer.eval()
    assert shares(12) == [1, 1, 1] and shares(18) == [0, 1, 1]
    assert build(tiny_clip("tiny_vit")).masked_shares() == [1, 1]


def test_steps_are_counted_in_training_and_kept_in_checkpoints():
    clip, images = tiny_clip("tiny_vit"), batch((64, 64))
    proposer = build(clip, ANNEALING_STEPS=10).train()
    for _ in range(2):
        proposer(images, texts(clip), clip)
    proposer.eval()(images, texts(clip), clip)
    assert proposer.state_dict()["trained_steps"] == 2


def test_a_query_sees_its_mask_alone_unless_it_is_left_out():
    proposer = build(tiny_clip("tiny_vit"))
    logits = torch.full((1, 4, 8, 8), -1.0)
    logits[:, 1, :4, :4] = 1.0
    mask = proposer._attention_mask(logits, 1.0, (4, 4))
    assert mask.shape == (1, 1, 21, 21) and mask[0, 0, 4:].all() and mask[0, 0, :, :5].all()
    assert mask[0, 0, 1, 5:].unflatten(0, (4, 4)).nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert not mask[0, 0, 0, 5:].any()
    assert proposer._attention_mask(logits, 0.0, (4, 4)) is None
    torch.manual_seed(0)
    free = torch.stack([proposer._attention_mask(logits, 0.5, (4, 4))[0, 0, :4, 5:].all(1) for _ in range(50)])
    assert 0.35 < free.float().mean() < 0.65


def test_a_block_without_masks_is_one_of_the_whole_sequence():
    """With nothing masked and queries that no patch needs, the copies are CLIP's blocks on a longer sequence."""
    clip, images = tiny_clip("tiny_vit"), batch((64, 64))
    proposer = build(clip, ANNEALING_STEPS=1).eval()
    proposer.trained_steps.fill_(1)
    seen = []
    proposer.norm.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    with torch.no_grad():
        proposer(images, texts(clip), clip)
        tokens, _ = clip.tower.tokens(clip.normalize(images), 4)
        sequence = torch.cat([proposer.queries[None], tokens], 1)
        expected = clip.tower.run(sequence, (8, 8), 4)
    assert len(seen) == 1
    torch.testing.assert_close(seen[0], expected)


def test_it_starts_as_a_copy_of_the_towers_last_blocks(clip):
    proposer = build(clip)
    for copy, block in zip(proposer.blocks, clip.tower.blocks[-3:], strict=True):
        assert copy is not block and isinstance(copy, nn.Module)
        for name, value in copy.state_dict().items():
            assert torch.equal(value, block.state_dict()[name])
        assert all(parameter.requires_grad for parameter in copy.parameters())


def test_what_does_not_fit_is_told():
    with pytest.raises(UserError, match="TRAINED_BLOCKS is 1: it must be at least BLOCKS, 2, and at most the 6 blocks"):
        build(tiny_clip("tiny_vit"), TRAINED_BLOCKS=1)
    with pytest.raises(UserError, match="EoMT does not work with the image tower of .*: queries need a plain ViT"):
        build(load_clip("tiny_convnext"))
