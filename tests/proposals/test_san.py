"""SAN as a proposer: one pass of CLIP, names of its own, what trains, sizes, and refusals."""

import pytest
import torch
import torch.nn.functional as F

from maft.classifiers.san import SAN as Recognition
from maft.clip.class_rows import bias_on_grid
from maft.conformance import NAMES, batch, context, ground_truth, texts, tiny_clip
from maft.errors import UserError
from maft.registry import PROPOSERS
from maft.structures import Images

OPTIONS = {
    "NUM_QUERIES": 6, "WIDTH": 24, "HEADS": 2, "DEPTH": 3, "IMAGE_SIZE": 96, "EMBED_DIM": 16, "HIDDEN_DIM": 16,
    "START_LAYER": 4, "FUSION": [[0, 0], [2, 1], [4, 2]], "SUPERVISED_BLOCKS": [2, 3], "CLIP_SCALE": 0.7,
    "NUM_POINTS": 64,
}  # fmt: skip


def build(clip=None, **options):
    torch.manual_seed(0)
    return PROPOSERS.build("SAN", {**OPTIONS, **options}, context(clip or tiny_clip("tiny_vit"))).eval()


@torch.no_grad()
@pytest.mark.parametrize("sizes", [[(64, 96), (96, 64)], [(40, 100)]])
def test_its_names_are_those_of_one_sequence_under_one_mask(sizes):
    clip, proposer, images = tiny_clip("tiny_vit"), build(), batch(*sizes)
    text = texts(clip)
    proposals = proposer(images, text, clip)
    small = F.interpolate(clip.normalize(images), scale_factor=0.7, mode="bilinear", align_corners=False)
    tokens, grid = clip.tower.tokens(small, 4)
    rows = clip.tower.class_rows_by_definition(
        tokens, grid, bias_on_grid(proposals.attention_bias, grid), 4, keeps_class_token=True
    )
    expected = text.logits(clip.tower.project(rows))
    torch.testing.assert_close(proposals.class_logits, expected, rtol=1e-3, atol=1e-3)
    assert proposals.class_logits.shape == (len(sizes), 6, len(NAMES) + 1) and not proposals.auxiliary
    assert proposals.masks.shape[-2:] == tuple(side // 16 for side in images.padded_size)


@torch.no_grad()
def test_the_classifier_says_of_its_masks_what_it_says_itself():
    clip, proposer, images = tiny_clip("tiny_vit"), build(), batch((64, 96), (96, 64))
    text = texts(clip)
    proposals = proposer(images, text, clip)
    classifier = Recognition(clip, start_layer=4, clip_scale=0.7)
    torch.testing.assert_close(classifier(images, proposals, text, clip).logits, proposals.class_logits)
    for index in range(2):
        one = Images(images.pixels[index : index + 1], images.sizes[index : index + 1])
        alone = classifier(one, proposals.image(index).detached(), text, clip).logits
        torch.testing.assert_close(alone[0], proposals.class_logits[index], rtol=1e-4, atol=1e-3)


def test_the_bias_and_the_position_embedding_of_clip_learn_from_names_in_every_supervised_block():
    clip, proposer, images = tiny_clip("tiny_vit"), build().train(), batch((64, 96), (96, 64))
    (position,) = proposer.trainable_clip_parameters(clip)
    position.requires_grad_(True)
    try:
        proposals = proposer(images, texts(clip), clip)
        assert len(proposals.auxiliary) == 1
        losses = proposer.losses(proposals, texts(clip), ground_truth(images))
        assert losses.keys() == {f"loss_{part}{end}" for part in ("ce", "mask", "dice") for end in ("", "_0")}
        (losses["loss_ce"] + losses["loss_ce_0"]).backward()
        assert position.grad.abs().max() > 0
        of_bias = [proposer.side_adapter.bias_scaling.weight, *proposer.side_adapter.bias_mlp.parameters()]
        assert all(parameter.grad.isfinite().all() and parameter.grad.any() for parameter in of_bias)
        assert all(p.grad is None for p in clip.parameters() if p is not position)
    finally:
        clip.requires_grad_(False).zero_grad()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"START_LAYER": 6}, r"SAN\.START_LAYER is 6, but the image tower of tiny_vit has blocks 0 to 5\."),
        ({"WIDTH": 25}, r"SAN\.WIDTH is 25: it must be a multiple of HEADS, 2\."),
        ({"PATCH_SIZE": 12}, r"PATCH_SIZE is 12, but sides of padded images are multiples of 32: choose a divisor"),
        ({"IMAGE_SIZE": 8}, r"IMAGE_SIZE is 8, less than PATCH_SIZE, 16\."),
        ({"FUSION": [[5, 0]]}, r"FUSION has the pair \[5, 0\]: the first number is at most START_LAYER, 4"),
        ({"FUSION": [[0, 4]]}, r"FUSION has the pair \[0, 4\]: .* and the second at most DEPTH, 3\."),
        ({"FUSION": [[0, 1], [2, 1]]}, r"FUSION adds features twice after one block"),
        ({"FUSION": []}, r"FUSION is \[\], but it must be a list .* with a length of at least 1\."),
        ({"FUSION": [[0, 1, 2]]}, r"FUSION takes a list .*, not the list \[\[0, 1, 2\]\]"),
        ({"SUPERVISED_BLOCKS": [3, 2]}, r"SUPERVISED_BLOCKS is \[3, 2\]: give rising numbers of blocks"),
        ({"SUPERVISED_BLOCKS": [4]}, r"SUPERVISED_BLOCKS is \[4\]: .* at most DEPTH, 3\."),
        ({"CLIP_SCALE": 0.0}, r"CLIP_SCALE is 0\.0, but it must be a number above 0 and at most 1\."),
    ],
)
def test_numbers_that_do_not_go_together_are_refused(options, sentence):
    with pytest.raises(UserError, match=sentence) as raised:
        build(**options)
    assert "\n" not in str(raised.value)


def test_a_tower_without_a_class_token_is_refused():
    with pytest.raises(UserError, match=r"MODEL\.PROPOSER\.SAN does not work with .*tiny_convnext .*choose a ViT"):
        build(tiny_clip("tiny_convnext"))


def test_an_image_of_which_clip_would_see_less_than_a_patch_is_refused():
    clip = tiny_clip("tiny_vit")
    with pytest.raises(UserError, match=r"32x32 pixels at 3x3, less than one patch of tiny_vit: give larger images"):
        build(CLIP_SCALE=0.1)(batch((20, 30)), texts(clip), clip)
