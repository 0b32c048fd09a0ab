"""The shared CLIP: its input and its temperature."""

import math

import torch

from maft.structures import Images


def test_padding_is_zero_after_normalisation(vit_clip):
    clip = vit_clip()
    images = Images.from_list([torch.full((3, 20, 30), 200.0)], divisor=32)
    pixels = clip.normalize(images)
    expected = ((200 - clip.pixel_mean) / clip.pixel_std)[:, None, None].expand(-1, 20, 30)
    torch.testing.assert_close(pixels[0, :, :20, :30], expected)
    assert not pixels[0, :, 20:].any() and not pixels[0, :, :, 30:].any()


def test_temperature_is_at_most_100(vit_clip):
    clip = vit_clip()
    for value, factor in ((math.log(20), 20.0), (math.log(500), 100.0)):
        torch.nn.init.constant_(clip.model.logit_scale, value)
        torch.testing.assert_close(clip.temperature.detach(), torch.tensor(factor))
