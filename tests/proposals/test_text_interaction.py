import pytest
import torch
import torch.nn.functional as F

from maft.proposals import freeseg
from maft.proposals.freeseg import TextInteraction


def build(dropout):
    return TextInteraction(width=12, text_dim=10, inner_dim=32, num_heads=4, dropout=dropout)


@pytest.fixture
def module():
    module = build(dropout=0.1).eval()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module


def test_equals_plain_cross_attention_with_texts_normalised_once_more_per_map(module):
    maps, texts = [torch.randn(2, 12, 2, 3), torch.randn(2, 12, 4, 5)], torch.randn(7, 10)
    changed = module(maps, texts)
    for before, after in zip(maps, changed):
        texts = module.text_norm(texts)
        tokens = module.token_norm(before.flatten(2).transpose(1, 2))
        expected = tokens + module.gamma * module.attend_by_definition(tokens, texts)
        torch.testing.assert_close(after.flatten(2).transpose(1, 2), expected, atol=2e-5, rtol=1e-5)


def test_chunks_change_nothing(module, monkeypatch):
    maps, texts = [torch.randn(2, 12, 9, 7)], torch.randn(7, 10)
    whole = module(maps, texts)[0]
    monkeypatch.setattr(freeseg, "_CHUNK_ON_CPU", 2 * 7 * 4 * 5)
    torch.testing.assert_close(module(maps, texts)[0], whole)


def test_every_parameter_and_the_texts_receive_gradients(module):
    texts = torch.randn(7, 10, requires_grad=True)
    total = sum(F.relu(m).sum() for m in module([torch.randn(1, 12, 3, 3), torch.randn(1, 12, 6, 6)], texts))
    total.backward()
    assert texts.grad.abs().sum() > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


def test_dropout_acts_in_training_only():
    module = build(dropout=0.5)
    maps, texts = [torch.randn(1, 12, 3, 3)], torch.randn(7, 10)
    assert not torch.equal(module(maps, texts)[0], module(maps, texts)[0])
    module.eval()
    assert torch.equal(module(maps, texts)[0], module(maps, texts)[0])
