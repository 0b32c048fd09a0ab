"""Evaluates a model on datasets, or what an index keeps of it."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.config import CfgNode

from maft.config import load_config
from maft.data.catalog import dataset
from maft.data.records import load_records
from maft.errors import UserError
from maft.evaluation.cityscapes import CityscapesInstanceEvaluator
from maft.evaluation.evaluators import chosen_evaluators
from maft.evaluation.mask_accuracy import check_mask_accuracy
from maft.evaluation.measuring import measure
from maft.evaluation.report import Results, definition, metrics
from maft.evaluation.runs import INDEX, results_folder
from maft.evaluation.semantic import SemanticEvaluator
from maft.evaluation.sources import IndexSource, ModelSource
from maft.index.index import Index
from maft.index.looking import check_look
from maft.segmentor import OpenVocabSegmentor
from maft.test_time import check_test_time

# Keys of what is done with masks and their names once they are there.
_AFTERWARDS = ("TEST.", "MODEL.INFERENCE.", "MODEL.VOCABULARY.CLASS_NAMES", "MODEL.VOCABULARY.SEEN")


def evaluate(cfg: CfgNode, model: OpenVocabSegmentor) -> dict[str, Results]:
    """Evaluates on all of ``DATASETS.TEST``; has to be called by all processes.

    Reports go to ``OUTPUT_DIR/inference/<dataset>/``: ``results.json``, ``per_class.csv``, the counts of each image
    behind them ``counts.safetensors`` (see `maft.evaluation.counts`), with ``TEST.VISUALIZE`` ``pictures/`` and with
    ``TEST.SAVE_PREDICTIONS`` ``predictions/`` (see `PredictionWriter`), with ``TEST.SAVE_INDEX`` ``index/`` (see
    `maft.index`). The model's vocabulary and training mode are as before afterwards.

    Returns:
        dataset -> task ("sem_seg", "panoptic_seg", "segm", with ``TEST.MASK_ACCURACY`` also "mask_accuracy" and
        "panoptic_mask_accuracy") -> metric -> percentage.

    Raises:
        UserError: a dataset, its files or an option cannot be used.
    """
    if not cfg.DATASETS.TEST:
        raise UserError("DATASETS.TEST is empty: name at least one dataset to evaluate on.")
    # A misspelt last name should not cost the evaluation of the others.
    check_evaluation(cfg, cfg.DATASETS.TEST)
    for name in cfg.DATASETS.TEST:
        model.proposer.check_records(load_records([name], "DATASETS.TEST"))
    return {name: evaluate_dataset(cfg, model, name) for name in cfg.DATASETS.TEST}


def check_evaluation(cfg: CfgNode, names: Sequence[str]) -> None:
    """Checks options and names before a model has run; no file of a dataset's images is touched.

    Raises:
        UserError: a dataset does not exist, or an option cannot be used on it.
    """
    for _, metric, _ in cfg.TEST.EXPECTED:
        if not definition(metric.rpartition("/")[2]):
            raise UserError(f"TEST.EXPECTED holds the metric {metric!r}, which does not exist; there is {metrics()}.")
    check_test_time(cfg)
    for name in names:
        row = dataset(name)
        chosen = chosen_evaluators(cfg, row)
        if "semantic" in chosen:
            SemanticEvaluator.of_dataset(cfg, row)
        if cfg.TEST.SAVE_INDEX:
            check_look(cfg)
        if cfg.TEST.MASK_ACCURACY:
            check_mask_accuracy(cfg, chosen, name)
        if "instance" in chosen and row.instance_suffix:
            CityscapesInstanceEvaluator.of_dataset(row)


def evaluate_dataset(cfg: CfgNode, model: OpenVocabSegmentor, name: str) -> Results:
    """Evaluates on one dataset, see `evaluate`."""
    row, records = dataset(name), load_records([name], "DATASETS.TEST")
    index = results_folder(cfg.OUTPUT_DIR, name) / INDEX if cfg.TEST.SAVE_INDEX else None
    truth = SemanticEvaluator.of_dataset(cfg, row) if index and "semantic" in chosen_evaluators(cfg, row) else None
    return measure(cfg, ModelSource(cfg, model, records, name, index=index, truth=truth), name, records)


def evaluate_index(cfg: CfgNode, index: Index, name: str) -> Results:
    """Evaluates what a model saw of a dataset, as `evaluate_dataset` does the model itself; no image is looked at.

    Args:
        cfg: config of the index with the options of the evaluation, see `index_config`.
        index: that holds the images of the dataset, as ``maft index`` or ``TEST.SAVE_INDEX`` make it.
        name: of the dataset; its classes are the words.

    Raises:
        UserError: see `evaluate` and `IndexSource`; or the index holds no annotated masks for ``TEST.MASK_ACCURACY``.
    """
    check_evaluation(cfg, [name])
    check_look(cfg)
    stored = index.stored
    if cfg.TEST.MASK_ACCURACY and not (stored.settings.true_masks and stored.settings.dataset == name):
        raise UserError(
            f"The index {stored.folder} keeps no annotated masks of {name}, which TEST.MASK_ACCURACY needs: make it "
            f"with maft index --dataset {name}, or set TEST.MASK_ACCURACY False."
        )
    records = load_records([name], "--dataset")
    return measure(cfg, IndexSource(cfg, index, records), name, records)


def index_config(index: Index, overrides: Sequence[str]) -> CfgNode:
    """The config of an index's model with other options of evaluation.

    Args:
        overrides: KEY VALUE pairs.

    Raises:
        UserError: a key does not exist, or says how images are seen, which an index does not do again.
    """
    for key in overrides[::2]:
        if not key.startswith(_AFTERWARDS) or key == "TEST.SAVE_INDEX":
            raise UserError(
                f"{key} cannot be changed with --index, which keeps what the model saw of the images: only "
                f"{', '.join(_AFTERWARDS)} can; evaluate the model itself instead."
            )
    cfg = load_config(index.stored.config_file, [*overrides], trusted=False)
    cfg.defrost()
    # Of the evaluation that may have made it.
    cfg.TEST.SAVE_INDEX, cfg.DATASETS.TEST, cfg.MODEL.DEVICE = False, [], str(index.model.device)
    return cfg
