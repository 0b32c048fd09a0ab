"""TextRegion against its definition, one region and one view at a time."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from maft.classifiers.text_region import TextRegion
from maft.clip import load_clip
from maft.clip.towers.regions import region_pool
from maft.conformance import context, texts
from maft.errors import UserError
from maft.registry import CLASSIFIERS
from maft.structures import Images, Proposals

# Padded to 64 x 128; crops of 32 are 2 x 3 over it.
HEIGHT, WIDTH, CROP = 64, 101, 32


@pytest.fixture
def images():
    return Images.from_list([torch.randint(0, 256, (3, HEIGHT, WIDTH)).float()])


@pytest.fixture
def masks():
    """Soft masks at the padded size: overlapping boxes, one that is empty and one in the padding alone."""
    values = torch.zeros(5, 64, 128)
    values[0, 5:40, 10:60], values[1, 20:64, 30:101], values[2, :30, 70:100] = 1, 0.6, 0.9
    values[4, :, 110:] = 1
    return values


def build(clip, **options):
    return TextRegion(clip, **{"crop_size": CROP, "filter_threshold": None, **options})


def reference(clip, images, masks, interpolation="bicubic"):
    """Region tokens from views that are cut and joined by hand, soft or hard as the tower has it."""
    pool = region_pool(clip.tower, "x")
    pixels = images.pixels[0, :, :HEIGHT, :WIDTH]
    boxes = [(0, 0, HEIGHT, WIDTH)] + [(top, left, 32, 34) for top in (0, 32) for left in (0, 34, 67)]
    views = [pixels[:, top : top + h, left : left + w] for top, left, h, w in boxes]
    squares = [F.interpolate(view[None], (CROP, CROP), mode=interpolation, antialias=True) for view in views]
    maps = [pool.features(clip.normalize_pixels(square))[0] for square in squares]
    side = maps[0].shape[-1]
    grid = torch.cat([torch.cat(maps[1:4], -1), torch.cat(maps[4:], -1)], -2)
    grid = grid + pool.whole_weight * F.interpolate(maps[0], (2 * side, 3 * side), mode="bilinear")
    cells = F.interpolate(masks[None, :, :HEIGHT, :WIDTH], grid.shape[-2:], mode="bilinear")[0].flatten(1)
    used = cells if pool.soft else (cells > 0).float()
    return F.normalize(pool.pool(grid[0].flatten(1).T, used), dim=-1) * (cells.sum(1) > 0)[:, None], cells, grid


@torch.no_grad()
@pytest.mark.parametrize("name", ["tiny_vit", "tiny_siglip"])
def test_it_is_its_definition(images, masks, name):
    clip = load_clip(name)
    expected, _, _ = reference(clip, images, masks)
    answer = build(clip)(images, Proposals(masks[None], (64, 128), are_logits=False), texts(clip), clip)
    torch.testing.assert_close(answer.embeddings[0], expected, rtol=1e-4, atol=1e-5)
    assert answer.valid.tolist() == [[True, True, True, False, False]]
    scale = 50 * (clip.temperature if clip.logit_bias is not None else 1)
    names = texts(clip).matrix
    bias = 0 if clip.logit_bias is None else 50 * clip.logit_bias
    torch.testing.assert_close(answer.logits[0, :3], scale * expected[:3] @ names.T + bias, rtol=1e-3, atol=1e-3)
    assert not answer.rows.logits[0, 3:].any()


@torch.no_grad()
def test_logits_of_masks_are_cut_to_three_before_they_are_resized(images, masks):
    clip = load_clip("tiny_vit")
    logits = torch.randn(1, 4, 16, 32) * 4
    full = F.interpolate(logits.clamp(0, 3), (64, 128), mode="bilinear")
    classifier, text = build(clip), texts(clip)
    found = classifier(images, Proposals(logits, (64, 128)), text, clip)
    expected = classifier(images, Proposals(full, (64, 128), are_logits=False), text, clip)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_cells_that_resemble_other_regions_are_left_out_of_every_mask(images, masks):
    clip = load_clip("tiny_vit")
    proposals = Proposals(masks[None], (64, 128), are_logits=False)
    everything = build(clip, filter_threshold=-2.0)(images, proposals, texts(clip), clip)
    torch.testing.assert_close(everything.logits, build(clip)(images, proposals, texts(clip), clip).logits)
    nothing = build(clip, filter_threshold=2.0)(images, proposals, texts(clip), clip)
    assert not nothing.valid.any() and not nothing.embeddings.any() and nothing.logits.isfinite().all()
    some = build(clip, filter_threshold=0.05)(images, proposals, texts(clip), clip)
    assert (some.logits - everything.logits).abs().max() > 1e-3


@torch.no_grad()
def test_free_slots_take_no_part_in_the_filter(images, masks):
    clip = load_clip("tiny_vit")
    classifier = build(clip, filter_threshold=0.05)
    few = Proposals(masks[None, :3], (64, 128), are_logits=False)
    more = Proposals(torch.cat([masks[:3], torch.ones(2, 64, 128)])[None], (64, 128), are_logits=False)
    more = replace(more, valid=torch.tensor([[True, True, True, False, False]]))
    expected, found = (classifier(images, one, texts(clip), clip) for one in (few, more))
    torch.testing.assert_close(found.logits[:, :3], expected.logits)
    assert not found.valid[0, 3:].any()


@torch.no_grad()
@pytest.mark.parametrize("options", [
    {"mask_type": "hard"}, {"mlp": True}, {"unit_values": True, "filter_threshold": -2.0}, {"halves": True},
    {"multi_resolution": False}, {"interpolation": "bilinear"}, {"official_positions": True}, {"crop_size": None},
])  # fmt: skip
def test_every_option_changes_the_result(images, masks, options):
    clip = load_clip("tiny_vit")
    proposals = Proposals(masks[None], (64, 128), are_logits=False)
    before, after = (build(clip, **some)(images, proposals, texts(clip), clip) for some in ({}, options))
    assert (before.logits - after.logits).abs().max() > 1e-3


@torch.no_grad()
def test_views_come_in_chunks(images, masks):
    clip = load_clip("tiny_vit")
    proposals = Proposals(masks[None], (64, 128), are_logits=False)
    one, many = (
        build(clip, views_per_chunk=count, dense_elsewhere=True)(images, proposals, texts(clip), clip)
        for count in (2, 16)
    )
    torch.testing.assert_close(one.logits, many.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(one.rows.elsewhere[0], many.rows.elsewhere[0], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("clip", "options", "sentence"), [
    ("tiny_convnext", {}, "TextRegion does not work with the image tower of tiny_convnext"),
    ("tiny_siglip", {"MLP": True}, "TextRegion.MLP is for towers with a class token"),
    ("tiny_siglip", {"DENSE_ELSEWHERE": True}, "DENSE_ELSEWHERE is for towers with a class token"),
    ("tiny_siglip", {"UNIT_VALUES": True}, "UNIT_VALUES is for towers with a class token"),
    ("tiny_vit", {"CROP_SIZE": 4}, "CROP_SIZE is 4, less than one patch of tiny_vit, 8"),
])  # fmt: skip
def test_a_mistake_is_a_sentence(clip, options, sentence):
    with pytest.raises(UserError, match=sentence):
        CLASSIFIERS.build("TextRegion", options, context(load_clip(clip)))
