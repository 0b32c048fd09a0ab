"""Which words a model is given on a dataset."""

from __future__ import annotations

from detectron2.config import CfgNode

from maft.data.catalog import DatasetRow, class_names, vocabulary
from maft.structures import Vocabulary


def test_vocabulary(cfg: CfgNode, row: DatasetRow, name: str) -> tuple[Vocabulary, list[bool]]:
    """What is offered to the model on a dataset, and which of it are things."""
    options = cfg.MODEL.VOCABULARY
    training = cfg.DATASETS.TRAIN
    words = vocabulary(
        name,
        options.CLASS_NAMES,
        options.SEEN,
        class_names(training[0], options.CLASS_NAMES) if options.SEEN == "overlap" and training else None,
    )
    things = thing_flags(row)
    seen = row.classes.seen
    if cfg.TEST.PROTOCOL == "unseen_only" and seen is not None and not row.seen_only:
        kept = [index for index in range(len(words)) if not seen[index]]
        flags = None if words.seen is None else tuple(words.seen[index] for index in kept)
        return Vocabulary(tuple(words.names[index] for index in kept), flags), [things[index] for index in kept]
    return words, things


def thing_flags(row: DatasetRow) -> list[bool]:
    """Whether each label of a dataset is a thing."""
    things = set(row.classes.things)
    kept = row.classes.seen_indices if row.seen_only else range(len(row.classes))
    return [index in things for index in kept]
