"""The batched crops against the operation's definition: one region at a time, cut, masked and interpolated."""

import pytest
import torch
import torch.nn.functional as F

from maft.layers.crops import crop_regions, crop_regions_by_definition, expand_boxes, first_of_equal, tight_boxes

SIZE = (24, 24)
FILL = torch.tensor([0.3, -0.7, 1.1])


def blobs(count, height, width):
    """Random connected-looking masks of very different extents, the last ones a single pixel, a line and everything."""
    low = torch.randn(count, 1, 4, 5)
    masks = F.interpolate(low, (height, width), mode="bicubic")[:, 0] > 0.8
    masks[0] = False
    masks[0, height - 1, width - 1] = True
    masks[1] = False
    masks[1, :, 3] = True
    masks[2] = True
    return masks[masks.flatten(1).any(1)]


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("height, width", [(37, 53), (20, 90), (120, 24)])
def test_equal_to_a_loop(height, width, align_corners):
    image, masks = torch.randn(3, height, width), blobs(12, height, width)
    boxes = tight_boxes(masks)
    expected = crop_regions_by_definition(image, masks, boxes, SIZE, fill=FILL, align_corners=align_corners)
    options = {"fill": FILL, "align_corners": align_corners}
    for bound in (1, 3000, None):
        regions, region_masks = crop_regions(image, masks, boxes, SIZE, taps_at_once=bound, **options)
        torch.testing.assert_close(regions, expected[0], atol=2e-5, rtol=0)
        assert torch.equal(region_masks, expected[1])


def test_expanded_boxes_matting_and_an_oblong_target():
    image, masks = torch.randn(3, 40, 60), torch.rand(5, 40, 60)
    boxes = expand_boxes(tight_boxes(masks > 0.99), 1.5, (40, 60))
    expected = crop_regions_by_definition(image, masks, boxes, (16, 30), fill=FILL, align_corners=False)
    regions, region_masks = crop_regions(image, masks, boxes, (16, 30), fill=FILL)
    torch.testing.assert_close(regions, expected[0], atol=2e-5, rtol=0)
    assert torch.equal(region_masks, expected[1])


def test_large_boxes_keep_the_precision_of_source_positions():
    """On noise a source position that is off by one rounding step would show as 1e-4."""
    image, masks = torch.randn(3, 640, 864), torch.ones(1, 640, 864, dtype=torch.bool)
    boxes = tight_boxes(masks)
    expected, _ = crop_regions_by_definition(image, masks, boxes, (224, 224), fill=FILL, align_corners=False)
    regions, _ = crop_regions(image, masks, boxes, (224, 224), fill=FILL)
    torch.testing.assert_close(regions, expected, atol=2e-5, rtol=0)


def test_no_region():
    none = torch.zeros(0, 8, 8, dtype=torch.bool)
    regions, region_masks = crop_regions(torch.randn(3, 8, 8), none, tight_boxes(none), SIZE, fill=FILL)
    assert regions.shape == (0, 3, *SIZE) and region_masks.shape == (0, 1, *SIZE)


def test_tight_boxes():
    masks = torch.zeros(3, 7, 9, dtype=torch.bool)
    masks[0, 2:5, 3] = True
    masks[2, 6, 0] = masks[2, 0, 8] = True
    assert tight_boxes(masks).tolist() == [[3, 2, 4, 5], [0, 0, 0, 0], [0, 0, 9, 7]]


def test_expanded_boxes_are_cut_towards_zero_and_clipped():
    boxes = torch.tensor([[3, 2, 6, 4], [0, 0, 5, 8]])
    # 1.5 times 3x2 about (4.5, 3): 2.25..6.75 and 1.5..4.5; the other one would reach below zero.
    assert expand_boxes(boxes, 1.5, (8, 6)).tolist() == [[2, 1, 6, 4], [0, 0, 6, 8]]
    assert torch.equal(expand_boxes(boxes, 1.0, (8, 6)), boxes)


def test_gradients_reach_soft_masks():
    image, masks = torch.randn(3, 12, 12), torch.rand(2, 12, 12, requires_grad=True)
    boxes = torch.tensor([[0, 0, 12, 12], [2, 3, 9, 12]])
    regions, _ = crop_regions(image, masks, boxes, SIZE, fill=FILL)
    expected, _ = crop_regions_by_definition(image, masks, boxes, SIZE, fill=FILL, align_corners=False)
    weights = torch.randn_like(expected)
    ours, theirs = (torch.autograd.grad((r * weights).sum(), masks)[0] for r in (regions, expected))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.gpu
def test_gpu_agrees_with_cpu():
    image, masks = torch.randn(3, 120, 90), blobs(12, 120, 90)
    boxes = tight_boxes(masks)
    ours = crop_regions(image.cuda(), masks.cuda(), tight_boxes(masks.cuda()), SIZE, fill=FILL.cuda())
    for left, right in zip(ours, crop_regions(image, masks, boxes, SIZE, fill=FILL)):
        torch.testing.assert_close(left.cpu(), right, atol=1e-4, rtol=0)


def test_copies_name_the_first_region_that_is_the_same():
    regions, masks = torch.rand(6, 3, 4, 4), torch.rand(6, 1, 4, 4).round()
    regions[4], masks[4] = regions[1], masks[1]
    regions[5], masks[5] = regions[1].flip(-1), masks[1]
    regions[3], masks[3] = regions[1], 1 - masks[1]
    regions[2], masks[2] = regions[0], masks[0]
    assert first_of_equal(regions, masks).tolist() == [0, 1, 0, 3, 1, 5]
    assert first_of_equal(regions[:1], masks[:1]).tolist() == [0]
