"""What each shared config key may be: types and ranges, checked by pydantic when the config is read.

Component options say it in their constructors; these keys belong to no component.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Annotated, Any, Literal

from detectron2.config import CfgNode
from pydantic import Field

from maft.errors import UserError, shown
from maft.options import (
    REQUIRED,
    AboveZero,
    Channels,
    Fraction,
    NonNegative,
    Norm,
    Option,
    Positive,
    PositiveLayers,
    Weight,
)

_Side = Annotated[int, Field(ge=1, le=100_000)]
_Text = Annotated[str, Field(min_length=1)]
_Scale = Annotated[float, Field(gt=0, le=100)]
_Stage = Literal["stem", "res2", "res3", "res4", "res5"]
_Features = Annotated[tuple[_Text, ...], Field(min_length=1)]
_Vectors = Annotated[int, Field(ge=0, le=1024)]
_NameAndFactor = tuple[tuple[str, Weight], ...]

_DEVICE = re.compile(r"cpu|cuda(:\d{1,3})?")

_TYPES: dict[str, Any] = {
    "OUTPUT_DIR": _Text,
    # NumPy's generators take seeds of 32 bits; a negative one asks for a random one.
    "SEED": Annotated[int, Field(ge=-(2**31), lt=2**31)],
    "IMPORTS": tuple[_Text, ...],
    "MODEL.DEVICE": _Text,
    "MODEL.META_ARCHITECTURE": Literal["OpenVocabSegmentor", "RegionCLIP", "PromptLearning"],
    "MODEL.CLIP.NAME": _Text,
    "MODEL.VOCABULARY.CLASS_NAMES": Literal["plain", "maft", "ovseg", "fcclip", "zegformer"],
    "MODEL.VOCABULARY.PROMPTS.PREFIX": _Vectors,
    "MODEL.VOCABULARY.PROMPTS.SUFFIX": _Vectors,
    "MODEL.VOCABULARY.PROMPTS.TASK": _Vectors,
    "MODEL.VOCABULARY.PROMPTS.TASKS": tuple[_Text, ...],
    "MODEL.VOCABULARY.SYNONYMS": Literal["whole", "average", "max"],
    "MODEL.VOCABULARY.SEEN": Literal["split", "overlap", "none"],
    "MODEL.BACKBONE.NAME": _Text,
    "MODEL.BACKBONE.FREEZE_AT": NonNegative,
    "MODEL.RESNETS.DEPTH": Literal[18, 34, 50, 101, 152],
    "MODEL.RESNETS.OUT_FEATURES": Annotated[tuple[_Stage, ...], Field(min_length=1)],
    "MODEL.RESNETS.NUM_GROUPS": Channels,
    "MODEL.RESNETS.WIDTH_PER_GROUP": Channels,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": Channels,
    "MODEL.RESNETS.STEM_OUT_CHANNELS": Channels,
    "MODEL.RESNETS.STEM_TYPE": Literal["basic", "deeplab"],
    "MODEL.RESNETS.NORM": Norm,
    "MODEL.RESNETS.RES4_DILATION": Literal[1, 2],
    "MODEL.RESNETS.RES5_DILATION": Literal[1, 2, 4],
    "MODEL.RESNETS.RES5_MULTI_GRID": tuple[Positive, Positive, Positive],
    "MODEL.RESNETS.DEFORM_ON_PER_STAGE": tuple[bool, bool, bool, bool],
    "MODEL.RESNETS.DEFORM_NUM_GROUPS": Channels,
    "MODEL.SWIN.EMBED_DIM": Channels,
    "MODEL.FPN.OUT_CHANNELS": Channels,
    "MODEL.FPN.NORM": Norm,
    "MODEL.FPN.FUSE_TYPE": Literal["sum", "avg"],
    "MODEL.SWIN.DEPTHS": Annotated[tuple[PositiveLayers, ...], Field(min_length=1)],
    "MODEL.SWIN.NUM_HEADS": Annotated[tuple[Channels, ...], Field(min_length=1)],
    "MODEL.SWIN.WINDOW_SIZE": Annotated[int, Field(ge=1, le=1024)],
    "MODEL.SWIN.PATCH_SIZE": Annotated[int, Field(ge=1, le=1024)],
    "MODEL.SWIN.MLP_RATIO": Annotated[float, Field(gt=0, le=64)],
    "MODEL.SWIN.PRETRAIN_IMG_SIZE": Annotated[int, Field(ge=1, le=8192)],
    "MODEL.SWIN.DROP_PATH_RATE": Annotated[float, Field(ge=0, lt=1)],
    "MODEL.SWIN.OUT_FEATURES": _Features,
    "MODEL.CLASSIFIER.LOGIT_SCALE": Annotated[float, Field(gt=0, le=10_000)],
    "MODEL.PROMPT_LEARNING.FILL": Literal["mean", "mean_value"],
    "MODEL.REGION_CLIP.TRAIN": Literal["tower", "prompts", "all"],
    "MODEL.REGION_CLIP.MASK_PROMPT_DEPTH": NonNegative,
    "MODEL.INFERENCE.SEEN_PENALTY": Weight,
    "MODEL.INFERENCE.BEST_MASKS_ABOVE": Fraction,
    "MODEL.INFERENCE.BACKGROUND_BELOW": Fraction,
    "MODEL.INFERENCE.OBJECT_MASK_THRESHOLD": Fraction,
    "MODEL.INFERENCE.OVERLAP_THRESHOLD": Fraction,
    "MODEL.INFERENCE.MAX_INSTANCES": Positive,
    "INPUT.FORMAT": Literal["RGB", "BGR"],
    "INPUT.MAPPER": Literal["semantic", "panoptic", "region_pairs", "class_regions"],
    "INPUT.MIN_SIZE_TRAIN": Annotated[tuple[_Side, ...], Field(min_length=1)],
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": Literal["choice", "range"],
    "INPUT.MAX_SIZE_TRAIN": _Side,
    "INPUT.MIN_SIZE_TEST": _Side,
    "INPUT.MAX_SIZE_TEST": _Side,
    "INPUT.PADDED_SIZE": Annotated[int, Field(ge=0, le=100_000)],
    "INPUT.RANDOM_FLIP": Literal["none", "horizontal", "vertical"],
    "INPUT.LABEL_RESIZE": Literal["pillow", "torch"],
    "INPUT.CROP.TYPE": Literal["relative_range", "relative", "absolute", "absolute_range"],
    "INPUT.CROP.SIZE": tuple[AboveZero, AboveZero],
    "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA": Annotated[float, Field(gt=0, le=1)],
    "INPUT.REGIONS.SIZE": Annotated[int, Field(ge=1, le=8192)],
    "INPUT.REGIONS.HEIGHT": Annotated[int, Field(ge=0, le=8192)],
    "INPUT.REGIONS.SAMPLES_PER_CLASS": NonNegative,
    "INPUT.REGIONS.MASK": Literal["alpha", "colour"],
    "INPUT.LARGE_SCALE_JITTER.SIZE": Annotated[int, Field(ge=0, le=100_000)],
    "INPUT.LARGE_SCALE_JITTER.SCALE": tuple[_Scale, _Scale],
    "DATASETS.TRAIN": tuple[_Text, ...],
    "DATASETS.TEST": tuple[_Text, ...],
    "DATALOADER.NUM_WORKERS": Annotated[int, Field(ge=0, le=1024)],
    "DATALOADER.SAMPLER_TRAIN": Literal["TrainingSampler"],
    "TRACKERS.NAMES": tuple[Literal["wandb", "mlflow", "trackio"], ...],
    "TRACKERS.PROJECT": _Text,
    "SOLVER.OPTIMIZER": Literal["ADAMW", "SGD"],
    "SOLVER.BASE_LR": Weight,
    "SOLVER.LR_SCHEDULER_NAME": Literal[
        "WarmupPolyLR", "WarmupThenCosineLR", "WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR"
    ],
    "SOLVER.BETAS": tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]],
    "SOLVER.EPS": AboveZero,
    "SOLVER.MOMENTUM": Annotated[float, Field(ge=0, lt=1)],
    "SOLVER.WEIGHT_DECAY": Weight,
    "SOLVER.WEIGHT_DECAY_NORM": Weight,
    "SOLVER.WEIGHT_DECAY_EMBED": Weight,
    "SOLVER.WEIGHT_DECAY_BIAS": Weight | None,
    "SOLVER.BIAS_LR_FACTOR": Weight | None,
    "SOLVER.LR_MULTIPLIERS": _NameAndFactor,
    "SOLVER.WEIGHT_DECAY_OVERRIDES": _NameAndFactor,
    "SOLVER.MAX_ITER": Positive,
    "SOLVER.IMS_PER_BATCH": Positive,
    "SOLVER.ACCUMULATE": Positive,
    "SOLVER.POLY_POWER": Weight,
    "SOLVER.END_FACTOR": Fraction,
    "SOLVER.GAMMA": AboveZero,
    "SOLVER.STEPS": tuple[Positive, ...],
    "SOLVER.NUM_DECAYS": Positive,
    "SOLVER.BASE_LR_END": Weight,
    "SOLVER.WARMUP_FACTOR": Fraction,
    "SOLVER.WARMUP_ITERS": NonNegative,
    "SOLVER.WARMUP_METHOD": Literal["linear", "constant"],
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": Literal["full_model", "norm", "value"],
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": AboveZero,
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": AboveZero,
    "SOLVER.AMP.DTYPE": Literal["float16", "bfloat16"],
    "SOLVER.TF32": bool | None,
    "SOLVER.FUSED": bool | None,
    "SOLVER.COMPILE": tuple[_Text, ...],
    "SOLVER.ACTIVATION_CHECKPOINTING": tuple[_Text, ...],
    "SOLVER.CHECKPOINT_PERIOD": NonNegative,
    "SOLVER.KEEP_CHECKPOINTS": NonNegative,
    "SOLVER.LOG_PERIOD": Positive,
    "SOLVER.PICTURE_PERIOD": NonNegative,
    "TEST.EVAL_PERIOD": NonNegative,
    "TEST.AUG.MIN_SIZES": Annotated[tuple[_Side, ...], Field(min_length=1)],
    "TEST.AUG.MAX_SIZE": _Side,
    "TEST.SLIDING_WINDOW.TILE_SIZE": _Side,
    "TEST.SLIDING_WINDOW.OVERLAP": Annotated[float, Field(ge=0, le=0.9)],
    "TEST.VISUALIZE": NonNegative,
    "TEST.PROTOCOL": Literal["generalized", "unseen_only"],
    "TEST.PANOPTIC_RULE": Literal["panopticapi", "pixels"],
    "TEST.EXPECTED": tuple[tuple[_Text, _Text, float], ...],
    "TEST.DEVIATIONS": tuple[tuple[_Text, _Text], ...],
}  # fmt: skip


def check_values(cfg: CfgNode, defaults: CfgNode, prefix: str = "") -> None:
    """Checks the value of every shared key of a config.

    Args:
        defaults: a config with all shared keys; those that it lacks are options of components.

    Raises:
        UserError: one of them is empty, of another type or out of range.
    """
    for name, default in defaults.items():
        key, value = f"{prefix}{name}", cfg[name]
        if isinstance(default, CfgNode):
            check_values(value, default, f"{key}.")
        elif key in _TYPES:
            Option(key, _TYPES[key], REQUIRED).checked(value, key)
        elif value is None and default is not None:
            raise UserError(f"{key} has no value: leave the key out for its default, {default!r}.")


def check_together(cfg: CfgNode) -> None:
    """Checks values that only go together in some ways.

    Raises:
        UserError: two of them contradict each other.
    """
    solver, sizes, crop = cfg.SOLVER, cfg.INPUT, cfg.INPUT.CROP
    if not _DEVICE.fullmatch(cfg.MODEL.DEVICE):
        raise UserError(f"MODEL.DEVICE is {shown(cfg.MODEL.DEVICE)}: use cuda, cuda:0 (or another number) or cpu.")
    if any(later <= earlier for earlier, later in pairwise(solver.STEPS)):
        raise UserError(f"SOLVER.STEPS is {list(solver.STEPS)}, but each step must come after the one before it.")
    if solver.LR_SCHEDULER_NAME == "WarmupCosineLR" and solver.BASE_LR_END > solver.BASE_LR:
        raise UserError(f"SOLVER.BASE_LR_END is {solver.BASE_LR_END}, above SOLVER.BASE_LR, {solver.BASE_LR}.")
    if solver.NESTEROV and solver.OPTIMIZER == "SGD" and not solver.MOMENTUM:
        raise UserError("SOLVER.NESTEROV needs a momentum: set SOLVER.MOMENTUM above 0.")
    shortest = sizes.MIN_SIZE_TRAIN
    if sizes.MIN_SIZE_TRAIN_SAMPLING == "range" and (len(shortest) != 2 or shortest[0] > shortest[1]):
        raise UserError(
            f"INPUT.MIN_SIZE_TRAIN is {list(shortest)}, but INPUT.MIN_SIZE_TRAIN_SAMPLING range takes two sizes, the "
            "smaller one first."
        )
    copies = cfg.TEST.AUG
    if copies.ENABLED and (longest := max(copies.MIN_SIZES)) > copies.MAX_SIZE:
        raise UserError(f"TEST.AUG.MIN_SIZES holds {longest}, above TEST.AUG.MAX_SIZE, {copies.MAX_SIZE}: raise it.")
    scale = sizes.LARGE_SCALE_JITTER.SCALE
    if scale[0] > scale[1]:
        raise UserError(f"INPUT.LARGE_SCALE_JITTER.SCALE is {list(scale)}, but the smaller one comes first.")
    if crop.ENABLED and crop.TYPE.startswith("relative") and max(crop.SIZE) > 1:
        raise UserError(f"INPUT.CROP.SIZE is {list(crop.SIZE)}, but INPUT.CROP.TYPE {crop.TYPE} takes shares up to 1.")
    if crop.ENABLED and crop.TYPE.startswith("absolute") and any(side != int(side) for side in crop.SIZE):
        raise UserError(f"INPUT.CROP.SIZE is {list(crop.SIZE)}, but INPUT.CROP.TYPE {crop.TYPE} takes whole pixels.")
