"""The structures that travel between the parts."""

import pytest
import torch
import torch.nn.functional as F

from maft.errors import UserError
from maft.structures import Images, Proposals, TextClassifier, Vocabulary


def test_padding_is_zero_after_normalisation():
    images = Images.from_list([torch.full((3, 5, 7), 10), torch.full((3, 8, 3), 20)], divisor=4)
    assert images.padded_size == (8, 8)
    assert images.sizes == [(5, 7), (8, 3)]
    normal = images.normalized(torch.tensor([4.0, 4.0, 4.0]), torch.tensor([2.0, 3.0, 6.0]))
    assert torch.allclose(normal[0, :, 4, 6], torch.tensor([3.0, 2.0, 1.0]))
    assert not normal[0, :, 5:].any() and not normal[0, :, :, 7:].any() and not normal[1, :, :, 3:].any()


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ((), "vocabulary is empty"),
        (("cat", " "), "number 2 .* blank"),
        (("cat", "dog", " cat"), "'cat' occurs twice"),
        (("cat", "cat\u200b"), r"occurs twice in the vocabulary \(as 'cat'"),
        (("cat", "\u200b\x00"), "number 2 .* blank"),
        (("cat", 5), "number 2 .* is 5, which is no text"),
        (("cat", "x" * 10_001), "number 2 .* has 10001 characters, more than 10000"),
        (("cat", "\ud800"), "number 2 .* no text of Unicode"),
        (tuple(map(str, range(50_001))), "has 50001 names, more than 50000"),
    ],
)
def test_bad_vocabularies_are_refused(names, sentence):
    with pytest.raises(UserError, match=sentence):
        Vocabulary(names)


def test_flags_must_match_the_names():
    with pytest.raises(UserError, match="2 names but 1 seen"):
        Vocabulary(("cat", "dog"), (True,))


def test_synonyms_are_split_and_stripped():
    assert Vocabulary(("door, double door, \u200b",)).synonyms(0) == ("door", "double door")


def test_joiners_inside_a_name_stay():
    name = "\u0645\u06cc\u200c\u0634\u0648\u062f"
    assert Vocabulary((name,)).names == (name,)


def test_logits_take_the_best_synonym_and_keep_void_last():
    texts = F.normalize(torch.randn(5, 6), dim=-1)
    void = F.normalize(torch.randn(1, 6), dim=-1)
    text = TextClassifier(texts, torch.tensor([0, 0, 1, 2, 2]), 3, void, torch.zeros(3, dtype=torch.bool))
    features = torch.randn(2, 4, 6)
    cosine = F.normalize(features, dim=-1) @ texts.T
    expected = torch.stack([cosine[..., :2].amax(-1), cosine[..., 2], cosine[..., 3:].amax(-1)], -1) * 100
    logits = text.logits(features)
    assert torch.allclose(logits[..., :3], expected, atol=1e-5)
    assert torch.allclose(logits[..., 3], 100 * (F.normalize(features, dim=-1) @ void[0]), atol=1e-4)
    assert torch.equal(text.logits(features, void=False), logits[..., :3])


def test_logits_of_texts_adapted_to_each_image():
    texts = torch.randn(2, 3, 6)
    text = TextClassifier(texts, torch.arange(3), 3, torch.randn(1, 6), torch.zeros(3, dtype=torch.bool))
    features = torch.randn(2, 4, 6)
    single = TextClassifier(texts[1], text.row_class, 3, text.void, text.seen)
    assert torch.allclose(text.logits(features)[1], single.logits(features[1]), atol=1e-4)


def test_logits_are_float32_under_autocast():
    texts = F.normalize(torch.randn(3, 64), dim=-1)
    text = TextClassifier(texts, torch.arange(3), 3, None, torch.zeros(3, dtype=torch.bool))
    features = torch.randn(5, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = text.logits(features)
    torch.testing.assert_close(logits, 100 * F.normalize(features, dim=-1) @ texts.T)


def test_proposals_resize_before_the_sigmoid():
    masks = torch.randn(1, 2, 3, 3)
    logits = Proposals(masks, (6, 6))
    expected = F.interpolate(masks, size=(6, 6), mode="bilinear", align_corners=False).sigmoid()
    assert torch.equal(logits.probabilities((6, 6)), expected)
    soft = Proposals(masks.sigmoid(), (6, 6), are_logits=False)
    assert torch.equal(soft.probabilities((3, 3)), masks.sigmoid())


def test_one_image_of_a_batch():
    bias = torch.randn(2, 6, 3, 4, 4, requires_grad=True)
    proposals = Proposals(torch.randn(2, 3, 4, 4), (8, 8), class_logits=torch.randn(2, 3, 5), attention_bias=bias)
    one = proposals.image(1)
    assert torch.equal(one.masks[0], proposals.masks[1]) and torch.equal(one.class_logits[0], proposals.class_logits[1])
    assert torch.equal(one.attention_bias, bias[1:]) and not proposals.detached().attention_bias.requires_grad


def test_a_line_break_within_a_name_is_a_blank():
    assert Vocabulary(("coffee\r\ntable\n", "cat")).names == ("coffee table", "cat")
