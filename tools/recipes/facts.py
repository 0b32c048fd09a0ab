"""What a config says of training and evaluation, in the words of ``official.yaml``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from detectron2.config import CfgNode

from maft.clip.vocabulary import prompt_templates
from maft.data.catalog import dataset
from maft.engine.solver import learning_rate_factor
from maft.errors import UserError
from maft.registry import CLASSIFIERS, ENSEMBLES, LOSSES, PROPOSERS, Registry

PAIRS = "pairs:"
_REGISTRIES: dict[str, Registry[Any]] = {
    "PROPOSER": PROPOSERS,
    "CLASSIFIER": CLASSIFIERS,
    "ENSEMBLE": ENSEMBLES,
    "LOSSES": LOSSES,
}


def schedule(cfg: CfgNode) -> str:
    """How the rate falls, and its warm-up."""
    solver = cfg.SOLVER
    if solver.LR_SCHEDULER_NAME == "WarmupThenCosineLR":
        return f"cosine after {solver.WARMUP_ITERS} iterations of warm-up"
    falls = {
        "WarmupPolyLR": f"poly {solver.POLY_POWER}",
        "WarmupMultiStepLR": f"x{solver.GAMMA} at {', '.join(map(str, solver.STEPS))}",
        "WarmupCosineLR": "cosine",
    }.get(solver.LR_SCHEDULER_NAME, solver.LR_SCHEDULER_NAME)
    if not solver.WARMUP_ITERS:
        return falls
    return f"{falls}, {solver.WARMUP_METHOD} warm-up {solver.WARMUP_ITERS} from x{solver.WARMUP_FACTOR}"


def backbone_rate(cfg: CfgNode) -> float:
    """The rate of the proposer's backbone, which is CLIP's trunk where the proposer reads CLIP's features."""
    proposer = cfg.MODEL.PROPOSER
    is_clip = proposer.get(proposer.NAME, {}).get("BACKBONE") == "clip"
    name = "clip.model.visual.weight" if is_clip else "proposer.backbone.weight"
    return cfg.SOLVER.BASE_LR * learning_rate_factor(name, cfg.SOLVER)


def tower_rate(cfg: CfgNode, name: str) -> float:
    """The rate of one of CLIP's towers, by the name of a part of it."""
    return cfg.SOLVER.BASE_LR * learning_rate_factor(f"clip.model.{name}.weight", cfg.SOLVER)


def gradient_norm(cfg: CfgNode) -> float | str:
    """What the joint norm of all gradients is clipped to."""
    clip = cfg.SOLVER.CLIP_GRADIENTS
    return clip.CLIP_VALUE if clip.ENABLED and clip.CLIP_TYPE == "full_model" else "none"


def training_sizes(cfg: CfgNode) -> dict[str, Any]:
    """Shortest and longest sides that training images are resized to, or their large-scale jitter."""
    if (jitter := cfg.INPUT.LARGE_SCALE_JITTER).SIZE:
        return {"jitter": jitter.SIZE, "scale": jitter.SCALE}
    return {"shortest": cfg.INPUT.MIN_SIZE_TRAIN, "longest": cfg.INPUT.MAX_SIZE_TRAIN}


def crop(cfg: CfgNode) -> int | str:
    """Side of the square crop; one that is no square is written out."""
    if cfg.INPUT.LARGE_SCALE_JITTER.SIZE:
        return cfg.INPUT.LARGE_SCALE_JITTER.SIZE
    if not cfg.INPUT.CROP.ENABLED:
        return "none"
    height, width = cfg.INPUT.CROP.SIZE
    return height if height == width else f"{height} x {width}"


def training_classes(cfg: CfgNode) -> dict[str, int]:
    """Number of classes of every dataset trained on; tables of regions have nouns and no classes."""
    return _classes(name for name in cfg.DATASETS.TRAIN if not name.startswith(PAIRS))


def test_classes(cfg: CfgNode) -> dict[str, int]:
    """Number of classes of every dataset evaluated on."""
    return _classes(cfg.DATASETS.TEST)


def _classes(names: Any) -> dict[str, int]:
    return {row.name: row.num_classes for row in map(dataset, names)}


def templates(cfg: CfgNode) -> tuple[str, ...]:
    """Prompt templates of the class names in training, none where nouns are encoded as they stand in a table."""
    if cfg.MODEL.META_ARCHITECTURE == "RegionCLIP":
        return (cfg.INPUT.REGIONS.TEMPLATE,) if cfg.INPUT.REGIONS.TEMPLATE else ()
    return prompt_templates(cfg.MODEL.VOCABULARY.TEMPLATES)


def test_templates(cfg: CfgNode) -> tuple[str, ...]:
    """Those in evaluation."""
    names = cfg.MODEL.VOCABULARY
    return prompt_templates(names.TEST_TEMPLATES or names.TEMPLATES)


def classifier_templates(cfg: CfgNode) -> tuple[str, ...]:
    """Those that the mask classifier compares its regions with."""
    names = cfg.MODEL.VOCABULARY
    return prompt_templates(names.CLASSIFIER_TEMPLATES or names.TEST_TEMPLATES or names.TEMPLATES)


FACTS: Mapping[str, Callable[[CfgNode], Any]] = {
    "batch": lambda cfg: cfg.SOLVER.IMS_PER_BATCH,
    "iterations": lambda cfg: cfg.SOLVER.MAX_ITER,
    "rate": lambda cfg: cfg.SOLVER.BASE_LR,
    "backbone rate": backbone_rate,
    "image tower rate": lambda cfg: tower_rate(cfg, "visual"),
    "text tower rate": lambda cfg: tower_rate(cfg, "text"),
    "schedule": schedule,
    "decay": lambda cfg: cfg.SOLVER.WEIGHT_DECAY,
    "gradient norm": gradient_norm,
    "training sizes": training_sizes,
    "crop": crop,
    "padding": lambda cfg: cfg.INPUT.PADDED_SIZE,
    "test size": lambda cfg: [cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST],
    "templates": templates,
    "test templates": test_templates,
    "classifier templates": classifier_templates,
    "training classes": training_classes,
    "test classes": test_classes,
}


def fact(cfg: CfgNode, name: str) -> Any:
    """A fact by its name in FACTS, or by a config key; options that a config leaves out have their default.

    Returns:
        the value, or "none" where the key is an option of a component that the config does not use.

    Raises:
        UserError: there is no such fact or key.
    """
    if name in FACTS:
        return FACTS[name](cfg)
    *groups, key = name.split(".")
    node: Any = cfg
    try:
        if len(groups) == 3 and groups[1] in _REGISTRIES:
            registry, component = _REGISTRIES[groups[1]], groups[2]
            default, chosen = registry.options(component)[key].default, cfg.MODEL[groups[1]]
            used = component in chosen if groups[1] == "LOSSES" else component == chosen.NAME
            return chosen.get(component, {}).get(key, default) if used else "none"
        for group in (*groups, key):
            node = node[group]
        return node
    except (KeyError, TypeError):
        raise UserError(f"{name} is neither a config key nor one of: {', '.join(FACTS)}.") from None
