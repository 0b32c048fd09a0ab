import pytest
import torch
import torch.nn.functional as F

import maft.proposals.freeseg as text_interaction
from maft.proposals.freeseg import TextInteraction


@pytest.fixture
def module():
    module = TextInteraction(width=12, text_dim=10, inner_dim=32, num_heads=4).eval()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module


def attended_head_by_head(module, tokens, texts):
    """Cross-attention as it is written in the paper, with every token widened."""
    q, k, v = (
        projection(x).unflatten(-1, (4, -1)).transpose(-2, -3)
        for projection, x in (
            (module.query_projection, tokens),
            (module.key_projection, texts),
            (module.value_projection, texts),
        )
    )
    weights = ((q * 8**-0.5) @ k.transpose(-1, -2)).softmax(-1)
    return module.output_projection((weights @ v).transpose(-2, -3).flatten(-2))


def test_equals_plain_cross_attention_with_texts_normalised_once_more_per_map(module):
    maps, texts = [torch.randn(2, 12, 2, 3), torch.randn(2, 12, 4, 5)], torch.randn(7, 10)
    changed = module(maps, texts)
    for index, (before, after) in enumerate(zip(maps, changed)):
        for _ in range(index + 1 if index == 0 else 1):
            texts = module.text_norm(texts)
        tokens = module.token_norm(before.flatten(2).transpose(1, 2))
        expected = tokens + module.gamma * attended_head_by_head(module, tokens, texts)
        torch.testing.assert_close(after.flatten(2).transpose(1, 2), expected, atol=2e-5, rtol=1e-5)


def test_chunks_change_nothing(module, monkeypatch):
    maps, texts = [torch.randn(2, 12, 9, 7)], torch.randn(7, 10)
    whole = module(maps, texts)[0]
    monkeypatch.setattr(text_interaction, "_CHUNK", 2 * 7 * 4 * 5)
    torch.testing.assert_close(module(maps, texts)[0], whole)


def test_every_parameter_and_the_texts_receive_gradients(module):
    texts = torch.randn(7, 10, requires_grad=True)
    total = sum(F.relu(m).sum() for m in module([torch.randn(1, 12, 3, 3), torch.randn(1, 12, 6, 6)], texts))
    total.backward()
    assert texts.grad.abs().sum() > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


def test_dropout_acts_in_training_only():
    module = TextInteraction(width=12, text_dim=10, inner_dim=32, num_heads=4, dropout=0.5)
    maps, texts = [torch.randn(1, 12, 3, 3)], torch.randn(7, 10)
    assert not torch.equal(module(maps, texts)[0], module(maps, texts)[0])
    module.eval()
    assert torch.equal(module(maps, texts)[0], module(maps, texts)[0])
