"""Images and masks at the size at which MaskCLIP++ looks at them."""

import pytest
import torch

from maft.classifiers.mask_clip_pp_input import masks_on_grid, masks_on_grid_by_definition, prepare
from maft.clip import load_clip
from maft.structures import Images, Proposals


@pytest.fixture(scope="module")
def images():
    torch.manual_seed(0)
    return Images.from_list([torch.rand(3, *size) * 255 for size in ((45, 70), (60, 33))], 32)


@pytest.mark.parametrize("are_logits", [True, False])
@pytest.mark.parametrize("align_corners", [True, False])
def test_two_matrices_equal_one_resize_after_the_other(images, are_logits, align_corners):
    masks = torch.randn(2, 3, 16, 24) * 4 if are_logits else torch.rand(2, 3, 16, 24)
    proposals = Proposals(masks, images.padded_size, are_logits, align_corners=align_corners)
    sizes, padded, grid = [(40, 62), (72, 40)], (84, 70), (6, 5)
    arguments = (proposals, images, sizes, padded, grid)
    found = masks_on_grid(*arguments)
    torch.testing.assert_close(found, masks_on_grid_by_definition(*arguments))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(masks_on_grid(*arguments), found), "which cells a mask shows does not depend on autocast"


def test_masks_of_a_resized_image_are_read_at_their_own_size():
    image = Images.from_list([torch.zeros(3, 30, 41)], 1)
    proposals = Proposals(torch.rand(1, 2, 64, 87), image.padded_size, False, own_size=(64, 87))
    arguments = (proposals, image, [(28, 38)], (28, 42), (2, 3))
    torch.testing.assert_close(masks_on_grid(*arguments), masks_on_grid_by_definition(*arguments))
    at_the_image = Proposals(proposals.masks, image.padded_size, False)
    assert not torch.equal(masks_on_grid(*arguments), masks_on_grid(at_the_image, *arguments[1:]))


def test_images_are_normalised_resized_and_padded_with_zeros(images):
    clip = load_clip("tiny_vit")
    pixels, sizes = prepare(images, clip, 28, 14)
    assert sizes == [(28, 43), (50, 28)], "the long side is cut to a whole number"
    assert pixels.shape == (2, 3, 56, 56)
    assert not pixels[0, :, 28:].any() and not pixels[0, :, :, 43:].any() and pixels[0, :, :28, :43].any()
    same, sizes = prepare(images, clip, None, 1)
    assert sizes == images.sizes
    torch.testing.assert_close(same, clip.normalize(images)[..., :60, :70])
