"""Counts of made-up runs, for tests of what reads them."""

from dataclasses import replace

import numpy as np
import torch

from maft.evaluation import SemanticEvaluator
from maft.evaluation.counts import Counts, Evaluated, image_names

NAMES = ("a", "b", "c", "d")


def evaluated(images=40, **changes):
    files = tuple(f"/data/{index}.jpg" for index in range(images))
    facts = Evaluated(
        dataset="somewhere_val",
        protocol="generalized",
        class_names=NAMES,
        ignore_label=255,
        seen=(True, True, False, False),
        things=(True, False, True, False),
        files=files,
        names=tuple(image_names(files)),
        ids=tuple(range(images)),
    )
    return replace(facts, **changes)


def run(wrong, seed=0, images=40, protocol="generalized"):
    """An evaluator's work on random label maps, of which a share of the pixels is named at random."""
    of, draws = evaluated(images, protocol=protocol), np.random.default_rng(seed)
    evaluator = SemanticEvaluator(NAMES, 255, seen=of.seen, things=of.things, protocol=of.protocol, images=of.files)
    truths = np.random.default_rng(7)
    for file in of.files:
        labels = truths.choice([0, 1, 2, 3, 255], (6, 6), p=[0.4, 0.3, 0.15, 0.1, 0.05])
        found = np.where(draws.random(labels.shape) < wrong, draws.integers(-1, 4, labels.shape), labels)
        if protocol == "unseen_only":
            found = found - 2
        evaluator.add(torch.from_numpy(found), torch.from_numpy(labels), image=file)
    digests = torch.arange(images, dtype=torch.uint8)[:, None].repeat(1, 32)
    return Counts(of, {"sem_seg": evaluator.rows.gathered()}, digests, digests.clone()), evaluator
