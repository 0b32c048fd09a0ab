"""What examples add to the logits of their class."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from maft.errors import UserError
from maft.examples import Example, ExampleEmbeddings
from maft.sharpening import CONSTANTS, check_no_examples, sharpened, with_wordless_classes
from maft.structures import Classification, EmbeddedMasks, RowLogits, Vocabulary

WORDS = Vocabulary(("cat", "dog", "sky"))
TEXTS = F.normalize(torch.randn(3, 8, generator=torch.Generator().manual_seed(0)), dim=-1)


def compare(seen, void=False, texts=TEXTS):
    logits = 20 * F.normalize(seen.embeddings, dim=-1) @ texts.T
    return Classification(
        torch.cat([logits, logits[..., :1]], -1) if void else logits, seen.embeddings, seen.valid, has_void=void
    )


def draws(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def example(number=0, others=4, shares=None):
    pixels = np.full((4, 5, 3), number, np.uint8)
    shares = torch.tensor([1.0, *([0.0] * others)]) if shares is None else shares
    look = ExampleEmbeddings(draws(len(shares), 8, seed=number + 10), shares)
    return Example(pixels, np.eye(4, 5, dtype=bool)).with_look("model", look)


def known(examples):
    looks = [one.looks[0][1] for one in examples]
    shows = torch.cat([torch.arange(len(look.shares)) == 0 for look in looks])
    return F.normalize(torch.cat([look.embeddings for look in looks]), dim=-1), shows


def by_definition(mask, examples, at):
    """The logit of class ``at`` for one mask (8,), as the module writes it."""
    masks, shows = known(examples)
    words = [20 * masks @ text for text in TEXTS]
    lacking = []
    for i, is_example in enumerate(shows):
        best = max(words[k][i] for k in range(3) if k != at)
        lead = words[at][i] - best
        lacking.append(
            max(0.0, float(CONSTANTS.margin - lead)) if is_example else -max(0.0, float(lead + CONSTANTS.margin))
        )
    pairs = [1 - float(a @ b) for a in masks[shows] for b in masks[~shows]]
    unit = sum(pairs) / len(pairs)

    def kernel(a, b):
        return math.exp(-CONSTANTS.sharpness * (1 - float(a @ b)) / unit)

    system = torch.tensor([[kernel(a, b) for b in masks] for a in masks]).double()
    system += CONSTANTS.ridge * torch.eye(len(masks)).double()
    lacking = torch.tensor(lacking).double()
    mask = F.normalize(mask, dim=0)
    likeness = torch.tensor([kernel(mask, other) for other in masks]).double()
    mean = float(likeness @ torch.linalg.solve(system, lacking))
    deviation = math.sqrt(1 - float(likeness @ torch.linalg.solve(system, likeness)))
    scale = math.sqrt(float((lacking[shows] ** 2).mean()))
    sure = mean - CONSTANTS.caution * scale * deviation
    return float(20 * mask @ TEXTS[at]) + (mean if mean < 0 else max(0.0, sure))


@pytest.mark.parametrize("shots", [1, 3])
def test_the_logit_of_a_class_is_that_of_the_definition(shots):
    examples = [example(number) for number in range(shots)]
    seen = EmbeddedMasks(draws(2, 5, 8))
    found = sharpened(compare(seen), seen, WORDS.add("dog", examples), compare).logits
    expected = [[by_definition(mask, examples, 1) for mask in image] for image in seen.embeddings]
    torch.testing.assert_close(found[..., 1], torch.tensor(expected), rtol=1e-4, atol=1e-4)


def test_no_other_class_changes_and_void_stays_last():
    seen = EmbeddedMasks(draws(2, 5, 8))
    for void in (False, True):
        words = compare(seen, void)
        both = WORDS.add("dog", [example()]).add("mug", [example(1)], words=False)
        found = sharpened(words, seen, both, lambda one, void=void: compare(one, void))
        assert found.logits.shape[-1] == 4 + void and found.has_void == void
        for column in (0, 2):
            assert torch.equal(found.logits[..., column], words.logits[..., column])
        assert not void or torch.equal(found.logits[..., -1], words.logits[..., -1])


def test_an_example_wins_its_own_mask_and_nothing_far_from_it():
    shown = example()
    at, masks = shown.looks[0][1].embeddings, torch.cat([shown.looks[0][1].embeddings, -shown.looks[0][1].embeddings])
    seen = EmbeddedMasks(masks[None])
    for vocabulary, column in ((WORDS.add("dog", [shown]), 1), (WORDS.add("mug", [shown], words=False), 3)):
        words, found = compare(seen).logits, sharpened(compare(seen), seen, vocabulary, compare).logits
        # A ridge keeps a little back of what is lacking.
        lead = found[0, 0, column] - found[0, 0, [k for k in range(3) if k != column]].max()
        assert lead > CONSTANTS.margin - 0.3 * (CONSTANTS.margin + 20)
        if column == 1:
            torch.testing.assert_close(found[0, len(at), 1], words[0, len(at), 1], rtol=0, atol=0.05)


def added(masks, examples, constants=CONSTANTS):
    seen = EmbeddedMasks(masks[None])
    words = compare(seen)
    found = sharpened(words, seen, WORDS.add("dog", examples), compare, constants).logits
    return (found - words.logits)[0, :, 1]


def test_caution_adds_less_and_takes_away_the_same():
    masks, bold = draws(200, 8), replace(CONSTANTS, caution=0.0)
    examples = [example(number) for number in range(2)]
    sure, mean = added(masks, examples), added(masks, examples, bold)
    assert (mean > 0.1).any() and (mean < -0.1).any()
    torch.testing.assert_close(sure[mean <= 0], mean[mean <= 0])
    assert (sure[mean > 1e-4] < mean[mean > 1e-4]).all() and (sure[mean > 0] >= 0).all()


def test_examples_that_agree_are_surer_than_one():
    """Three pictures of the same thing, with the same lack: between them more is added, of the same mean."""
    one = example()
    embeddings, shares = one.looks[0][1].embeddings, one.looks[0][1].shares
    others = [
        Example(np.full((4, 5, 3), 50 + number, np.uint8), one.mask).with_look(
            "model", ExampleEmbeddings(embeddings + 0.05 * draws(*embeddings.shape, seed=number), shares)
        )
        for number in range(2)
    ]
    near = embeddings[:1] + 0.3 * draws(20, 8)
    assert (added(near, [one, *others]) >= added(near, [one])).float().mean() > 0.9


def test_words_that_are_right_by_the_margin_stay_as_they_are():
    look = ExampleEmbeddings(torch.stack([TEXTS[1], TEXTS[0]]), torch.tensor([1.0, 0.0]))
    right = Example(np.zeros((4, 5, 3), np.uint8), np.eye(4, 5, dtype=bool)).with_look("model", look)
    seen = EmbeddedMasks(draws(1, 6, 8))
    found = sharpened(compare(seen), seen, WORDS.add("dog", [right]), compare)
    assert torch.equal(found.logits, compare(seen).logits)


def test_what_another_model_would_have_seen_is_one_sentence():
    wide, dense = EmbeddedMasks(draws(1, 6, 9)), EmbeddedMasks(draws(1, 6, 8), None, {"dense": [draws(8, 2, 3)]})
    for seen, sentence in (
        (wide, "'dog' has width 8, and this model's have 9"),
        (dense, "'dog' beside .* another form"),
    ):
        words = Classification(draws(1, 6, 3))
        with pytest.raises(UserError, match=sentence):
            sharpened(words, seen, WORDS.add("dog", [example()]), compare)
    shown = example()
    look = replace(shown.looks[0][1], context={"dense": draws(8, 5, 4)})
    shown = Example(shown.image, shown.mask).with_look("model", look)
    assert sharpened(words, dense, WORDS.add("dog", [shown]), compare).logits.isfinite().all()


def test_proposals_on_the_example_are_not_taken_for_something_else():
    near = example(shares=torch.tensor([1.0, 0.9, 0.21, 0.0]))
    only = Example(near.image, near.mask).with_look(
        "model", ExampleEmbeddings(near.looks[0][1].embeddings[[0, 3]], torch.tensor([1.0, 0.0]))
    )
    seen = EmbeddedMasks(draws(1, 6, 8))
    one, other = (sharpened(compare(seen), seen, WORDS.add("dog", [shown]), compare).logits for shown in (near, only))
    assert torch.equal(one, other)


def test_masks_that_the_classifier_could_not_see_keep_their_words():
    seen = EmbeddedMasks(draws(1, 4, 8), torch.tensor([[True, False, True, False]]))
    found = sharpened(compare(seen), seen, WORDS.add("dog", [example()]), compare).logits
    assert torch.equal(found[0, 1::2], compare(seen).logits[0, 1::2])
    assert not torch.equal(found[0, ::2], compare(seen).logits[0, ::2])


def test_results_do_not_depend_on_other_masks():
    seen = EmbeddedMasks(draws(3, 7, 8))
    both = WORDS.add("dog", [example()]).add("mug", [example(1)], words=False)
    together = sharpened(compare(seen), seen, both, compare).logits
    for image in range(3):
        for mask in range(7):
            one = EmbeddedMasks(seen.embeddings[image : image + 1, mask : mask + 1])
            alone = sharpened(compare(one), one, both, compare).logits[0, 0]
            torch.testing.assert_close(alone, together[image, mask], rtol=1e-5, atol=1e-5)


def test_no_mask_and_a_class_without_rivals_are_enough():
    none = EmbeddedMasks(draws(2, 0, 8))
    assert sharpened(compare(none), none, WORDS.add("mug", [example()], words=False), compare).logits.shape == (2, 0, 4)
    alone, seen = Vocabulary(("dog",)).add("dog", [example()]), EmbeddedMasks(draws(1, 3, 8))

    def compare_one(one):
        return compare(one, texts=TEXTS[:1])

    assert torch.equal(sharpened(compare_one(seen), seen, alone, compare_one).logits, compare_one(seen).logits)


def test_logits_of_single_texts_change_as_their_class_does():
    """Two texts of the first class, as TextRegion keeps them."""
    row_class = torch.tensor([0, 0, 1])

    def compare_rows(seen):
        rows = compare(seen).logits
        logits = torch.stack([rows[..., :2].amax(-1), rows[..., 2]], -1)
        return Classification(logits, seen.embeddings, rows=RowLogits(rows, row_class, [torch.ones(3, 2, 2)]))

    words = Vocabulary(("cat, kitten", "sky"))
    grown = words.add("cat", [example()]).add("mug", [example(1)], words=False)
    # A class without words may stand anywhere.
    order = (2, 0, 1)
    moved = Vocabulary(
        tuple(grown.names[i] for i in order), None, tuple(grown.of(i) for i in order),
        tuple(grown.has_words(i) for i in order),
    )  # fmt: skip
    seen = EmbeddedMasks(draws(1, 5, 8))
    found = sharpened(compare_rows(seen), seen, moved, compare_rows)
    assert found.rows.row_class.tolist() == [0, 1, 1, 2] and found.rows.elsewhere[0].shape == (4, 2, 2)
    joined = torch.stack(
        [found.rows.logits[..., 0], found.rows.logits[..., 1:3].amax(-1), found.rows.logits[..., 3]], -1
    )
    torch.testing.assert_close(joined, found.logits)


def test_the_proposer_holds_a_class_without_words_for_as_likely_as_its_best():
    grown = WORDS.add("mug", [example()], words=False)
    moved = Vocabulary(("mug", *WORDS.names), None, ((example(),), (), (), ()), (False, True, True, True))
    scores = draws(2, 5, 4)
    for vocabulary, column in ((grown, 3), (moved, 0)):
        found = with_wordless_classes(scores, vocabulary)
        assert torch.equal(found[..., column], scores[..., :3].amax(-1)) and torch.equal(
            found[..., -1], scores[..., -1]
        )
        kept = [k for k in range(4) if k != column]
        assert torch.equal(found[..., kept], scores[..., :3])
    assert with_wordless_classes(scores, WORDS) is scores and with_wordless_classes(None, grown) is None


def test_without_a_classifier_examples_are_refused():
    check_no_examples(WORDS)
    with pytest.raises(UserError, match="'dog' has examples, and this model has no mask classifier"):
        check_no_examples(WORDS.add("dog", [example()]))
