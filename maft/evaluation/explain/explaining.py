"""Explains an index of a dataset's images: no model looks at them again."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.utils.logger import log_every_n_seconds
from torch import Tensor

from maft.data.catalog import dataset
from maft.data.reading import Record, read_panoptic_ids
from maft.data.records import load_records
from maft.errors import UserError
from maft.evaluation.explain.evidence import Evidence, Rule
from maft.evaluation.explain.explainer import Explainer
from maft.evaluation.explain.explanation import Explanation, MaskAccuracy
from maft.evaluation.explain.sources import Source
from maft.evaluation.explain.statistics import class_cosines
from maft.evaluation.mask_accuracy import MaskAccuracyEvaluator, named_truth
from maft.evaluation.semantic import SemanticEvaluator, test_vocabulary
from maft.index.index import Index
from maft.structures import Vocabulary

logger = logging.getLogger(__name__)

_LOG_SECONDS = 5


def explain(source: Source, *, worst: int = 24) -> Explanation:
    """Splits what is missing to 100 % mIoU, see `Explanation`; reads label maps and the index alone.

    Args:
        source: of `find_source`.
        worst: how many of the worst masks are kept.

    Raises:
        UserError: the dataset has no label maps, the images of the index are others, or the model makes labels in a
            way that cannot be split.
    """
    index, row = Index(source.index), dataset(source.dataset)
    if "semantic" not in row.evaluators:
        raise UserError(f"{row.name} has no label maps, and the loss of mIoU is explained: choose another dataset.")
    words = index.vocabulary(test_vocabulary(index.cfg, row, source.dataset)[0])
    evaluator = SemanticEvaluator.of_dataset(index.cfg, row)
    records = _records(index, source)
    names = [evaluator.class_names[place] for place in evaluator.offered.tolist()]
    split = evaluator.seen if evaluator.protocol == "generalized" else None
    text = None if index.model.classifier is None else index.model.classifier_text(words)
    explainer = Explainer(
        Rule(index.model.ensemble, index.model.inference_options, words),
        names,
        seen=None if split is None else split.tolist(),
        cosines=None if text is None else class_cosines(text),
        worst=worst,
    )
    for place, record in enumerate(records):
        images, proposals, named, _ = index.said(place, words)
        truth = evaluator.positions(evaluator.truth(record)).long()
        segments, classes = _segments(record, evaluator, truth)
        explainer.add(Evidence(index.files[place], proposals, named, images.sizes[0], truth, segments, classes))
        line = f"Explained {place + 1} of {len(records)} images."
        log_every_n_seconds(logging.INFO, line, _LOG_SECONDS)
    facts = {"dataset": source.dataset, "protocol": evaluator.protocol, **source.facts}
    found = explainer.explanation(facts, _mask_accuracy(index, source, words))
    # Without TEST.SAVE_INDEX an evaluation leaves the index of an earlier one where it was.
    if source.measured is not None and not math.isclose(found.miou, source.measured, rel_tol=1e-9):
        raise UserError(
            f"The index {source.index} is not of the evaluation beside it: it gives {found.miou:.3f} % mIoU, and "
            f"{source.output.parent / 'results.json'} has {source.measured:.3f} %. Evaluate again with TEST.SAVE_INDEX "
            "True, or explain the index by itself."
        )
    return found


def _records(index: Index, source: Source) -> list[Record]:
    """The records of the images of an index, in its order; raises `UserError` where they are not those of a dataset."""
    records = load_records([source.dataset], "The explanation")
    by_file = {str(record["file_name"]): record for record in records}
    if other := [file for file in index.files if file not in by_file]:
        raise UserError(
            f"The index {source.index} holds images that {source.dataset} does not have, such as {other[0]}: name the "
            "dataset that it was made of, in the folder where it was."
        )
    if len(index) < len(records):
        held = set(index.files)
        missing = [file for file in by_file if file not in held]
        raise UserError(
            f"The index {source.index} lacks {len(missing)} of the {len(records)} images of {source.dataset}, such as "
            f"{missing[0]}: make it of all of them."
        )
    return [by_file[file] for file in index.files]


def _segments(record: Record, evaluator: SemanticEvaluator, truth: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """(H, W) numbers of the panoptic segments of offered classes, crowds apart, and the class of each."""
    if "pan_seg_file_name" not in record:
        return None, None
    ids = read_panoptic_ids(record["pan_seg_file_name"])
    if ids.shape != tuple(truth.shape):
        raise UserError(
            f"Panoptic map {record['pan_seg_file_name']} and label map {record['sem_seg_file_name']} have different "
            "sizes: replace one of them."
        )
    infos: Sequence[Mapping[str, Any]] = [one for one in record["segments_info"] if not one.get("iscrowd", 0)]
    classes = evaluator.positions(torch.tensor([one["category_id"] for one in infos], dtype=torch.int64))
    known = np.array([one["id"] for one in infos], dtype=np.int64)[(classes >= 0).numpy()]
    order = known.argsort()
    place = np.searchsorted(known[order], ids).clip(max=max(len(known) - 1, 0))
    if not len(known):
        return None, None
    numbers = np.where(known[order][place] == ids, order[place], -1)
    return torch.from_numpy(numbers), classes[classes >= 0]


def _mask_accuracy(index: Index, source: Source, words: Vocabulary) -> MaskAccuracy | None:
    """That of the true masks that an index holds; None where it holds none."""
    if not index.stored.settings.true_masks or index.model.classifier is None:
        return None
    evaluator = MaskAccuracyEvaluator.of_dataset(index.cfg, dataset(source.dataset), model=None)
    for place in range(len(index)):
        stored = index.stored.image(place)
        with torch.no_grad():
            named = named_truth(index.model, stored, words)
        evaluator.process([{"file_name": stored.file}], [dict(named)])
    results = evaluator.evaluate()["mask_accuracy"]
    by_class = {
        name.removeprefix("MaskAcc-"): value
        for name, value in results.items()
        if name.startswith("MaskAcc-") and value == value
    }
    return MaskAccuracy(results["mMaskAcc"], results["MaskAcc"], by_class)
