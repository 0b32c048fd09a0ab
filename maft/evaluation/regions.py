"""How often CLIP names the annotated regions of a dataset right: the evaluation of learned prompts and of a
fine-tuned CLIP (OVSeg: its accuracy on ADE20K's masks)."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.evaluation import inference_context
from detectron2.utils import comm

from maft.data.catalog import dataset
from maft.data.class_regions import BoxRegionMapper, ClassRegionMapper, class_records
from maft.data.loader import build_test_loader
from maft.data.records import load_records
from maft.errors import UserError
from maft.evaluation.report import Results, results_table, write_results
from maft.evaluation.semantic import SemanticEvaluator, test_vocabulary
from maft.interfaces import RegionNaming

logger = logging.getLogger(__name__)


def evaluate_regions(cfg: CfgNode, model: RegionNaming) -> dict[str, Results]:
    """Evaluates on all of ``DATASETS.TEST``; has to be called by all processes.

    A region is one class of one image. With ``INPUT.MAPPER class_regions`` it is cut as `ClassRegionMapper` does at
    test, and one whose middle lost the class does not count; with ``region_pairs`` it is the class with its box. All
    names of the dataset compete.

    Returns:
        dataset -> "regions" -> "accuracy", the percentage of regions that are named right, and "mACC", its mean over
        the classes that occur; with a split also ``seen_``, ``unseen_`` and ``harmonic_`` versions.

    Raises:
        UserError: a dataset or its files cannot be used.
    """
    check_regions(cfg)
    return {name: _evaluate_dataset(cfg, model, name) for name in cfg.DATASETS.TEST}


def check_regions(cfg: CfgNode) -> None:
    """Raises what `evaluate_regions` would, before a training."""
    if cfg.TEST.PROTOCOL != "generalized":
        raise UserError(
            f"TEST.PROTOCOL is {cfg.TEST.PROTOCOL}, but a region is compared with all names of its dataset: set it to "
            "generalized."
        )


def _evaluate_dataset(cfg: CfgNode, model: RegionNaming, name: str) -> Results:
    row = dataset(name)
    counted = SemanticEvaluator.of_dataset(cfg, row)
    records = load_records([name], "DATASETS.TEST")
    samples = class_records(records, len(counted.class_names), counted.ignore_label)
    words, _ = test_vocabulary(cfg, row, name)
    cut = BoxRegionMapper if cfg.INPUT.MAPPER == "region_pairs" else ClassRegionMapper
    mapper = cut.from_config(cfg, is_train=False)
    loader = build_test_loader(samples, mapper, workers=cfg.DATALOADER.NUM_WORKERS)
    with model.using_vocabulary(words), inference_context(model), torch.no_grad():
        for batch in loader:
            regions = [record for record in batch if record is not None]
            if regions:
                labels = torch.tensor([[record["category"] for record in regions]])
                counted.add(model(regions)["logits"].argmax(-1)[None].cpu(), labels)
    comm.synchronize()
    means = counted.evaluate()["sem_seg"]
    # A region is counted as a map of one pixel, whose accuracies are those of regions.
    found = {key.replace("pACC", "accuracy"): v for key, v in means.items() if key.endswith(("pACC", "mACC"))}
    results: Results = {"regions": found}
    if comm.is_main_process():
        folder = Path(cfg.OUTPUT_DIR) / "inference" / re.sub(r"[^\w.-]+", "_", name)
        logger.info("Regions of %s:\n%s", name, results_table(results))
        write_results(folder, results, {"dataset": name, "regions": len(samples), "vocabulary": list(words.names)})
    return results
