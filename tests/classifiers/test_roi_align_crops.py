"""ZegFormer's crops against their definition: one mask at a time, sampled point by point."""

import pytest
import torch
import torch.nn.functional as F

from maft.classifiers.roi_align_crops import RoIAlignCrops
from maft.clip import load_clip
from maft.conformance import texts
from maft.layers.crops import boxes_to_last_pixel
from maft.structures import Images, Proposals

SIZE = (12, 12)
# Padded to 64 x 96.
HEIGHT, WIDTH = 60, 90


@pytest.fixture
def masks():
    """Binary masks at the padded size: a blob, nothing, everything with the padding, a column, a row, the padding."""
    shown = torch.zeros(6, 64, 96)
    shown[0, 10:30, 20:70] = (torch.rand(20, 50) > 0.3).float()
    shown[2] = 1
    shown[3, 5:50, 40] = 1
    shown[4, 33, 7:80] = 1
    shown[5, 58:, 80:] = 1
    return shown


def region(image, box):
    """RoIAlign of one box: the mean over a grid of bilinear samples in every cell."""
    x0, y0, x1, y1 = box
    rows, columns = -(-(y1 - y0) // SIZE[0]), -(-(x1 - x0) // SIZE[1])
    ys = y0 + (torch.arange(SIZE[0] * rows) + 0.5) * (y1 - y0) / (SIZE[0] * rows)
    xs = x0 + (torch.arange(SIZE[1] * columns) + 0.5) * (x1 - x0) / (SIZE[1] * columns)
    grid = torch.stack(torch.broadcast_tensors(xs[None, :], ys[:, None]), -1)
    height, width = image.shape[-2:]
    grid = 2 * grid / torch.tensor([width, height]) - 1
    sampled = F.grid_sample(image[None], grid[None], padding_mode="border", align_corners=False)
    return F.avg_pool2d(sampled, (rows, columns))[0]


def box_of(mask):
    ys, xs = mask.nonzero(as_tuple=True)
    if not len(ys) or ys.min() == ys.max() or xs.min() == xs.max():
        return [0, 0, mask.shape[1], mask.shape[0]]
    return [xs.min().item(), ys.min().item(), xs.max().item(), ys.max().item()]


def test_boxes_end_on_the_last_pixel_and_flat_ones_are_the_whole_image(masks):
    assert boxes_to_last_pixel(masks > 0).tolist() == [box_of(mask) for mask in masks]
    assert boxes_to_last_pixel(masks[:0] > 0).shape == (0, 4)


@pytest.mark.parametrize("style", ["cropmask", "crop", "mask"])
@pytest.mark.parametrize("chunk", [4, 32])
def test_crops_are_those_of_the_definition(masks, style, chunk):
    pixels, proposals = torch.randn(3, 64, 96), Proposals(masks[None], (64, 96), are_logits=False)
    classifier = RoIAlignCrops(SIZE, style=style, crops_per_chunk=chunk)
    found = torch.cat(list(classifier.crops(pixels, proposals)))
    for crop, mask in zip(found, masks, strict=True):
        if style == "mask":
            inside = F.interpolate(mask[None, None], SIZE, mode="bilinear")[0] > 0.5
            expected = F.interpolate(pixels[None], SIZE, mode="bilinear")[0] * inside
        else:
            expected = region(pixels * mask if style == "cropmask" else pixels, box_of(mask))
        # On noise a sampling position that is off by one rounding step shows as 1e-5.
        torch.testing.assert_close(crop, expected, atol=5e-5, rtol=0)


@torch.no_grad()
def test_an_empty_mask_is_classified_as_a_blank_image(masks):
    clip = load_clip("tiny_vit")
    images = Images.from_list([torch.rand(3, HEIGHT, WIDTH) * 255])
    classifier = RoIAlignCrops(clip.image_size)
    answer = classifier(images, Proposals(masks[None], images.padded_size, are_logits=False), texts(clip), clip)
    blank = clip.encode_image(torch.zeros(1, 3, *clip.image_size))
    torch.testing.assert_close(answer.embeddings[0, 1:2], blank)
    assert answer.valid is None and answer.has_void
    expected = texts(clip).logits(answer.embeddings, clip.temperature)
    torch.testing.assert_close(answer.logits, expected)
