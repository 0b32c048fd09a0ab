"""Confidence is fitted to draws whose chances are known."""

import numpy as np
import pytest
import torch

from maft.confidence import CalibratedConfidence
from maft.errors import UserError
from maft.evaluation.calibrate_confidence import _isotonic, fit_confidence, fit_temperature
from maft.inference import tempered_confidence


def fitted(*samples):
    temperature, judged = fit_temperature(samples)
    return fit_confidence(temperature, [judged])


@pytest.fixture
def drawn():
    """Logits (6, n) of what is drawn from them: labels and true classes."""
    torch.manual_seed(0)
    logits = 2 * torch.randn(6, 20_000)
    return logits, logits.argmax(0), torch.distributions.Categorical(logits=logits.T).sample()


def test_a_temperature_makes_confidence_the_share_of_right_answers(drawn):
    logits, labels, truth = drawn
    # The scores are those of a model three times too unsure.
    found = fitted(((logits / 3).softmax(0), labels, truth))
    assert found.temperature == pytest.approx(1 / 3, rel=0.05)
    # Nothing is left for the second step.
    tempered = torch.linspace(0.4, 0.95, 50)
    torch.testing.assert_close(found.of(tempered), tempered, atol=0.06, rtol=0)


def test_what_no_temperature_mends_is_mended_behind_it(drawn):
    logits, labels, truth = drawn
    # Whatever the model is not very sure of is wrong.
    scores = logits.softmax(0)
    truth = torch.where(scores.amax(0) < 0.7, (labels + 1) % 6, truth)
    found = fitted((scores, labels, truth))
    tempered = tempered_confidence(scores, labels, found.temperature)
    right = (labels == truth).float()
    surest = tempered >= tempered.quantile(0.8)
    for part in (surest, ~surest):
        assert float(tempered[part].mean()) != pytest.approx(float(right[part].mean()), abs=0.2)
        assert float(found.of(tempered[part]).mean()) == pytest.approx(float(right[part].mean()), abs=0.04)


@pytest.mark.parametrize("right", [True, False])
def test_confidence_rises_where_all_answers_are_right_or_all_are_wrong(right):
    scores = torch.rand(3, 1000, generator=torch.Generator().manual_seed(0)).softmax(0)
    labels = scores.argmax(0)
    found = fitted((scores, labels, labels if right else (labels + 1) % 3))
    found.check()
    assert (found.of(torch.linspace(0, 1, 99)).diff() > 0).all()
    values = found.of(tempered_confidence(scores, labels, found.temperature))
    assert values.mean() > 0.95 if right else values.mean() < 0.05


def test_blocks_that_differ_by_rounding_are_one():
    # Ten thousand confidences of three chances, of which the first and the last are certain.
    tempered = np.linspace(0, 1, 9999, dtype=np.float32).astype(np.float64)
    right = np.repeat([0.0, 1.0, 1.0], 3333)
    right[3333:6666:3] = 0
    found = CalibratedConfidence(1, *_isotonic(tempered, right))
    found.check()
    assert len(found.knots) < 10
    middle = found.of(torch.tensor([0.4, 0.5, 0.6]))
    torch.testing.assert_close(middle, torch.full((3,), 2 / 3), atol=0.1, rtol=0)


def test_nothing_is_fitted_without_an_annotated_answer():
    with pytest.raises(UserError, match="No annotated pixel has an answer"):
        fit_temperature([(torch.rand(3, 2), torch.tensor([-1, 0]), torch.tensor([1, -1]))])
