import pytest
import torch
from torch import nn

from maft.answers import check_answers, check_classification, check_forward, check_losses, check_proposals
from maft.errors import UserError
from maft.interfaces import Ensemble, Loss, MaskClassifier
from maft.structures import Classification, Proposals


class Mine(Loss):
    pass


def masks(*shape):
    return Proposals(torch.zeros(*shape), (8, 8))


@pytest.mark.parametrize("kind", [Mine, type("Mine", (MaskClassifier,), {}), type("Mine", (nn.Module,), {})])
def test_a_component_without_forward_is_refused(kind):
    with pytest.raises(UserError, match=r"Mine has no forward: write it as maft/interfaces\.py"):
        check_forward(kind())


def test_an_ensemble_is_called_and_an_inherited_forward_counts():
    with pytest.raises(UserError, match="Mine has no __call__"):
        check_forward(type("Mine", (Ensemble,), {})(), "__call__")
    below = type("Below", (Mine,), {"forward": lambda self, step: {}})
    check_forward(type("Other", (below,), {})())


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (torch.zeros(2, 3, 8, 8), "Mine returns Tensor, not Proposals"),
        (masks(3, 8, 8), r"Mine returns masks of shape \(3, 8, 8\), not \(2, masks, height, width\)"),
        (masks(1, 3, 8, 8), "not \\(2, masks, height, width\\)"),
        (Proposals(torch.full((2, 3, 8, 8), torch.nan), (8, 8)), "masks that are not finite"),
        (
            Proposals(torch.zeros(2, 3, 8, 8), (8, 8), class_logits=torch.zeros(2, 3, 4)),
            r"\(2, 3, 4\), not \(2, 3, 5\)",
        ),
    ],
)
def test_proposals(answer, sentence):
    with pytest.raises(UserError, match=sentence):
        check_proposals(Mine(), answer, 2, 4)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (None, "Mine returns NoneType, not Classification"),
        (Classification(torch.zeros(2, 3, 5)), r"shape \(2, 3, 5\), not \(2, 3, 4\) \(without void\)"),
        (Classification(torch.zeros(2, 3, 4), has_void=True), r"not \(2, 3, 5\) \(with void\)"),
        (Classification(torch.full((2, 3, 4), torch.nan)), "logits that are not finite"),
        (Classification(torch.full((2, 3, 4), torch.inf)), "logits that are not finite"),
    ],
)
def test_classifications(answer, sentence):
    with pytest.raises(UserError, match=sentence):
        check_classification(Mine(), answer, masks(2, 3, 8, 8), 4)


def test_what_is_not_valid_or_ruled_out_may_be_infinite():
    logits = torch.zeros(2, 3, 4)
    logits[0, 0], logits[1] = torch.nan, -torch.inf
    valid = torch.ones(2, 3, dtype=torch.bool)
    valid[0, 0] = False
    check_classification(Mine(), Classification(logits, valid=valid), masks(2, 3, 8, 8), 4)


@pytest.mark.parametrize(
    ("terms", "sentence"),
    [
        (torch.zeros(()), "Mine returns Tensor, not Mapping"),
        ({"loss_a": torch.zeros(3)}, r"Mine returns the loss 'loss_a' of shape \(3,\), not a scalar tensor"),
        ({"loss_a": 0.5}, "'loss_a' 0.5, not a scalar tensor"),
        ({"loss_a": torch.tensor(torch.nan)}, "'loss_a' nan for the first batch"),
    ],
)
def test_losses(terms, sentence):
    with pytest.raises(UserError, match=sentence):
        check_losses(Mine(), terms)


def test_the_first_answer_in_training_and_in_evaluation_is_checked():
    answers = iter([torch.zeros(()), torch.ones(3), torch.ones(3)])
    loss = type("Mine", (Loss,), {"forward": lambda self, step: {"loss_a": next(answers)}})()
    whole = type("Whole", (nn.Module,), {"forward": lambda self: None, "__call__": lambda self: None})()
    check_answers(whole, None, type("Alone", (Ensemble,), {"__call__": lambda self, scores: scores})(), [loss])
    loss(None)
    loss(None)
    with pytest.raises(UserError, match="shape \\(3,\\)"):
        loss.eval()(None)
