import math

import pytest
import torch

from maft.errors import UserError
from maft.layers.transformer import position_codes
from maft.proposals.pixel_decoder import PixelDecoder, normalisation

CHANNELS = {"res2": 8, "res3": 12, "res4": 16, "res5": 20}
SIZES = {"width": 32, "mask_dim": 24, "num_layers": 2, "num_heads": 4, "num_points": 4, "ffn_dim": 48}


def features(height, width):
    strides = zip(CHANNELS, (4, 8, 16, 32))
    return {name: torch.randn(2, CHANNELS[name], height // stride, width // stride) for name, stride in strides}


def decoder(**options):
    return PixelDecoder(CHANNELS, **{**SIZES, **options})


def test_sizes_and_gradients_reach_every_parameter():
    model = decoder()
    mask_features, memories = model(features(64, 96))
    assert mask_features.shape == (2, 24, 16, 24)
    assert [tuple(m.shape) for m in memories] == [(2, 32, 2, 3), (2, 32, 4, 6), (2, 32, 8, 12)]
    mask_features.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_stays_in_float32_under_autocast():
    model = decoder().eval()
    inputs = features(32, 32)
    expected = model(inputs)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mask_features, _ = model(inputs)
    assert mask_features.dtype == torch.float32
    torch.testing.assert_close(mask_features, expected)


def test_dropout_acts_in_training_only():
    model, inputs = decoder(dropout=0.5), features(32, 32)
    assert not torch.equal(model(inputs)[0], model(inputs)[0])
    model.eval()
    assert torch.equal(model(inputs)[0], model(inputs)[0])


def test_an_image_of_one_cell_and_one_channel_a_group():
    model = decoder()
    inputs = {name: value[:1] for name, value in features(32, 32).items()}
    mask_features, memories = model(inputs)
    assert memories[0].shape == (1, 32, 1, 1) and mask_features.isfinite().all()
    torch.testing.assert_close(mask_features, model({n: v.expand(2, -1, -1, -1) for n, v in inputs.items()})[0][:1])


def test_the_normalisation_is_the_library_s():
    ours, theirs = normalisation("GN", 64), torch.nn.GroupNorm(32, 64)
    inputs = torch.randn(2, 64, 3, 4)
    assert torch.equal(ours(inputs), theirs(inputs)) and ours.state_dict().keys() == theirs.state_dict().keys()
    assert normalisation("", 64) is None


def test_names_the_missing_feature_and_the_wrong_width():
    with pytest.raises(UserError, match=r"'res2'.*gives res3, res4, res5: add it"):
        PixelDecoder({name: width for name, width in CHANNELS.items() if name != "res2"}, **SIZES)
    with pytest.raises(UserError, match=r"40.*multiple of 32"):
        decoder(width=40)


def test_position_encoding_separates_rows_from_columns():
    encoding = position_codes(torch.zeros(1, 8, 4, 6)).T.unflatten(1, (4, 6))
    assert encoding.shape == (8, 4, 6)
    assert torch.equal(encoding[:4, :, :1].expand(-1, -1, 6), encoding[:4])
    assert torch.equal(encoding[4:, :1].expand(-1, 4, -1), encoding[4:])
    # The last row is a full turn; channels alternate between sine and cosine of the same frequency.
    torch.testing.assert_close(encoding[0, :, 0], (torch.arange(1, 5) / 4 * 2 * math.pi).sin(), atol=1e-5, rtol=0)
    torch.testing.assert_close(encoding[1, :, 0], (torch.arange(1, 5) / 4 * 2 * math.pi).cos(), atol=1e-5, rtol=0)
