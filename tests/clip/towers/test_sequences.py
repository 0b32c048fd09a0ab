"""Positions on other grids than the native one."""

from copy import deepcopy

import pytest
import torch

from maft.clip.towers.sequences import resize_position_embedding


def test_position_embedding_keeps_its_class_row_and_its_native_grid():
    position = torch.randn(17, 8)
    assert resize_position_embedding(position, (4, 4), (4, 4)) is position
    resized = resize_position_embedding(position, (4, 4), (3, 7), align_corners=True)
    assert resized.shape == (22, 8)
    torch.testing.assert_close(resized[0], position[0])
    # With aligned corners the corner cells keep their values.
    torch.testing.assert_close(resized[[1, 7, 15, 21]], position[[1, 4, 13, 16]])


@torch.no_grad()
@pytest.mark.parametrize(
    "name", ["MobileCLIP2-L-14", "MobileCLIP2-B", "EVA02-B-16", "EVA01-g-14", "PE-Core-B-16", "ViT-B-16-SigLIP2",
             "ViTamin-L", "vit_medium_patch16_gap_256"]
)  # fmt: skip
def test_other_sizes_are_embedded_as_timm_does(shrunk_clip, name):
    tower = shrunk_clip(name).tower
    side = tower.stride
    pixels = torch.randn(1, 3, 6 * side, 10 * side)
    resized = deepcopy(tower.visual)
    resized.trunk.set_input_size(img_size=(6 * side, 10 * side))
    torch.testing.assert_close(tower.encode(pixels), resized(pixels), rtol=1e-4, atol=1e-5)
    # The tower itself is as before.
    native = torch.randn(1, 3, *tower.image_size)
    torch.testing.assert_close(tower.visual(native), tower.encode(native), rtol=1e-4, atol=1e-5)
