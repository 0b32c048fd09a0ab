"""What a model that scores labels of its own says of any vocabulary."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from maft.structures import Proposals, Targets, Vocabulary, as_clip_reads


def objectness(scores: Tensor, classes: int) -> Tensor:
    """How sure a model is that there is an object at all, in equal parts for all classes of a vocabulary.

    Args:
        scores: (..., K + 1) logits of the model's own labels, no object last.
        classes: C.

    Returns:
        (..., C + 1) logarithms of probabilities, float32, void last.
    """
    logs = scores.float().log_softmax(-1)
    some = logs[..., :-1].logsumexp(-1, keepdim=True) - math.log(classes)
    return torch.cat([some.expand(*some.shape[:-1], classes), logs[..., -1:]], -1)


def scores_of_names(scores: Tensor, labels: Sequence[str], vocabulary: Vocabulary) -> Tensor:
    """Class logits of a vocabulary, their softmax being the probabilities that a model gives its own labels.

    A label counts for the classes that it names, as a whole or by one of the comma-separated synonyms of either. All
    other labels may be anything else: they count in equal parts for the classes that no label names, or for void where
    every class has one.

    Args:
        scores: (..., K + 1) logits, no object last.
        labels: K names.

    Returns:
        (..., C + 1) logarithms of probabilities, float32, void last.
    """
    shares = torch.tensor(_shares(tuple(labels), vocabulary), device=scores.device)
    with torch.autocast(scores.device.type, enabled=False):
        # Log-probabilities stay finite where a class has none.
        return (scores.float().softmax(-1) @ shares).clamp(min=1e-12).log()


def mean_logits_of_names(scores: Tensor, labels: Sequence[str], vocabulary: Vocabulary) -> Tensor:
    """Class logits of a vocabulary by MaskCLIP++'s rule for a proposer with labels of its own.

    A label counts for the first class that shares a synonym with it. A class has the mean logit of its labels, and 0
    where it has none; of their softmax void gets the probability that the proposer gives "no object".

    Args:
        scores: (..., K + 1) logits, no object last.
        labels: K names.

    Returns:
        (..., C + 1) logarithms of probabilities, float32, void last.
    """
    columns = torch.tensor(first_classes(labels, vocabulary), device=scores.device)
    named = columns >= 0
    own = scores.float()[..., :-1][..., named]
    sums = own.new_zeros(*own.shape[:-1], len(vocabulary)).index_add(-1, columns[named], own)
    counts = torch.bincount(columns[named], minlength=len(vocabulary))
    logs = scores.float().log_softmax(-1)
    some = logs[..., :-1].logsumexp(-1, keepdim=True)
    return torch.cat([(sums / counts.clamp(min=1)).log_softmax(-1) + some, logs[..., -1:]], -1)


def first_classes(labels: Sequence[str], vocabulary: Vocabulary) -> list[int]:
    """The first class of a vocabulary that shares a synonym with each label, -1 where none does."""
    classes = _synonyms(vocabulary)
    return [min(_classes_of(label, classes), default=-1) for label in labels]


def _synonyms(vocabulary: Vocabulary) -> dict[str, list[int]]:
    """The classes of every name and synonym, as CLIP reads it."""
    classes: dict[str, list[int]] = {}
    for index, name in enumerate(vocabulary.names):
        for synonym in {name, *vocabulary.synonyms(index)}:
            classes.setdefault(as_clip_reads(synonym), []).append(index)
    return classes


@lru_cache(maxsize=8)
def _shares(labels: tuple[str, ...], vocabulary: Vocabulary) -> list[list[float]]:
    """(K + 1) rows of (C + 1): what part of a label's probability a class gets, void last."""
    names = vocabulary.names
    classes = _synonyms(vocabulary)
    named = [_classes_of(label, classes) for label in labels]
    claimed = {index for some in named for index in some}
    rest = [index for index in range(len(names)) if index not in claimed] or [len(names)]
    shares = []
    for some in (*named, [len(names)]):
        row = [0.0] * (len(names) + 1)
        for index in some or rest:
            row[index] = 1 / len(some or rest)
        shares.append(row)
    return shares


def _classes_of(label: str, classes: dict[str, list[int]]) -> list[int]:
    found = [index for word in {label, *label.split(",")} for index in classes.get(as_clip_reads(word), [])]
    return sorted(set(found))


def class_agnostic(proposals: Proposals, targets: Sequence[Targets]) -> tuple[Proposals, list[Targets]]:
    """The same with one class, object, and void."""
    objects = [Targets(torch.zeros_like(target.labels), target.masks) for target in targets]
    return _of_one_class(proposals), objects


def _of_one_class(proposals: Proposals) -> Proposals:
    assert proposals.class_logits is not None
    classes, void = proposals.class_logits[..., :-1], proposals.class_logits[..., -1:]
    logits = torch.cat([classes.logsumexp(-1, keepdim=True), void], -1)
    return replace(proposals, class_logits=logits, auxiliary=[_of_one_class(one) for one in proposals.auxiliary])
