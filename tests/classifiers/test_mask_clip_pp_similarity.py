"""What MaskCLIP++ learns on similarities, against its formulas."""

import pytest
import torch
import torch.nn.functional as F

from maft.classifiers.mask_clip_pp_similarity import LinearSimilarity, PseudoTextSimilarity, Similarity, cosines
from maft.errors import UserError


@pytest.fixture
def inputs():
    torch.manual_seed(0)
    return torch.randn(2, 5, 16), F.normalize(torch.randn(4, 3, 16), dim=-1), torch.randn(2, 16, 3, 4)


def test_nothing_learned_is_the_mean_cosine_over_the_prompts(inputs):
    embeddings, prompts, _ = inputs
    expected = F.cosine_similarity(embeddings[:, :, None, None], prompts, dim=-1).mean(-1) * 7
    torch.testing.assert_close(Similarity()(embeddings, prompts, 7.0, None), expected)


def test_two_linear_layers_are_run_as_one(inputs):
    embeddings, prompts, _ = inputs
    similarity = LinearSimilarity(3, 32)
    values = cosines(embeddings, prompts) * 50
    expected = similarity.of_cosines_by_definition(values)
    torch.testing.assert_close(similarity(embeddings, prompts, 50.0, None), expected)
    wanted = torch.autograd.grad(expected.square().sum(), list(similarity.parameters()))
    found = torch.autograd.grad(similarity.of_cosines(values).square().sum(), list(similarity.parameters()))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-2)


def test_pseudo_texts_read_each_image_alone_and_no_temperature(inputs):
    embeddings, prompts, dense = inputs
    similarity = PseudoTextSimilarity(16, 4, 0.5).eval()
    found = similarity(embeddings, prompts, 1.0, dense)
    torch.testing.assert_close(similarity(embeddings, prompts, 100.0, dense), found)
    torch.testing.assert_close(similarity(embeddings * 3, prompts, 1.0, dense * 2), found)
    other = dense.clone()
    other[1] = torch.randn(16, 3, 4)
    changed = similarity(embeddings, prompts, 1.0, other)
    torch.testing.assert_close(changed[0], found[0])
    assert (changed[1] - found[1]).abs().max() > 1e-3
    assert not torch.equal(similarity.train()(embeddings, prompts, 1.0, dense), found), "dropout acts in training"


def test_heads_must_divide_the_width():
    with pytest.raises(UserError, match="SIMILARITY_HEADS is 5.* do not divide the 16 channels"):
        PseudoTextSimilarity(16, 5, 0.1)
