import torch

from maft.layers import token_parts
from maft.layers.token_parts import by_parts
from maft.layers.transformer import Attention, EncoderLayer


def counting(seen):
    def double(part):
        seen.append(part.shape[1])
        return 2 * part

    return double


def test_parts_are_joined_in_their_order(monkeypatch):
    monkeypatch.setattr(token_parts, "_TOKENS", 3)
    tokens, seen = torch.randn(2, 7, 4), []
    with torch.no_grad():
        assert torch.equal(by_parts(counting(seen), tokens), 2 * tokens)
    assert seen == [3, 3, 1]


def test_with_gradients_there_is_one_part(monkeypatch):
    monkeypatch.setattr(token_parts, "_TOKENS", 3)
    tokens, seen = torch.randn(2, 7, 4), []
    assert torch.equal(by_parts(counting(seen), tokens), 2 * tokens)
    assert seen == [7]


def test_a_feed_forward_network_in_parts_is_the_whole(monkeypatch):
    layer, tokens = EncoderLayer(Attention(8, 2), 8, 16).eval(), torch.randn(2, 7, 8)
    whole = layer(tokens, torch.zeros(7, 8))
    monkeypatch.setattr(token_parts, "_TOKENS", 3)
    with torch.no_grad():
        torch.testing.assert_close(layer(tokens, torch.zeros(7, 8)), whole)
