import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from maft.layers.feature_levels import FeatureLevels

SIZES = ((1, 2), (2, 1))


def test_centres_are_pixel_centres_of_every_level():
    levels = FeatureLevels.of(SIZES, torch.device("cpu"))
    expected = torch.tensor([[0.25, 0.5], [0.75, 0.5], [0.5, 0.25], [0.5, 0.75]])
    torch.testing.assert_close(levels.centres, expected)
    assert levels.start.tolist() == [0, 2]
    assert levels.extent.tolist() == [[2, 1], [1, 2]]


def test_images_of_the_same_sizes_share_their_geometry():
    tokens = torch.zeros(1, 4, 8)
    first = FeatureLevels.shared(SIZES, tokens)
    assert FeatureLevels.shared(list(SIZES), torch.ones(2, 4, 8)) is first
    assert FeatureLevels.shared(SIZES[::-1], tokens).sizes == SIZES[::-1]


def test_geometry_first_asked_for_in_inference_mode_serves_training():
    sizes = ((3, 2), (5, 4))
    with torch.inference_mode():
        FeatureLevels.shared(sizes, torch.zeros(1, 26, 8))
    weight = torch.ones(26, 2, requires_grad=True)
    (weight * FeatureLevels.shared(sizes, torch.zeros(1, 26, 8)).centres).sum().backward()
    assert weight.grad is not None


def test_a_fake_tensor_is_not_kept():
    sizes = ((3, 3), (2, 2))
    with FakeTensorMode():
        fake = FeatureLevels.shared(sizes, torch.zeros(1, 13, 8, device="cuda"))
        assert isinstance(fake.centres, FakeTensor) and fake.centres.device.type == "cuda"
    assert not isinstance(FeatureLevels.shared(sizes, torch.zeros(1, 13, 8)).centres, FakeTensor)
