"""Masks as bytes and back."""

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from maft.errors import UserError
from maft.index.masks import areas_of, compressed, decoded_runs, decompressed, encoded_runs, inside


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (1, 40), (64, 48)])
def test_runs_are_those_of_coco_and_come_back(size):
    masks = torch.rand(9, *size) > torch.linspace(0, 1, 9)[:, None, None]
    runs = encoded_runs(masks)
    assert torch.equal(decoded_runs(runs, size, "here"), masks)
    assert areas_of(runs, size).tolist() == masks.flatten(1).sum(1).tolist()
    for code, mask in zip(runs, masks.numpy()):
        assert np.array_equal(coco_mask.decode({"size": list(size), "counts": code}), mask)


def test_no_mask_has_no_runs():
    assert encoded_runs(torch.zeros(0, 4, 5, dtype=torch.bool)) == []
    assert decoded_runs([], (4, 5), "here").shape == (0, 4, 5) and len(areas_of([], (4, 5))) == 0


def test_the_inside_of_logits_is_above_zero_and_that_of_values_above_one_half():
    values = torch.tensor([[[0.0, 0.1, 0.5, 0.6, -1.0]]])
    assert inside(values, are_logits=True).tolist() == [[[False, True, True, True, False]]]
    assert inside(values, are_logits=False).tolist() == [[[False, False, False, True, False]]]


@pytest.mark.parametrize("shape", [(0, 3, 3), (1, 1, 1), (5, 24, 17)])
def test_values_come_back_to_the_last_bit(shape):
    values = torch.randn(shape) * 100
    if values.numel() > 1:
        values.view(-1)[:2] = torch.tensor([-0.0, 1e-42])
    found = decompressed(compressed(values), shape, "here")
    assert torch.equal(found.view(torch.int32), values.view(torch.int32))


@pytest.mark.parametrize("shape", [(5, 24, 16), (5, 24, 18), (0, 1, 1)])
def test_values_of_another_number_are_refused(shape):
    with pytest.raises(UserError, match="here is damaged"):
        decompressed(compressed(torch.randn(5, 24, 17)), shape, "here")


@pytest.mark.parametrize("damage", [lambda content: content[:-3], lambda content: b"", lambda content: b"xyz"])
def test_damaged_values_are_refused(damage):
    with pytest.raises(UserError, match="here is damaged"):
        decompressed(damage(compressed(torch.randn(2, 3, 4))), (2, 3, 4), "here")
