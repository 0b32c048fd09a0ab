"""The balanced cross-entropy: its definition, what counts, and gradients."""

import pytest
import torch
import torch.nn.functional as F

from maft.errors import UserError
from maft.interfaces import TrainingStep
from maft.losses.balanced_cross_entropy import BalancedCrossEntropyLoss, balanced_cross_entropy
from maft.structures import Classification, Images, Proposals


def by_definition(logits, labels, images, balance_classes=True):
    """One mask at a time."""
    of_images = []
    for image in sorted(set(images.tolist())):
        classes = {}
        for row, label, owner in zip(logits, labels.tolist(), images.tolist()):
            if owner == image:
                classes.setdefault(label if balance_classes else 0, []).append(-row.log_softmax(0)[label])
        of_images.append(torch.stack([torch.stack(terms).mean() for terms in classes.values()]).mean())
    return torch.stack(of_images).mean()


@pytest.mark.parametrize("balance_classes", [True, False])
def test_equals_its_definition(balance_classes):
    logits, labels = torch.randn(20, 5, requires_grad=True), torch.randint(0, 4, (20,))
    images = torch.tensor([0] * 9 + [3] * 10 + [5])
    found = balanced_cross_entropy(logits, labels, images, balance_classes=balance_classes)
    expected = by_definition(logits, labels, images, balance_classes)
    assert torch.allclose(found, expected)
    gradients = [torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (found, expected)]
    assert torch.allclose(*gradients, atol=1e-7)


def test_many_masks_of_one_class_weigh_as_much_as_one_of_another():
    logits = torch.randn(2, 3)
    labels, images = torch.tensor([0, 1]), torch.zeros(2, dtype=torch.long)
    once = balanced_cross_entropy(logits, labels, images)
    often = torch.tensor([0, 0, 0, 0, 1])
    many = balanced_cross_entropy(logits[often], labels[often], images[:1].expand(5))
    assert torch.allclose(once, many)


def step(labels, valid=None, has_void=False):
    batch, masks = labels.shape
    logits = torch.randn(batch, masks, 6 + has_void, requires_grad=True)
    proposals = Proposals(torch.zeros(batch, masks, 4, 4), (4, 4), are_logits=False, labels=labels)
    images = Images(torch.zeros(batch, 3, 4, 4), [(4, 4)] * batch)
    classification = Classification(logits, valid=valid, has_void=has_void)
    return TrainingStep(images, None, proposals, classification, [], None, None)


def test_slots_without_a_mask_and_unseen_masks_do_not_count():
    labels = torch.tensor([[2, 0, 2, -1], [1, -1, -1, -1], [-1, -1, -1, -1]])
    valid = torch.tensor([[True, True, False, True], [False] * 4, [True] * 4])
    given = step(labels, valid)
    (loss,) = BalancedCrossEntropyLoss(weight=3.0)(given).values()
    logits = given.classification.logits
    # The second image is left without masks, the third has none.
    expected = 3 * F.cross_entropy(logits[0, :2], labels[0, :2])
    assert torch.allclose(loss, expected)
    (every,) = BalancedCrossEntropyLoss(weight=1.0, count_empty=True)(given).values()
    flat = labels >= 0
    owners = torch.arange(3)[:, None].expand_as(labels)
    assert torch.allclose(every, by_definition(logits[flat], labels[flat], owners[flat]))


def test_void_takes_no_part_and_nothing_to_name_is_a_zero_with_gradients():
    given = step(torch.tensor([[1, 1]]), has_void=True)
    (loss,) = BalancedCrossEntropyLoss()(given).values()
    expected = F.cross_entropy(given.classification.logits[0, :, :-1], torch.tensor([1, 1]))
    assert torch.allclose(loss, expected)
    given = step(torch.full((2, 3), -1))
    (loss,) = BalancedCrossEntropyLoss()(given).values()
    assert loss == 0
    (gradient,) = torch.autograd.grad(loss, given.classification.logits)
    assert not gradient.any()


def test_masks_without_labels_are_refused():
    given = step(torch.tensor([[1]]))
    given.proposals.labels = None
    with pytest.raises(UserError, match="use it with the proposer GroundTruth"):
        BalancedCrossEntropyLoss()(given)
