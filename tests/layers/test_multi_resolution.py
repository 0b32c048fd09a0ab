"""An image and its crops, and one map of all of them."""

import cv2
import pytest
import torch
import torch.nn.functional as F

from maft.layers.multi_resolution import MultiResolution, squashed

SIZES = [((64, 101), (2, 3)), ((50, 40), (1, 1)), ((20, 95), (1, 2)), ((31, 31), (1, 1)), ((97, 33), (3, 1))]


@pytest.mark.parametrize(("size", "counts"), SIZES)
@pytest.mark.parametrize("halves", [False, True])
def test_crops_of_one_size_cover_the_image(size, counts, halves):
    views = MultiResolution(size, (32, 32), halves)
    assert views.counts == counts
    boxes = views.boxes()
    crops = boxes[-counts[0] * counts[1] :]
    assert len({box[2:] for box in crops}) == 1 and crops[0][2:] == (-(-size[0] // counts[0]), -(-size[1] // counts[1]))
    shown = torch.zeros(size)
    for top, left, height, width in crops:
        assert top >= 0 and left >= 0 and top + height <= size[0] and left + width <= size[1]
        shown[top : top + height, left : left + width] += 1
    assert (shown > 0).all()
    wholes = [(0, 0, size[0], size[1] // 2), (0, size[1] // 2, size[0], size[1] - size[1] // 2)]
    wholes = wholes if halves else [(0, 0, *size)]
    assert boxes == (wholes if wholes == crops else wholes + crops), "no view is there twice"


def test_an_image_one_pixel_wide_has_no_halves():
    assert MultiResolution((5, 1), (32, 32), halves=True).boxes() == [(0, 0, 5, 1)]


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
def test_views_are_squashed_with_antialiasing(mode):
    image = torch.rand(3, 64, 101) * 255
    views = MultiResolution((64, 101), (32, 32)).views(image, mode)
    assert views.shape == (7, 3, 32, 32)
    last = F.interpolate(image[None, :, 32:64, 67:101], (32, 32), mode=mode, antialias=True)
    torch.testing.assert_close(views[-1:], last)
    torch.testing.assert_close(views[:1], F.interpolate(image[None], (32, 32), mode=mode, antialias=True))


def test_each_crop_lies_at_its_place_over_the_whole():
    views = MultiResolution((64, 101), (32, 32))
    maps = torch.arange(7.0)[:, None, None, None].expand(7, 2, 4, 5)
    joined = views.joined(maps, 0.5)
    assert joined.shape == (2, 8, 15)
    for crop in range(6):
        row, column = divmod(crop, 3)
        assert (joined[:, 4 * row : 4 * row + 4, 5 * column : 5 * column + 5] == crop + 1).all()
    ramp = torch.arange(5.0).expand(1, 2, 4, 5)
    whole = views.joined(torch.cat([ramp, torch.zeros(6, 2, 4, 5)]), 0.5)
    torch.testing.assert_close(whole, 0.5 * F.interpolate(ramp, (8, 15), mode="bilinear")[0])


def test_one_crop_is_the_whole_image_itself():
    maps = torch.randn(1, 3, 4, 4)
    torch.testing.assert_close(MultiResolution((50, 40), (32, 32)).joined(maps, 0.5), 1.5 * maps[0])


def test_halves_share_the_width():
    maps = torch.zeros(8, 1, 3, 3)
    maps[0], maps[1] = 1, 2
    joined = MultiResolution((64, 101), (32, 32), halves=True).joined(maps)
    assert joined.shape == (1, 6, 9) and (joined[..., :4] == 1).all() and (joined[..., 4:] == 2).all()


def test_a_squashed_image_is_that_of_opencv():
    image = torch.randint(0, 256, (3, 64, 101), dtype=torch.uint8)
    expected = cv2.resize(image.permute(1, 2, 0).numpy(), (24, 32), interpolation=cv2.INTER_LINEAR)
    torch.testing.assert_close(squashed(image.float(), (32, 24)), torch.from_numpy(expected).permute(2, 0, 1).float())
