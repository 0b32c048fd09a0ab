"""Labels with ground truth in the place of any stages, for every rule that makes labels of masks and scores."""

from dataclasses import replace

import pytest
import torch

from maft.ensembles import (
    ClassifierAlone,
    FCCLIPEnsemble,
    FreeSegEnsemble,
    OVSegEnsemble,
    ProposerAlone,
    ZegFormerEnsemble,
)
from maft.errors import UserError
from maft.evaluation.confusion import ConfusionMatrix, SemanticScores
from maft.evaluation.explain.coalitions import Coalitions
from maft.evaluation.explain.evidence import Evidence, Rule
from maft.evaluation.explain.explainer import Explainer, class_losses
from maft.evaluation.explain.shapley import STAGES
from maft.evaluation.explain.stages import Cover, exchanged, final_probabilities, named
from maft.inference import has_background, image_result
from maft.structures import Classification, Proposals, Vocabulary

NAMES = ("cat", "dog", "brick", "sky", "water", "tree")
OPTIONS = {
    "semantic": True, "panoptic": False, "instance": False, "labels_only": True, "resize_before": False,
    "seen_penalty": 0.0, "background_below": 0.0, "best_masks_above": 0.0,
}  # fmt: skip
ENSEMBLES = [
    ClassifierAlone(), ClassifierAlone(valid_only=True), ClassifierAlone(void=True), ProposerAlone(),
    FreeSegEnsemble(), OVSegEnsemble(), ZegFormerEnsemble(), ZegFormerEnsemble(rule="classifier"), FCCLIPEnsemble(),
    FCCLIPEnsemble(on_valid_masks=True),
]  # fmt: skip


def rule(ensemble, names=NAMES, **options):
    seen = tuple(index % 2 == 0 for index in range(len(names)))
    return Rule(ensemble, {**OPTIONS, **options}, Vocabulary(names, seen))


def evidence(seed=0, size=(20, 28), truth_size=(20, 28)):
    """Smooth random masks and scores of padded slots, masks that are too small to classify, and unlabelled pixels."""
    torch.manual_seed(seed)
    masks = torch.nn.functional.interpolate(torch.randn(1, 9, 4, 4) * 5, (8, 8), mode="bilinear")
    truth = torch.nn.functional.interpolate(torch.randn(1, 7, 4, 5), truth_size, mode="bilinear")[0].argmax(0) - 1
    valid = torch.arange(9)[None] != 8
    proposals = Proposals(masks, (32, 32), class_logits=torch.randn(1, 9, 7) * 3, valid=valid)
    classification = Classification(torch.randn(1, 9, 7) * 3, valid=torch.arange(9)[None] > 1, has_void=True)
    return Evidence("scene.png", proposals, classification, size, truth)


def losses(one, how):
    counts = Coalitions.of(one, how, Cover.of(one, how))
    return counts, class_losses(counts.pixels, counts.hits, counts.predicted)


@pytest.mark.parametrize("ensemble", ENSEMBLES, ids=lambda one: f"{type(one).__name__} {vars(one)}")
def test_nothing_put_right_is_the_model_and_everything_put_right_is_the_truth(ensemble):
    for seed in range(3):
        one, how = evidence(seed), rule(ensemble)
        counts, parts = losses(one, how)
        measured = measure(one, how)
        assert torch.equal(counts.hits[0], torch.from_numpy(measured.hits).long())
        assert torch.equal(counts.predicted[0], torch.from_numpy(measured.predicted).long())
        # The constructor asserts that all stages together make all pixels right.
        there = counts.pixels > 0
        assert torch.allclose(parts[1:, there].sum(0), parts[0, there], atol=1e-9)


def measure(one, how):
    """The scores of the labels that the model's own functions make."""
    probabilities = how.ensemble(one.scores(how)) * one.proposals.valid[..., None]
    result = image_result(
        probabilities[0], one.proposals.masks[0], tuple(one.truth.shape),
        padded_size=one.proposals.padded_size, image_size=one.size, are_logits=True, classes=len(how.vocabulary),
        seen=how.seen, things=None, options=how.options, background=has_background(how.vocabulary),
    )  # fmt: skip
    matrix = ConfusionMatrix(len(how.vocabulary))
    matrix.update(result["sem_seg_labels"], one.truth)
    return SemanticScores.of(matrix.counts)


@pytest.mark.parametrize(
    "options",
    [
        {"resize_before": True},
        {"seen_penalty": 0.2},
        {"background_below": 0.4},
        {"best_masks_above": 0.35},
        {"best_masks_above": 0.35, "resize_before": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("names", [NAMES, ("background", *NAMES[1:])], ids=["without background", "with background"])
def test_every_way_to_labels_is_explained(options, names):
    for truth_size in ((20, 28), (47, 61)):
        one, how = evidence(4, truth_size=truth_size), rule(FCCLIPEnsemble(), names, **options)
        counts, parts = losses(one, how)
        assert torch.equal(counts.hits[0], torch.from_numpy(measure(one, how).hits).long())
        there = counts.pixels > 0
        assert torch.allclose(parts[1:, there].sum(0), parts[0, there], atol=1e-9)


@pytest.mark.parametrize("ensemble", [ClassifierAlone(), ProposerAlone()], ids=lambda one: type(one).__name__)
def test_where_one_alone_names_masks_the_ensemble_has_no_part(ensemble):
    parts = losses(evidence(1), rule(ensemble))[1].nan_to_num()
    assert (parts[1 + STAGES.index("ensemble")] == 0).all()
    assert ensemble.__class__ is ProposerAlone or (parts[1 + STAGES.index("void")] == 0).all()


def test_a_model_without_a_classifier_is_explained():
    one = replace(evidence(2), classification=None)
    parts = losses(one, rule(ProposerAlone()))[1]
    assert parts[1 + STAGES.index("names")].nansum() > 0


def test_a_right_mask_that_is_taken_for_no_object_is_blamed_on_void():
    truth = torch.zeros(8, 8, dtype=torch.int64)
    truth[:, 3:] = 1
    left = torch.where(truth == 0, 9.0, -9.0)
    # The left has a mask of its own, and lies under the one of the right too.
    masks = torch.stack([left, torch.full((8, 8), 9.0)])[None]
    proposer = torch.full((1, 2, 3), -9.0)
    proposer[0, 0, 0], proposer[0, 1, 1] = 9, 0
    proposer[0, 0, 2] = 15
    one = Evidence("a", Proposals(masks, (8, 8), class_logits=proposer), None, (8, 8), truth)
    how = Rule(ProposerAlone(), OPTIONS, Vocabulary(("a", "b")))
    parts = losses(one, how)[1]
    assert parts[1 + STAGES.index("void"), 0] > 0 and parts[1 + STAGES.index("names"), 0] == 0


def test_the_true_name_changes_places_with_the_best_one():
    values = torch.tensor([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0]])
    changed = exchanged(values, torch.tensor([True, False]), torch.tensor([2, 2]))
    assert changed.tolist() == [[2, 1, 3], [3, 1, 2]]


def test_of_equal_names_the_true_one_counts_and_a_row_of_zeros_has_none():
    values = torch.tensor([[1.0, 1.0], [0.0, 0.0], [0.2, 0.1]])
    assert named(values, torch.tensor([1, 1, -1])).tolist() == [1, -1, 0]


def test_ground_truth_for_void_leaves_no_share_to_it():
    one, how = evidence(), rule(FCCLIPEnsemble())
    true, everything = Cover.of(one, how).true, torch.ones(9, dtype=torch.bool)
    given = final_probabilities(how, one, true, names=False, ensemble=False, void=~everything)
    mended = final_probabilities(how, one, true, names=False, ensemble=False, void=everything)
    kept = one.offered
    assert mended[kept, -1].max() < 1e-6
    assert torch.allclose(mended[kept, :-1], given[kept, :-1] / (1 - given[kept, -1:]), atol=1e-5)
    assert not mended[~kept].any()


def test_a_mask_is_right_when_half_of_it_is_of_one_class():
    pixels = torch.tensor([[2, 2, 0], [2, 2, 1], [0, 0, 0]])
    cover = Cover(pixels, torch.ones(3, dtype=torch.bool))
    assert cover.true.tolist() == [0, 0, -1] and cover.right.tolist() == [True, False, False]


def test_a_rule_whose_masks_have_no_names_of_their_own_is_refused():
    with pytest.raises(UserError, match="SUM_LOGITS"):
        rule(ClassifierAlone(), sum_logits=True)
    with pytest.raises(UserError, match="SEMANTIC True"):
        rule(ClassifierAlone(), semantic=False)


def test_images_without_a_label_are_said_to_explain_nothing():
    one, how = evidence(), rule(ClassifierAlone())
    explainer = Explainer(how, NAMES)
    explainer.add(replace(one, truth=torch.full_like(one.truth, -1)))
    assert explainer.images[0].parts is None
    with pytest.raises(UserError, match="No pixel"):
        explainer.explanation({})
