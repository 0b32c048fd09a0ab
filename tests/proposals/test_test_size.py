"""A proposer that looks at a resized copy of the image."""

import pytest
import torch
import torch.nn.functional as F

from maft.clip import load_clip
from maft.conformance import batch, context, texts
from maft.errors import UserError
from maft.proposals.test_size import of_originals, resized_copy
from maft.registry import PROPOSERS
from maft.structures import Images, Proposals


def test_copies_have_the_short_side_and_padding():
    images = batch((60, 91), (40, 30), divisor=1)
    copy = resized_copy(images, 64, 32)
    assert copy.sizes == [(64, 97), (85, 64)] and copy.padded_size == (96, 128)
    expected = F.interpolate(images.pixels[1:, :, :40, :30], (85, 64), mode="bilinear", align_corners=False)
    torch.testing.assert_close(copy.pixels[1:, :, :85, :64], expected)


def test_a_single_image_keeps_the_masks_of_its_copy():
    images = batch((60, 91), divisor=1)
    copy = resized_copy(images, 64, 32)
    logits = torch.randn(1, 2, 16, 32)
    found = of_originals(Proposals(logits, copy.padded_size), copy, images)
    expected = F.interpolate(logits.sigmoid(), copy.padded_size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(found.masks, expected[..., :64, :97])
    assert found.own_size == (64, 97) and found.padded_size == images.padded_size and not found.are_logits


def test_masks_of_several_images_lie_where_their_images_are():
    images = batch((60, 91), (40, 30), divisor=1)
    copy = resized_copy(images, 64, 32)
    shown = copy.inside().expand(-1, 2, -1, -1).float()
    found = of_originals(Proposals(shown, copy.padded_size, are_logits=False), copy, images)
    assert found.own_size is None
    torch.testing.assert_close(found.masks, images.inside().expand(-1, 2, -1, -1).float())


def test_mask2former_looks_at_the_copy_at_test_alone():
    clip = load_clip("tiny_convnext")
    small = {"CONV_DIM": 32, "MASK_DIM": 16, "HIDDEN_DIM": 16, "HEADS": 2, "DECODER_LAYERS": 1, "ENCODER_LAYERS": 1}
    options = {**small, "BACKBONE": "clip", "CLASS_HEAD": "pooled", "NUM_QUERIES": 3}
    torch.manual_seed(0)
    proposer = PROPOSERS.build("Mask2Former", {**options, "TEST_SIZE": 96}, context(clip)).eval()
    images: Images = batch((60, 91), divisor=proposer.size_divisibility)
    with torch.no_grad():
        found = proposer(images, texts(clip), clip)
        copy = resized_copy(images, 96, 32)
        expected = proposer.propose(copy, texts(clip), clip)
    assert found.own_size == (96, 145) and found.masks.shape == (1, 3, 96, 145)
    torch.testing.assert_close(found.class_logits, expected.class_logits)
    with pytest.raises(UserError, match="TEST_SIZE is for a frozen proposer"):
        proposer.train()(images, texts(clip), clip)
