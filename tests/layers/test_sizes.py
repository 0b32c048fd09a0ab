"""Sizes of resized images."""

import pytest

from maft.layers.sizes import with_short_side


@pytest.mark.parametrize(("size", "expected"), [
    ((60, 91), (64, 97)), ((40, 30), (85, 64)), ((10, 40), (64, 256)),
    ((10, 80), (32, 256)), ((3000, 4), (256, 1)), ((1, 2560), (1, 256)),
])  # fmt: skip
def test_the_short_side_is_given_and_the_long_one_bounded(size, expected):
    assert with_short_side(size, 64) == expected
