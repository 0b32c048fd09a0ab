"""Each published score rule against its formula."""

import pytest
import torch

from maft.ensembles import (
    ClassifierAlone,
    FCCLIPEnsemble,
    FreeSegEnsemble,
    OVSegEnsemble,
    ProposerAlone,
    ZegFormerEnsemble,
    geometric_ensemble,
)
from maft.errors import UserError
from maft.interfaces import ClassScores
from maft.registry import ENSEMBLES


@pytest.fixture
def scores() -> ClassScores:
    torch.manual_seed(0)
    return ClassScores(
        proposer=torch.randn(1, 3, 5),
        classifier=torch.randn(1, 3, 4),
        classifier_void=torch.randn(1, 3, 1),
        valid=torch.tensor([[True, False, True]]),
        seen=torch.tensor([True, False, True, False]),
    )


def test_classifier_alone(scores):
    q = scores.classifier.softmax(-1)
    assert torch.equal(ClassifierAlone()(scores), q)
    only = ClassifierAlone(valid_only=True)(scores)
    assert not only[0, 1].any() and torch.equal(only[0, 2], q[0, 2])
    with_void = torch.cat([scores.classifier, scores.classifier_void], -1).softmax(-1)
    assert torch.equal(ClassifierAlone(void=True)(scores), with_void)
    assert torch.equal(ClassifierAlone(void=True, softmax_twice=True)(scores), with_void.softmax(-1))


def test_freeseg_weighs_seen_classes_to_the_proposer(scores):
    p, q = scores.proposer.softmax(-1)[..., :-1], scores.classifier.softmax(-1)
    joint = FreeSegEnsemble(weight=0.8)(scores)
    assert torch.allclose(joint[0, 0, 0], p[0, 0, 0] ** 0.8 * q[0, 0, 0] ** 0.2)
    assert torch.allclose(joint[0, 0, 1], p[0, 0, 1] ** 0.2 * q[0, 0, 1] ** 0.8)
    assert torch.allclose(joint[0, 1, 1], p[0, 1, 1] ** 0.2)
    assert torch.equal(FreeSegEnsemble(weight=0.0)(scores), ClassifierAlone(valid_only=True)(scores))


def test_ovseg_has_one_weight_for_all(scores):
    p, q = scores.proposer.softmax(-1)[..., :-1], scores.classifier.softmax(-1)
    joint = OVSegEnsemble(weight=0.7)(scores)
    assert torch.allclose(joint[0, 2], p[0, 2] ** 0.3 * q[0, 2] ** 0.7)
    assert torch.allclose(joint[0, 1], p[0, 1] ** 0.3)


def test_zegformer_lets_clip_compete_with_the_no_object_logit(scores):
    p = scores.proposer.softmax(-1)[..., :-1]
    q = torch.cat([scores.classifier, scores.proposer[..., -1:]], -1).softmax(-1)[..., :-1]
    joint = ZegFormerEnsemble()(scores)
    mean = (q[0, 0, 0] + q[0, 0, 2]) / 2
    assert torch.allclose(joint[0, 0, 2], p[0, 0, 2] ** (2 / 3) * mean ** (1 / 3))
    assert torch.allclose(joint[0, 0, 3], p[0, 0, 3] ** (1 / 3) * q[0, 0, 3] ** (2 / 3))
    every = ZegFormerEnsemble(rule="all_classes")(scores)
    assert torch.allclose(every[0, 2], p[0, 2] ** (1 / 3) * q[0, 2] ** (2 / 3))
    alone = ZegFormerEnsemble(rule="classifier")(scores)
    assert torch.equal(alone[0, 2], q[0, 2]) and not alone[0, 1].any()


def test_fcclip_leaves_invalid_masks_to_the_proposer(scores):
    joint = FCCLIPEnsemble(alpha=0.4, beta=0.8, on_valid_masks=True)(scores)
    proposer_only = geometric_ensemble(scores.proposer, scores.classifier, scores.seen, 0.0, 0.0).softmax(-1)
    assert torch.allclose(joint[0, 1], proposer_only[0, 1])
    assert not torch.allclose(joint[0, 0], proposer_only[0, 0])
    assert torch.allclose(joint[..., -1], scores.proposer.softmax(-1)[..., -1], atol=1e-6)


@pytest.mark.parametrize(
    "rule", [ProposerAlone(), FreeSegEnsemble(), OVSegEnsemble(), ZegFormerEnsemble(), FCCLIPEnsemble()]
)
def test_a_proposer_without_class_scores_is_refused(scores, rule):
    scores.proposer = None
    with pytest.raises(UserError, match="needs class scores of the proposer"):
        rule(scores)


@pytest.mark.parametrize(
    ("name", "option"), [("FCCLIPEnsemble", "ALPHA"), ("OVSegEnsemble", "WEIGHT"), ("ZegFormerEnsemble", "WEIGHT")]
)
def test_weights_outside_the_unit_interval_are_refused(name, option):
    with pytest.raises(UserError, match=f"{name}.{option} is 1.2, but it must be a number of at least 0 and at most 1"):
        ENSEMBLES.build(name, {option: 1.2})


def test_a_classifier_that_is_missing_is_named(scores):
    scores.classifier = None
    for rule in (ClassifierAlone(), FreeSegEnsemble(weight=0.0), FCCLIPEnsemble()):
        with pytest.raises(UserError, match="needs a mask classifier"):
            rule(scores)


@pytest.mark.parametrize("rule", [FreeSegEnsemble(), OVSegEnsemble(), ZegFormerEnsemble(), FCCLIPEnsemble()])
@pytest.mark.parametrize("classes", [2, 3])
def test_a_proposer_without_void_is_refused(rule, classes):
    # With two classes the one column that is left would stand for both.
    scores = ClassScores(
        proposer=torch.randn(1, 3, classes),
        classifier=torch.randn(1, 3, classes),
        classifier_void=None,
        valid=torch.ones(1, 3, dtype=torch.bool),
        seen=torch.zeros(classes, dtype=torch.bool),
    )
    with pytest.raises(UserError, match=r"needs the no-object scores .* set MODEL\.VOCABULARY\.VOID to True"):
        rule(scores)
