"""The fine-tuning transform keeps region and mask together, or finds the mask by colour as the official one does."""

import numpy as np
import pytest
import torch
from golden.runner import run_case
from PIL import Image

from maft.data.pairs import OFFICIAL_BACKGROUND, RegionTransform

MEAN, STD = (122.0, 116.0, 104.0), (68.0, 66.0, 70.0)


def region(height=60, width=80):
    """A bright disc on the official background, with its mask."""
    rows, columns = np.mgrid[:height, :width]
    disc = (rows - height / 2) ** 2 + (columns - width / 2) ** 2 < (0.3 * height) ** 2
    pixels = np.where(disc[..., None], [250, 200, 10], OFFICIAL_BACKGROUND).astype(np.uint8)
    return Image.fromarray(pixels), Image.fromarray(disc.astype(np.uint8) * 255)


@pytest.mark.parametrize("train", [True, False])
def test_the_mask_moves_with_the_region(train):
    transform = RegionTransform(48, mean=MEAN, std=STD, train=train)
    for _ in range(5):
        pixels, mask = transform(*region())
        assert pixels.shape == (3, 48, 48) and mask.shape == (1, 48, 48)
        assert set(mask.unique().tolist()) == {0.0, 1.0}
        bright = pixels[0] * STD[0] + MEAN[0] > 187
        assert (bright == mask[0].bool()).float().mean() > 0.97


def test_random_crops_keep_at_least_nine_tenths_of_the_area():
    transform = RegionTransform(100, mean=MEAN, std=STD, train=True)
    full = transform.crop(*region(100, 100), (0, 0, 100, 100))[1].mean()
    areas = torch.stack([transform(*region(100, 100))[1].mean() for _ in range(20)])
    assert (areas / full).min() > 0.98 and (areas / full).max() < 1 / 0.9 + 0.03 and areas.unique().numel() > 3


def test_colour_key_finds_the_region():
    transform = RegionTransform(48, mean=MEAN, std=STD, train=False, background=OFFICIAL_BACKGROUND)
    _, found = transform(region()[0])
    _, moved = RegionTransform(48, mean=MEAN, std=STD, train=False)(*region())
    # Bicubic ringing makes pixels next to the region count as region.
    assert (found >= moved).float().mean() > 0.99 and (found == moved).float().mean() > 0.9


def test_without_mask_everything_is_shown_and_zero_is_the_mean():
    pixels, mask = RegionTransform(16, mean=MEAN, std=STD, train=False)(Image.new("RGB", (20, 20), (122, 116, 104)))
    assert (mask == 1).all() and torch.equal(pixels, torch.zeros(3, 16, 16))


def test_agrees_with_the_recording(golden_dir):
    result = run_case(golden_dir / "ovseg" / "clip_mask_transform.json")
    assert result.status == "pass", result.detail
