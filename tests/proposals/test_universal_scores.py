import torch

from maft.proposals.universal_scores import (
    class_agnostic,
    first_classes,
    mean_logits_of_names,
    objectness,
    scores_of_names,
)
from maft.structures import Proposals, Targets, Vocabulary


def test_objectness_is_spread_over_the_classes():
    scores = torch.randn(2, 5, 4)
    found = objectness(scores, 7).softmax(-1)
    expected = scores.softmax(-1)
    torch.testing.assert_close(found[..., -1], expected[..., -1])
    torch.testing.assert_close(found[..., :-1], ((1 - expected[..., -1:]) / 7).expand(2, 5, 7))


def test_labels_count_for_the_classes_they_name_and_others_for_the_rest():
    scores = torch.tensor([1.0, 2.0, 3.0, 4.0, 0.5])
    cat, stone, sky, car, void = scores.softmax(-1).tolist()
    labels = ("Cat", "brick, stone", "sky-other-merged", "car")
    found = scores_of_names(scores, labels, Vocabulary(("tree", "stone", "kitten,cat", "water"))).softmax(-1)
    rest = (sky + car) / 2
    torch.testing.assert_close(found, torch.tensor([rest, stone, cat, rest, void]))
    # Where every class has a label, others are void.
    found = scores_of_names(scores, labels, Vocabulary(("stone", "cat"))).softmax(-1)
    torch.testing.assert_close(found, torch.tensor([stone, cat, void + sky + car]))
    # A label of two classes may be either.
    found = scores_of_names(scores, labels, Vocabulary(("cat, tom", "cat, feline"))).softmax(-1)
    torch.testing.assert_close(found, torch.tensor([cat / 2, cat / 2, 1 - cat]))


def test_scores_of_names_are_finite_where_a_class_has_no_chance():
    scores = torch.tensor([200.0, 0.0], requires_grad=True)
    found = scores_of_names(scores, ("cat",), Vocabulary(("cat", "dog")))
    found.sum().backward()
    assert found.isfinite().all() and scores.grad.isfinite().all()


def test_mean_logits_of_labels_leave_the_proposer_its_void():
    scores = torch.tensor([1.0, 2.0, 3.0, 4.0, 0.5])
    labels = ("Cat", "tom, kitten", "sky", "car")
    # The first class that shares a word, logit 0 where none does, and the void of all labels.
    found = mean_logits_of_names(scores, labels, Vocabulary(("tree", "kitten,cat", "tom", "car"))).softmax(-1)
    void = scores.softmax(-1)[-1]
    expected = torch.tensor([0.0, 1.5, 0.0, 4.0]).softmax(-1) * (1 - void)
    torch.testing.assert_close(found, torch.cat([expected, void[None]]))
    assert first_classes(labels, Vocabulary(("sky", "car"))) == [-1, -1, 0, 1]


def test_without_labels_proposals_and_targets_have_one_class():
    scores = torch.randn(1, 3, 5)
    earlier = Proposals(torch.zeros(1, 3, 4, 4), (4, 4), class_logits=objectness(scores, 3))
    final = Proposals(torch.zeros(1, 3, 4, 4), (4, 4), class_logits=objectness(scores, 6), auxiliary=[earlier])
    proposals, targets = class_agnostic(final, [Targets(torch.tensor([4, 2]), torch.zeros(2, 4, 4))])
    void = scores.softmax(-1)[..., -1]
    for one in (proposals, proposals.auxiliary[0]):
        torch.testing.assert_close(one.class_logits.softmax(-1), torch.stack([1 - void, void], -1))
    assert targets[0].labels.tolist() == [0, 0]
