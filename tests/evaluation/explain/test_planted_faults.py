"""A fault that is planted in one stage of a model is blamed on this stage, for at least 95 % of what it costs."""

from dataclasses import replace

import pytest
import torch

from maft.ensembles import FCCLIPEnsemble, FreeSegEnsemble
from maft.evaluation.explain.coalitions import Coalitions
from maft.evaluation.explain.explainer import class_losses
from maft.evaluation.explain.shapley import STAGES
from maft.evaluation.explain.stages import Cover

WATER, BRICK, FLAG = 20, 21, 5


def losses(rule, evidence):
    """The loss and its parts, which add up."""
    counts = [Coalitions.of(one, rule, Cover.of(one, rule)) for one in evidence]
    pixels, hits, predicted = (sum(getattr(one, kind) for one in counts) for kind in ("pixels", "hits", "predicted"))
    loss, *parts = class_losses(pixels, hits, predicted)[:, pixels > 0].mean(dim=1).tolist()
    assert sum(parts) == pytest.approx(loss, abs=1e-6)
    return {"loss": loss, **dict(zip(STAGES, parts, strict=True))}


def share(rule, evidence, fault, part, *, before=None):
    """The share of the planted loss that a part is blamed for; ``before``: the rule without the fault."""
    sound, faulty = losses(before or rule, evidence), losses(rule, [fault(one) for one in evidence])
    planted = faulty["loss"] - sound["loss"]
    assert planted > 1
    return (faulty[part] - sound[part]) / planted


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


def test_an_ensemble_with_a_proposer_that_is_wrong_spoils_the_names_of_the_classifier(shipped):
    rule, evidence, _ = shipped
    damaged = replace(rule, ensemble=FCCLIPEnsemble())
    assert share(damaged, evidence, with_a_proposer_that_is_wrong, "ensemble", before=rule) >= 0.95


@pytest.mark.parametrize(
    "ensemble", [FCCLIPEnsemble(), FreeSegEnsemble(weight=0.5)], ids=lambda one: type(one).__name__
)
@pytest.mark.parametrize("part", ["masks", "names", "ensemble"])
def test_where_nothing_else_is_wrong_a_fault_is_blamed_on_its_stage_alone(true_world, ensemble, part):
    rule = replace(true_world[0], ensemble=ensemble)
    faults = {
        "masks": without_masks_of(BRICK, rule),
        "names": with_swapped_names,
        "ensemble": with_a_proposer_that_is_wrong,
    }
    assert share(rule, true_world[1], faults[part], part) == pytest.approx(1, abs=0.01)
