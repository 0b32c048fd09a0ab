import pytest
import torch

from maft.layers.transformer import Attention
from maft.proposals.transformer_decoder import MaskedAttentionDecoder, MaskPooledClassHead, QueryClassHead


def build(head, channels=(16, 16, 16), layers=4):
    return MaskedAttentionDecoder(
        width=16,
        mask_dim=12,
        memory_channels=channels,
        class_head=head,
        num_queries=5,
        num_layers=layers,
        num_heads=4,
        ffn_dim=32,
    )


HEADS = {
    "query": lambda: QueryClassHead(16, 24, 10, 2),
    "pooled": lambda: MaskPooledClassHead(16, 12, 10),
}


@pytest.fixture
def inputs():
    memories = [torch.randn(2, 16, 2, 3), torch.randn(2, 16, 4, 6), torch.randn(2, 16, 8, 12)]
    return memories, torch.randn(2, 12, 16, 24)


@pytest.mark.parametrize("head", HEADS)
def test_one_prediction_more_than_layers_and_the_last_alone_is_the_same(head, inputs):
    model = build(HEADS[head]())
    layers = model(*inputs)
    assert len(layers) == 5
    assert all(masks.shape == (2, 5, 16, 24) and embeddings.shape == (2, 5, 10) for embeddings, masks in layers)
    (last,) = model(*inputs, all_layers=False)
    assert all(torch.equal(alone, among) for alone, among in zip(last, layers[-1]))


def test_the_first_prediction_depends_on_the_image_through_mask_features_only(inputs):
    memories, mask_features = inputs
    model = build(HEADS["query"]())
    _, first = model(memories, mask_features)[0]
    _, other = model([torch.randn_like(m) for m in memories], mask_features)[0]
    assert torch.equal(first, other)


def test_queries_see_only_the_inside_of_their_mask_unless_it_is_empty():
    masks = torch.full((1, 3, 4, 4), -5.0)
    masks[0, 0, :2, :2] = 5.0
    masks[0, 1] = 5.0
    visible = MaskedAttentionDecoder.visible(masks, (2, 2))
    assert visible.tolist() == [[[True, False, False, False], [True] * 4, [True] * 4]]


def test_attention_equals_the_standard_module_with_a_shared_mask():
    ours, theirs = Attention(16, 4), torch.nn.MultiheadAttention(16, 4, batch_first=True)
    theirs.load_state_dict(ours.state_dict())
    query, key, value = torch.randn(2, 5, 16), torch.randn(2, 7, 16), torch.randn(2, 7, 16)
    visible = torch.rand(2, 5, 7) > 0.4
    visible[..., 0] = True
    expected, _ = theirs(query, key, value, attn_mask=~visible.repeat_interleave(4, dim=0))
    torch.testing.assert_close(ours(query, key, value, visible), expected)


def test_memories_of_another_width_are_projected():
    model = build(HEADS["query"](), channels=(16, 20, 8))
    names = [name for name, _ in model.named_parameters() if name.startswith("input_proj")]
    assert sorted(names) == [f"input_proj.{i}.{p}" for i in (1, 2) for p in ("bias", "weight")]
    memories = [torch.randn(1, 16, 2, 2), torch.randn(1, 20, 4, 4), torch.randn(1, 8, 8, 8)]
    assert model(memories, torch.randn(1, 12, 16, 16))[-1][1].shape == (1, 5, 16, 16)


def test_pooled_head_averages_the_features_under_the_mask_and_survives_an_empty_one():
    head = MaskPooledClassHead(16, 12, 10)
    seen = []
    head.pooled_projection.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    features, masks = torch.randn(1, 12, 4, 4), torch.full((1, 2, 4, 4), -1.0)
    masks[0, 0, 1, 2:] = 1.0
    embedding = head(torch.randn(1, 2, 16), masks, features)
    torch.testing.assert_close(seen[0][0, 0], features[0, :, 1, 2:].mean(-1))
    assert torch.equal(seen[0][0, 1], torch.zeros(12)) and embedding.isfinite().all()


def test_temperature_of_the_pooled_head_is_capped():
    head = MaskPooledClassHead(16, 12, 10)
    torch.testing.assert_close(head.scale(), torch.tensor(1 / 0.07))
    torch.nn.init.constant_(head.logit_scale, 10.0)
    assert head.scale() == 100


def test_traces_into_one_graph(inputs):
    model = build(HEADS["pooled"](), layers=3).eval()
    compiled = torch.compile(lambda m, f: model(m, f)[-1][1], backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(*inputs), model(*inputs)[-1][1])
