"""From a config to a trained or evaluated model: what ``maft train`` and ``maft evaluate`` run in every process."""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase, create_ddp_model
from detectron2.engine.hooks import CallbackHook, IterationTimer, LRScheduler
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventWriter, JSONWriter, TensorboardXWriter
from detectron2.utils.logger import setup_logger
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from maft.building import build_model
from maft.checkpoint.loading import InitialWeights
from maft.data.class_regions import ClassRegionMapper, class_records_from_config
from maft.data.loader import Mapper, build_train_loader
from maft.data.mappers import SegmentationMapper
from maft.data.pairs import RegionPairMapper
from maft.data.readiness import count_images
from maft.data.records import check_same_classes, load_records
from maft.engine.checkpointer import Checkpointer
from maft.engine.evaluating import evaluate_only, evaluated, segmentor
from maft.engine.hooks import PeriodicCheckpoint, PeriodicEvaluation, PredictionPictures
from maft.engine.memory import training_advice, within_memory
from maft.engine.parts import compiled_parts, recomputed_parts
from maft.engine.precision import TensorFloat32
from maft.engine.resuming import config_leaves, drop_metrics_from, log_changes
from maft.engine.schedules import build_scheduler
from maft.engine.sharding import Sharded, check_sharded, whole_state, whole_weights
from maft.engine.solver import build_optimizer
from maft.engine.stopping import again
from maft.engine.summary import training_summary
from maft.engine.trackers import TrackerWriter, check_trackers
from maft.engine.trainer import Trainer
from maft.engine.watching import meet, passing
from maft.engine.writers import NumberFiles, ProgressLine
from maft.errors import UserError, shown
from maft.evaluation import check_evaluation, draw_predictions
from maft.evaluation.regions import check_regions
from maft.files import held, raise_errors, write_text_atomic
from maft.interfaces import RegionNaming, Trainable
from maft.layers.distributed import same_everywhere
from maft.layers.precision import precision_of

# Where a machine keeps its cache and how many workers it has room for change no number.
_MAY_DIFFER = ("CACHE_DIR", "NUM_WORKERS")

logger = logging.getLogger(__name__)


def run(cfg: CfgNode, eval_only: bool = False, resume: bool = False) -> Mapping[str, Any]:
    """Trains and evaluates, or only evaluates; called in every process.

    Args:
        resume: go on from the last checkpoint in ``OUTPUT_DIR`` (with ``eval_only``: evaluate it).

    Returns:
        the results of the last evaluation, as `maft.evaluation.evaluate` gives them; empty without test data.

    Raises:
        UserError: see `train`; or ``OUTPUT_DIR`` holds checkpoints that a new run would mix with its own, or is in
            use by another run; or the processes were started with different configs.
    """
    passing("the comparison of the configs")
    settings = {key: value for key, value in config_leaves(cfg) if not key.endswith(_MAY_DIFFER)}
    same_everywhere(
        {**settings, "--eval-only": eval_only, "--resume": resume}, "start all with the same config and options"
    )
    if cfg.DATASETS.TEST:
        # A mistake in the final evaluation should not come to light after days of training.
        check_evaluation(cfg, cfg.DATASETS.TEST)
    elif eval_only:
        raise UserError("DATASETS.TEST is empty: name at least one dataset to evaluate on.")
    try:
        used = Checkpointer(cfg.OUTPUT_DIR, cfg).exists()
    except (OSError, ValueError) as error:
        raise UserError(
            f"OUTPUT_DIR {shown(cfg.OUTPUT_DIR)} cannot be used ({error}): choose another folder."
        ) from None
    if not eval_only and not resume and used:
        raise UserError(
            f"OUTPUT_DIR {cfg.OUTPUT_DIR} already holds checkpoints of a training run: continue it with --resume, "
            "or choose another OUTPUT_DIR."
        )
    if not eval_only:
        check_trackers(cfg)
        check_same_classes(cfg.DATASETS.TRAIN)
    images = count_images(None if eval_only else cfg.DATASETS.TRAIN, cfg.DATASETS.TEST)
    with held(cfg.OUTPUT_DIR, "checkpoints", "inference") if comm.is_main_process() else contextlib.nullcontext():
        set_up(cfg)
        seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
        return evaluate_only(cfg, seed, images, resume) if eval_only else train(cfg, seed, images, resume=resume)


def set_up(cfg: CfgNode) -> None:
    """Creates ``OUTPUT_DIR`` with config.yaml in it and starts logging to the console and to log.txt there.

    Raises:
        UserError: the folder cannot be written.
    """
    if comm.is_main_process():
        write_text_atomic(Path(cfg.OUTPUT_DIR) / "config.yaml", cfg.dump())
    meet("the output folder")
    # One process may run several trainings: each logs into its own folder, and once to the console.
    setup_logger.cache_clear()
    for name in ("fvcore", "detectron2", "maft"):
        logging.getLogger(name).handlers.clear()
        for handler in setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name=name).handlers:
            raise_errors(handler)
    # It reports how it stores every list of records in memory.
    logging.getLogger("detectron2.data.common").setLevel(logging.WARNING)
    logger.info(
        "PyTorch %s on %s, %d process(es); config and log in %s",
        torch.__version__, cfg.MODEL.DEVICE, comm.get_world_size(), cfg.OUTPUT_DIR,
    )  # fmt: skip


def train(cfg: CfgNode, seed: int, images: Mapping[str, int], *, resume: bool = False) -> Mapping[str, Any]:
    """Trains to ``SOLVER.MAX_ITER`` and returns the results of the final evaluation.

    Args:
        seed: the same in all processes; a resumed run goes on with its own unless ``SEED`` names one.
        images: number of images of each dataset, for the log.

    Raises:
        UserError: data, weights, options or the checkpoint to resume from do not fit.
    """
    checkpointer = Checkpointer(cfg.OUTPUT_DIR, cfg, keep=cfg.SOLVER.KEEP_CHECKPOINTS)
    latest = checkpointer.latest() if resume else None
    passing("the checkpoint to resume from")
    same_everywhere(
        {"the checkpoint to resume from": latest[0].name if latest else "none"},
        f"give every machine the same OUTPUT_DIR {cfg.OUTPUT_DIR}",
    )
    if latest:
        folder, tensors, state = latest
        start, weights = state["iteration"], InitialWeights.of_model(tensors, str(folder))
        logger.info("Resuming from %s at iteration %d of %d.", folder, start, cfg.SOLVER.MAX_ITER)
        if start < cfg.SOLVER.MAX_ITER:
            log_changes(folder / "config.yaml", cfg)
        seed = cfg.SEED if cfg.SEED >= 0 else state["seed"]
    else:
        state, start, weights = None, 0, InitialWeights.from_config(cfg)
        if resume:
            logger.info("Nothing to resume from in %s: training starts at iteration 0.", cfg.OUTPUT_DIR)

    seed_all_rng(seed)
    model = build_model(cfg, weights, training=True)
    names_regions = isinstance(model, RegionNaming)
    if cfg.DATASETS.TEST and names_regions:
        check_regions(cfg)
    if cfg.SOLVER.PICTURE_PERIOD or (cfg.DATASETS.TEST and not names_regions):
        segmentor(model)
    trainer = build_trainer(cfg, model, seed)
    logger.info("%s", training_summary(cfg, model, images, trainer.loader.sampler.count))
    if state:
        trainer.restore(state)
    end = cfg.SOLVER.MAX_ITER
    if start > end:
        logger.warning("The checkpoint is of iteration %d, beyond SOLVER.MAX_ITER %d: it is evaluated.", start, end)
    # The run may have ended between its last checkpoint and this folder.
    final = whole_state(model) if start >= end else {}
    if comm.is_main_process():
        drop_metrics_from(Path(cfg.OUTPUT_DIR) / "metrics.json", start)
        if latest:
            # The run may have ended between a checkpoint and the removal of an older one.
            checkpointer.prune(latest[0])
        if final and not checkpointer.final.exists():
            checkpointer.save_final(final)
    results: dict[str, Any] = {}

    def evaluation() -> dict[str, Any]:
        if cfg.DATASETS.TEST:
            advice = f"Stopped in an evaluation; the iterations before it are saved, go on with: {again('--resume')}"
            with whole_weights(trainer.model):
                results.update(evaluated(cfg, model, advice))
        return results

    trainer.register_hooks(_hooks(cfg, model, checkpointer, evaluation, start))
    with within_memory("the training", training_advice(cfg, comm.get_world_size())):
        trainer.train(start, max(start, end))
    return results


def build_trainer(cfg: CfgNode, model: nn.Module, seed: int) -> Trainer:
    """The trainer for ``model`` with loader, optimiser and schedule by config, without hooks.

    Raises:
        UserError: a solver or loader option does not fit.
    """
    solver, device = cfg.SOLVER, torch.device(cfg.MODEL.DEVICE)
    share = comm.get_world_size() * solver.ACCUMULATE
    if solver.IMS_PER_BATCH % share:
        raise UserError(
            f"SOLVER.IMS_PER_BATCH {solver.IMS_PER_BATCH} is the global batch and must be a multiple of "
            f"{comm.get_world_size()} processes x SOLVER.ACCUMULATE {solver.ACCUMULATE}."
        )
    wrapped = _distributed(cfg, model)
    # Afterwards, as sharding replaces the parameters.
    optimizer = build_optimizer(cfg, model)
    records = None
    if cfg.INPUT.MAPPER == "region_pairs":
        mapper: Mapper = RegionPairMapper.from_config(cfg)
    elif cfg.INPUT.MAPPER == "class_regions":
        mapper = ClassRegionMapper.from_config(cfg, is_train=True)
        records = class_records_from_config(cfg, load_records(cfg.DATASETS.TRAIN))
    else:
        mapper = SegmentationMapper.from_config(cfg, is_train=True)
    loader = build_train_loader(
        cfg, mapper, seed=seed, rank=comm.get_rank(), world_size=comm.get_world_size(), records=records
    )
    return Trainer(
        wrapped,
        loader,
        optimizer,
        build_scheduler(cfg, optimizer),
        seed=seed,
        max_iter=solver.MAX_ITER,
        clip=solver.CLIP_GRADIENTS,
        accumulate=solver.ACCUMULATE,
        autocast=precision_of(solver.AMP.DTYPE, device) if solver.AMP.ENABLED else None,
        log_period=solver.LOG_PERIOD,
    )


def _distributed(cfg: CfgNode, model: nn.Module) -> nn.Module:
    if cfg.SOLVER.SHARDED:
        check_sharded(cfg.SOLVER)
        if comm.get_world_size() > 1:
            return Sharded(model, allow_unused=cfg.SOLVER.FIND_UNUSED_PARAMETERS)
    # Buffers are constants here; newer PyTorch calls the option otherwise.
    known = inspect.signature(DistributedDataParallel).parameters
    return create_ddp_model(
        model,
        device_ids=[torch.cuda.current_device()] if cfg.MODEL.DEVICE.startswith("cuda") else None,
        find_unused_parameters=cfg.SOLVER.FIND_UNUSED_PARAMETERS,
        **{"forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False},
    )


def _hooks(
    cfg: CfgNode, model: Trainable, checkpointer: Checkpointer, evaluation: Callable[[], dict[str, Any]], start: int
) -> list[HookBase]:
    hooks: list[HookBase] = [
        TensorFloat32(cfg.SOLVER.TF32, torch.device(cfg.MODEL.DEVICE)),
        IterationTimer(),
        CallbackHook(after_step=lambda _: model.after_optimizer_step()),
        LRScheduler(),
        PeriodicCheckpoint(model, checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD, cfg.TEST.EVAL_PERIOD),
        PeriodicEvaluation(cfg.TEST.EVAL_PERIOD, evaluation),
    ]
    # Before the hooks that save: a run that compiles nothing should leave no checkpoint.
    if cfg.SOLVER.COMPILE:
        hooks.insert(1, compiled_parts(model, cfg.SOLVER.COMPILE))
    # What is compiled as a whole knows what of it is recomputed.
    if cfg.SOLVER.ACTIVATION_CHECKPOINTING:
        hooks.insert(1, recomputed_parts(model, cfg.SOLVER.ACTIVATION_CHECKPOINTING))
    if cfg.SOLVER.PICTURE_PERIOD:
        hooks.append(PredictionPictures(lambda: draw_predictions(cfg, segmentor(model)), cfg.SOLVER.PICTURE_PERIOD))
    if comm.is_main_process():
        # Each entry is the median of what happened since the one before.
        period = cfg.SOLVER.LOG_PERIOD
        folder = Path(cfg.OUTPUT_DIR)
        writers: dict[Path, EventWriter] = {
            # First, as it puts speed and memory into the storage.
            folder / "log.txt": ProgressLine(cfg.SOLVER.MAX_ITER, cfg.SOLVER.IMS_PER_BATCH, period),
            # Before TensorBoard's, which clears the pictures.
            **{folder / name: TrackerWriter(name, cfg, resumed=start > 0) for name in cfg.TRACKERS.NAMES},
            folder / "metrics.json": JSONWriter(str(folder / "metrics.json"), window_size=period),
            folder / "events.out.tfevents": TensorboardXWriter(str(folder), window_size=period, purge_step=start),
        }
        hooks.append(NumberFiles(writers, period))
    return hooks
