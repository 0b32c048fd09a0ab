"""A fault that is planted in one stage of a model is blamed on this stage, for at least 95 % of what it costs."""

from dataclasses import astuple, replace

import pytest
import torch

from maft.ensembles import FCCLIPEnsemble, FreeSegEnsemble, OVSegEnsemble
from maft.evaluation.explain.explainer import Explainer
from maft.evaluation.explain.stages import Cover

WATER, BRICK, FLAG = 20, 21, 5


def explained(rule, evidence):
    explainer = Explainer(rule, rule.vocabulary.names)
    for one in evidence:
        explainer.add(one)
    return explainer.explanation({})


def share(rule, evidence, fault, part, *, before=None):
    """The share of the planted loss that a part is blamed for; ``before``: the rule without the fault."""
    sound, faulty = explained(before or rule, evidence), explained(rule, [fault(one) for one in evidence])
    for one in (sound, faulty):
        loss, *parts = astuple(one.total)
        assert sum(parts) == pytest.approx(loss, abs=1e-6)
    planted = faulty.total.loss - sound.total.loss
    assert planted > 1
    return (getattr(faulty.total, part) - getattr(sound.total, part)) / planted


def without_masks_of(name, rule):
    def fault(one):
        gone = Cover.of(one, rule).true == name
        masks = one.proposals.masks.masked_fill(gone[None, :, None, None], -20.0)
        return replace(one, proposals=replace(one.proposals, masks=masks))

    return fault


def with_swapped_names(one):
    logits = one.classification.logits.clone()
    logits[..., [WATER, BRICK]] = logits[..., [BRICK, WATER]]
    return replace(one, classification=replace(one.classification, logits=logits))


def with_a_proposer_that_is_wrong(one):
    """Each class has the proposer's logit of the one before it."""
    logits = one.proposals.class_logits
    wrong = torch.cat([logits[..., :-1].roll(1, dims=-1), logits[..., -1:]], dim=-1)
    return replace(one, proposals=replace(one.proposals, class_logits=wrong))


def test_masks_of_one_class_that_are_deleted_are_missed_masks(shipped):
    rule, evidence, _ = shipped
    assert share(rule, evidence, without_masks_of(BRICK, rule), "masks") >= 0.95


def test_two_names_that_are_swapped_are_wrong_names(shipped):
    rule, evidence, _ = shipped
    assert share(rule, evidence, with_swapped_names, "names") >= 0.95


@pytest.mark.parametrize("ensemble", [FreeSegEnsemble(weight=0.5), FCCLIPEnsemble()], ids=lambda one: type(one).__name__)
def test_an_ensemble_with_a_proposer_that_is_wrong_spoils_the_names_of_the_classifier(shipped, ensemble):
    rule, evidence, _ = shipped
    damaged = replace(rule, ensemble=ensemble)
    assert share(damaged, evidence, with_a_proposer_that_is_wrong, "ensemble", before=rule) >= 0.95


@pytest.mark.parametrize(
    "ensemble",
    [FreeSegEnsemble(weight=0.5), FCCLIPEnsemble(), OVSegEnsemble(weight=0.4)],
    ids=lambda one: type(one).__name__,
)
def test_where_nothing_else_is_wrong_each_fault_is_blamed_on_its_stage_alone(true_world, ensemble):
    rule = replace(true_world[0], ensemble=ensemble)
    faults = {
        "masks": without_masks_of(BRICK, rule),
        "names": with_swapped_names,
        "ensemble": with_a_proposer_that_is_wrong,
    }
    for part, fault in faults.items():
        assert share(rule, true_world[1], fault, part) == pytest.approx(1, abs=0.01), part
