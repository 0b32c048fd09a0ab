"""From a config and its weights to the model: what training, evaluation and prediction all begin with."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY

import maft.prompt_learning
import maft.region_clip
import maft.segmentor  # noqa: F401 - all three register their meta-architecture
from maft.checkpoint.key_map import some
from maft.checkpoint.loading import InitialWeights
from maft.checkpoint.origins import origins
from maft.clip.sources import clip_source
from maft.clip.vocabulary import LEARNED
from maft.config import start_from
from maft.config_files import read_config_file
from maft.data.catalog import class_names, dataset, is_known
from maft.errors import UserError, first_line
from maft.interfaces import Trainable
from maft.structures import as_clip_reads

_CLASS_PROMPTS = "vocabulary_encoder.prompts"

logger = logging.getLogger(__name__)


def model_shapes(cfg: CfgNode) -> dict[str, torch.Size]:
    """Names and shapes of everything a checkpoint of the model holds; the model is built without memory.

    Raises:
        UserError: see `build_model`.
    """
    with torch.device("meta"):
        model = _architecture(cfg)(cfg)
    return {name: value.shape for name, value in model.state_dict().items()}


def build_model(cfg: CfgNode, weights: InitialWeights | None = None, *, training: bool = False) -> Any:
    """The model of ``MODEL.META_ARCHITECTURE`` on ``MODEL.DEVICE``.

    Args:
        weights: what it starts from; None: what the config names (`maft.checkpoint.loading`).
        training: the model is about to be trained, so that what is frozen must have weights.

    Raises:
        UserError: there is no such device, a component cannot be built, or the weights do not fit.
    """
    device = _device(cfg.MODEL.DEVICE)
    if training:
        _check_prompts(cfg)
    torch.backends.cudnn.benchmark = training and cfg.CUDNN_BENCHMARK
    weights = InitialWeights.from_config(cfg, _classes(cfg)) if weights is None else weights
    clip = weights.clip()
    try:
        model: Trainable = _architecture(cfg)(cfg, **({"clip_weights": clip} if clip else {}))
        model = model.to(device)
    except (MemoryError, RuntimeError) as error:
        if "memory" not in str(error) and not isinstance(error, MemoryError):
            raise
        reason = first_line(error)[:200]
        raise UserError(f"The model does not fit into the memory ({reason}): make it smaller.") from error
    brought, started = model.brought_weights(), model.started_weights()
    left = weights.load_into(model, brought)
    untrained = [name for name in left if not name.startswith(tuple(f"{part}." for part in started))]
    for part, frozen in (("proposer", cfg.MODEL.PROPOSER.FROZEN), ("classifier", cfg.MODEL.CLASSIFIER.FROZEN)):
        names = [name for name in untrained if name.startswith(f"{part}.")]
        if names and frozen and training:
            raise UserError(
                f"MODEL.{part.upper()}.FROZEN is True, but nothing gives the weights of the {part} (such as "
                f"{names[0]}), which would stay random: name their file under MODEL.START_FROM, as in [{{FILE: ..., "
                f"TAKE: {part}}}]."
            )
    if training and (idle := [name for name in untrained if _is_idle_prompt(cfg, model, name)]):
        raise UserError(
            f"Nothing gives or trains the learned prompts {idle[0]}, which would stay random: name their file under "
            f"MODEL.START_FROM, as in [{{FILE: ..., TAKE: {idle[0].rpartition('.')[0]}}}]."
        )
    source = clip_source(cfg.MODEL.CLIP.NAME, cfg.MODEL.CLIP.PRETRAINED)
    logger.info("%s", origins(model.state_dict(), weights.given, clip=source, brought=brought, started=started))
    if untrained and not training:
        logger.warning(
            "Nothing gives or has trained %d tensors (%s): name their file with MODEL.WEIGHTS or MODEL.START_FROM.",
            len(untrained), some(untrained),
        )  # fmt: skip
    return model


def _is_idle_prompt(cfg: CfgNode, model: Trainable, name: str) -> bool:
    """Whether a tensor belongs to learned prompts that this training leaves as they are."""
    part = name.rpartition(".")[0]
    if not part.endswith(_CLASS_PROMPTS):
        return False
    of_classifier = part != _CLASS_PROMPTS
    used = bool(cfg.MODEL.LOSSES) if of_classifier else cfg.MODEL.VOCABULARY.TEMPLATES == LEARNED
    return not (used and model.get_parameter(name).requires_grad)


def _classes(cfg: CfgNode) -> int:
    """How many the config trains on, 0 where the catalogue does not know: pairs, and what is registered elsewhere."""
    names = cfg.DATASETS.TRAIN
    return dataset(names[0]).num_classes if names and is_known(names[0]) else 0


def _check_prompts(cfg: CfgNode) -> None:
    """Refuses prompts that were learned on classes which the training data leave out as unseen.

    A released file does not say what its prompts were learned on; a checkpoint of ours has its config beside it.
    """
    given = [rule.file for rule in start_from(cfg) if any(part.endswith(_CLASS_PROMPTS) for part in rule.take)]
    names = cfg.DATASETS.TRAIN
    for file in given if names and is_known(names[0]) else ():
        beside = (Path(file) if Path(file).is_dir() else Path(file).parent) / "config.yaml"
        if not beside.is_file():
            continue
        row = dataset(names[0])
        learned_on = read_config_file(beside).get("DATASETS", {}).get("TRAIN", ())
        known = {as_clip_reads(name) for one in learned_on for name in class_names(one)}
        seen = set(row.labelled)
        for index, name in enumerate(row.classes.names()):
            if index not in seen and as_clip_reads(name) in known:
                raise UserError(
                    f"{file} holds prompts that were learned on {name!r}, which is unseen in {row.name}: learn them on "
                    f"{row.name}."
                )


def _device(name: str) -> torch.device:
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"MODEL.DEVICE is {name}, but PyTorch sees {torch.cuda.device_count()} GPUs here: use cpu.")
    return device


def _architecture(cfg: CfgNode) -> Any:
    return META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
