"""Classifiers on the masks of every proposer, on a GPU that is not there.

SAM, universal segmenters and masks from files hand on what ground truth does: values with slots that are not valid.
"""

from dataclasses import replace
from functools import cache

import pytest
import torch
from host_reads import FakeDevice
from test_any_pair import joined
from waits import IN_RESULTS, surprises

from maft.clip import load_clip
from maft.conformance import ClassifierConformance, ProposerConformance, batch, context, ground_truth, texts
from maft.registry import CLASSIFIERS, PROPOSERS
from maft.structures import Images, Targets

DEVICE = FakeDevice()
SIZES = [(64, 96), (96, 64)]
MADE_OF_PIXELS = ["Mask2Former", "FreeSeg", "MaskFormer", "SAN", "EoMT", "GroundTruth"]


def moved_text(text):
    there = {name: DEVICE.moved(getattr(text, name)) for name in ("embeddings", "row_class", "void", "seen")}
    return replace(text, **there)


def built(registry, tested):
    """A component with its CLIP and the texts of that one, there."""
    clip = load_clip(tested.clip)
    component = registry.build(tested.name, tested.options, context(clip)).eval()
    text = moved_text(texts(clip))
    return DEVICE.moved(component), DEVICE.moved(clip), text


def images():
    made = batch(*SIZES, divisor=32)
    return Images(DEVICE.moved(made.pixels), made.sizes)


@cache
def proposed(name):
    """The proposals of a proposer, and what it waited for."""
    proposer, clip, text = built(PROPOSERS, joined(ProposerConformance, name))
    targets = [Targets(DEVICE.moved(one.labels), DEVICE.moved(one.masks)) for one in ground_truth(batch(*SIZES))]
    with DEVICE.noting() as reads, torch.no_grad():
        found = proposer(images(), text, clip, targets, [{"file_name": "one.png"}, {"file_name": "two.png"}])
    return found, surprises(reads, IN_RESULTS)


@pytest.mark.parametrize("name", MADE_OF_PIXELS)
def test_a_proposer_waits_for_nothing_that_is_not_listed(name):
    proposals, waits = proposed(name)
    assert proposals.masks.device.type == "cuda" and waits == []


# Those that read whole images at once; the others are in the recipes, each with one proposer.
@pytest.mark.parametrize("name", ["IPCLIP", "MAFTPlus", "MaskAdapter", "MaskPooling"])
def test_a_classifier_waits_for_nothing_that_is_not_listed_with_any_proposer(name):
    classifier, clip, text = built(CLASSIFIERS, joined(ClassifierConformance, name))
    for proposer in MADE_OF_PIXELS:
        proposals = replace(proposed(proposer)[0], clip_features=None)
        with DEVICE.noting() as reads, torch.no_grad():
            found = classifier(images(), proposals, text, clip)
        assert found.logits.device.type == "cuda" and found.logits.shape[:2] == proposals.masks.shape[:2]
        assert surprises(reads, IN_RESULTS) == []
