"""Every mask proposer with every mask classifier on a GPU that is not there: all pairs, on fake CUDA tensors."""

from dataclasses import replace

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
RECORDS = [{"file_name": "one.png"}, {"file_name": "two.png"}]


def built(registry, tested, options):
    """A component with its CLIP and the texts of that one, there."""
    clip = load_clip(tested.clip)
    component = registry.build(tested.name, options, context(clip)).eval()
    text = texts(clip)
    there = {name: DEVICE.moved(getattr(text, name)) for name in ("embeddings", "row_class", "void", "seen")}
    return DEVICE.moved(component), DEVICE.moved(clip), replace(text, **there)


def images():
    made = batch(*SIZES, divisor=32)
    return Images(DEVICE.moved(made.pixels), made.sizes)


@pytest.fixture(scope="module")
def proposed(random_sam, tiny_sam3, tmp_path_factory):
    """Function: the proposals of a proposer and what it waited for, of a new or of an earlier call."""
    known = {}

    def propose(name):
        tested, folder = joined(ProposerConformance, name), tmp_path_factory.mktemp("proposer")
        files = {"SAM": lambda: random_sam("sam"), "SAM3": lambda: tiny_sam3(folder, noise=0.1)}
        further = {"PRETRAINED": str(files[name]())} if name in files else tested().prepare(folder)
        proposer, clip, text = built(PROPOSERS, tested, {**tested.options, **further})
        targets = [Targets(DEVICE.moved(one.labels), DEVICE.moved(one.masks)) for one in ground_truth(batch(*SIZES))]
        with DEVICE.noting() as reads, torch.no_grad():
            found = proposer(images(), text, clip, targets, RECORDS)
        return found, surprises(reads, IN_RESULTS)

    def remembered(name):
        if name not in known:
            known[name] = propose(name)
        return known[name]

    return remembered


@pytest.fixture(scope="module")
def classifier_of():
    """Function: a classifier with its CLIP and the texts of that one, of a new or of an earlier call."""
    known = {}

    def remembered(name):
        if name not in known:
            tested = joined(ClassifierConformance, name)
            known[name] = built(CLASSIFIERS, tested, tested.options)
        return known[name]

    return remembered


@pytest.mark.parametrize("name", list(PROPOSERS))
def test_a_proposer_waits_for_nothing_that_is_not_listed(proposed, name):
    proposals, waits = proposed(name)
    assert proposals.masks.device.type == "cuda" and waits == []


@pytest.mark.parametrize("proposer", list(PROPOSERS))
@pytest.mark.parametrize("name", list(CLASSIFIERS))
def test_any_pair_waits_for_nothing_that_is_not_listed(proposed, classifier_of, name, proposer):
    classifier, clip, text = classifier_of(name)
    # Features are of the proposer's CLIP, which is not always the classifier's.
    proposals = replace(proposed(proposer)[0], clip_features=None)
    with DEVICE.noting() as reads, torch.no_grad():
        found = classifier(images(), proposals, text, clip)
    assert found.logits.device.type == "cuda" and found.logits.shape[:2] == proposals.masks.shape[:2]
    assert surprises(reads, IN_RESULTS) == []
