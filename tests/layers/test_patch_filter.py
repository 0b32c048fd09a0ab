"""The filter of cells against its definition, with the cosines of all pairs of cells."""

import pytest
import torch
import torch.nn.functional as F

from maft.layers.patch_filter import local_cells


def lead(features, inside, cell):
    """How much more a cell resembles its regions than the others."""
    cosines = F.cosine_similarity(features[cell], features, dim=-1)
    means = torch.stack([cosines[region].mean() for region in inside])
    own, others = means[inside[:, cell]], means[~inside[:, cell]]
    return (own.mean() if len(own) else 0) - (others.mean() if len(others) else 0)


@pytest.mark.parametrize("threshold", [-0.1, 0.0, 0.07, 0.2])
def test_cells_are_kept_that_resemble_their_own_regions(threshold):
    features, inside = torch.randn(40, 8), torch.rand(5, 40) > 0.6
    inside[:, 7] = False
    inside[:, 8] = True
    inside[0, 3] = True
    leads = torch.tensor([float(lead(features, inside, cell)) for cell in range(40)])
    found = local_cells(features, inside, threshold)
    sure = (leads - threshold).abs() > 1e-5
    assert sure.sum() > 35 and torch.equal(found[sure], (leads >= threshold)[sure])


def test_a_cell_that_looks_like_another_region_is_left_out():
    features = torch.zeros(6, 2)
    features[:3, 0], features[3:, 1] = 1, 1
    inside = torch.tensor([[True, True, True, True, False, False], [False, False, False, False, True, True]])
    assert local_cells(features, inside, 0.07).tolist() == [True, True, True, False, True, True]


def test_without_regions_nothing_is_kept():
    assert not local_cells(torch.randn(6, 2), torch.zeros(0, 6, dtype=torch.bool), 0.07).any()


def test_empty_regions_do_not_count():
    features, inside = torch.randn(40, 8), torch.rand(5, 40) > 0.6
    inside[[1, 3]] = False
    found = local_cells(features, inside, 0.07)
    assert found.any() and torch.equal(found, local_cells(features, inside[[0, 2, 4]], 0.07))
