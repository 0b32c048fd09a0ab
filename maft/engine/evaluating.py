"""The evaluation of a model: by itself, as ``maft evaluate`` runs it, and as a training does."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils.env import seed_all_rng
from torch import nn

from maft.building import build_model
from maft.checkpoint.loading import InitialWeights
from maft.engine.checkpointer import Checkpointer
from maft.engine.memory import evaluation_advice, within_memory
from maft.engine.stopping import again, stopping_at_once
from maft.engine.summary import evaluation_summary
from maft.errors import UserError
from maft.evaluation import evaluate
from maft.evaluation.regions import evaluate_regions
from maft.interfaces import RegionNaming, Trainable
from maft.segmentor import OpenVocabSegmentor

logger = logging.getLogger(__name__)


def evaluate_only(cfg: CfgNode, seed: int, images: Mapping[str, int], resume: bool) -> Mapping[str, Any]:
    """Evaluates ``MODEL.WEIGHTS``, or the last checkpoint in ``OUTPUT_DIR``; see `maft.engine.training.run`."""
    seed_all_rng(seed)
    weights = None
    if resume:
        latest = Checkpointer(cfg.OUTPUT_DIR, cfg).latest()
        if latest is None:
            raise UserError(
                f"--resume: there is no checkpoint in OUTPUT_DIR {cfg.OUTPUT_DIR} to evaluate; leave --resume out to "
                "evaluate MODEL.WEIGHTS."
            )
        weights = InitialWeights.of_model(latest[1], str(latest[0]))
    model = build_model(cfg, weights)
    logger.info("%s", evaluation_summary(cfg, model, images))
    if not (cfg.MODEL.WEIGHTS or resume) and _trains(model):
        logger.warning(
            "MODEL.WEIGHTS is empty, so that this evaluates what a training of the config starts from, not its result: "
            "name a trained model with MODEL.WEIGHTS FOLDER, or give --resume for the last checkpoint in OUTPUT_DIR."
        )
    go_on = again("TEST.RESUME", "True") if isinstance(model, OpenVocabSegmentor) else again()
    return evaluated(cfg, model, f"Stopped; the evaluation goes on with: {go_on}")


def _trains(model: nn.Module) -> bool:
    """Whether a training changes more than the void embedding, which the scores of a frozen classifier do not need."""
    return any(p.requires_grad and not name.endswith("void_embedding") for name, p in model.named_parameters())


def evaluated(cfg: CfgNode, model: Trainable, advice: str) -> dict[str, Any]:
    """The results of a model, by what it does; ``advice`` is given when it is interrupted."""
    with stopping_at_once(advice), within_memory("the evaluation", evaluation_advice(cfg)):
        return evaluate_regions(cfg, model) if isinstance(model, RegionNaming) else evaluate(cfg, segmentor(model))


def segmentor(model: Trainable) -> OpenVocabSegmentor:
    """The model itself; raises UserError where it does not segment."""
    if not isinstance(model, OpenVocabSegmentor):
        raise UserError(
            f"{type(model).__name__} does not segment, so it cannot be evaluated: set DATASETS.TEST to [] and "
            "SOLVER.PICTURE_PERIOD to 0."
        )
    return model
