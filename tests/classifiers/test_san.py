"""SAN's recognition of masks that bring no attention bias."""

from dataclasses import replace

import pytest
import torch

from maft.classifiers.san import SAN
from maft.conformance import batch, predictions, texts, tiny_clip
from maft.errors import UserError
from maft.layers.grid_masks import grid_probabilities


@torch.no_grad()
def test_masks_without_a_bias_show_their_patches_beside_a_class_token_that_no_row_sees():
    clip, images = tiny_clip("tiny_vit"), batch((64, 96), (96, 64))
    proposals, text = predictions(images), texts(tiny_clip("tiny_vit"))
    found = SAN(clip, start_layer=3, clip_scale=1.0)(images, proposals, text, clip)
    tokens, grid = clip.tower.tokens(clip.normalize(images), 3)
    visible = (grid_probabilities(proposals, grid) >= 0.5).flatten(2)
    rows = clip.tower.class_rows_by_definition(tokens, grid, visible, 3, keeps_class_token=True)
    torch.testing.assert_close(found.logits, text.logits(clip.tower.project(rows)), rtol=1e-3, atol=1e-3)
    # As a bias, what is hidden is minus infinity.
    bias = torch.zeros(visible.shape).masked_fill(~visible, float("-inf"))[:, None].unflatten(3, grid)
    biased = SAN(clip, start_layer=3, clip_scale=1.0)(images, replace(proposals, attention_bias=bias), text, clip)
    torch.testing.assert_close(biased.logits, found.logits, rtol=1e-4, atol=1e-3)


@torch.no_grad()
def test_its_options_count():
    clip, images = tiny_clip("tiny_vit"), batch((64, 96))
    proposals, text = predictions(images), texts(clip)
    first = SAN(clip, start_layer=3, clip_scale=1.0)(images, proposals, text, clip).logits
    for options in ({"start_layer": 4}, {"clip_scale": 0.5}, {"mask_threshold": 0.9}):
        other = SAN(clip, **{"start_layer": 3, "clip_scale": 1.0, **options})(images, proposals, text, clip).logits
        assert (other - first).abs().max() > 1e-2, options


def test_a_tower_without_a_class_token_or_without_the_block_is_refused():
    with pytest.raises(UserError, match=r"MODEL\.CLASSIFIER\.SAN does not work with .*tiny_siglip"):
        SAN(tiny_clip("tiny_siglip"))
    with pytest.raises(UserError, match=r"SAN\.START_LAYER is 9, but the image tower of tiny_vit has blocks 0 to 5"):
        SAN(tiny_clip("tiny_vit"))
