"""Recorded training steps of MaskCLIP++, its optimiser's groups and its schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor

from golden.case import GoldenCase, golden_case, official_name
from golden.engine import _rates
from golden.engine import _solver as _solver_of
from golden.maskclippp import check_trainable, recorded_classifier, recorded_clip, recorded_options, recorded_similarity
from maft.checkpoint.official.released import recognise
from maft.classifiers.mask_clip_pp import MaskCLIPpp
from maft.engine.solver import build_optimizer, clip_gradients, parameter_groups
from maft.interfaces import TrainingStep
from maft.losses.balanced_cross_entropy import BalancedCrossEntropyLoss
from maft.matching import ground_truth_proposals
from maft.structures import Images, Targets, TextClassifier, Vocabulary


def _options(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a training of the recorded model adds to the options of its tower."""
    text = config["text_finetune"]
    if text == "attention" and config["clip"]["family"].startswith("eva"):
        text = "attention_mlp_norms"
    dropout = config["psm"].get("ATTENTION_PROBS_DROPOUT_PROB", 0.0)
    return {**recorded_similarity(config), "train_text": text, "similarity_dropout": dropout}


def _solver(config: Mapping[str, Any], **more: Any) -> CfgNode:
    """Our solver for the recorded rates and decay."""
    # EVA's text tower is the only one that trains, and has a node of its own.
    parts = {"clip.model.visual.": "VISUAL_ENCODER_MULTIPLIER", "clip.model.text.": "TEXT_ENCODER_MULTIPLIER"}
    multipliers = [[part, config[key]] for part, key in parts.items()]
    return _solver_of(
        BASE_LR=config["BASE_LR"],
        WEIGHT_DECAY=config["WEIGHT_DECAY"],
        LR_MULTIPLIERS=multipliers,
        WEIGHT_DECAY_OVERRIDES=[["trunk.pos_embed", 0.0], ["text.positional_embedding", 0.0]],
        **more,
    )


@golden_case(
    "maskclippp", "train_step_eva_text", "train_step_eva_text_single", "train_step_convnext", "train_step_resnet"
)
def training_step(case: GoldenCase) -> dict[str, Tensor]:
    config, recorded = case.config, case.record["outputs_json"]
    release = str(recognise(case.weights))
    classifier = recorded_classifier(case, **_options(config))
    check_trainable(classifier, recorded["trainable"], release)
    trained = set(classifier.trainable_parameters())
    for parameter in classifier.parameters():
        parameter.requires_grad_(parameter in trained)
    # A CLIP of which nothing trains stays in eval mode.
    classifier.train()

    (loss,) = BalancedCrossEntropyLoss(count_empty=config["clip"]["family"] == "convnext")(
        _step(case, classifier)
    ).values()
    loss.backward()
    ours = {name: str(official_name(name, release)).removeprefix("classifier.") for name in recorded["trainable"]}
    gradients = {name: classifier.get_parameter(own).grad for name, own in ours.items()}
    outputs = {"loss": loss}
    outputs |= {f"grad/{name}": gradient for name, gradient in gradients.items() if gradient is not None}
    outputs["grad_norms"] = torch.stack([outputs[f"grad/{name}"].norm() for name in recorded["grad_norm_names"]])

    cfg = _solver(config["solver"])
    cfg.SOLVER.CLIP_GRADIENTS.update(ENABLED=True, CLIP_TYPE="full_model", CLIP_VALUE=config["solver"]["CLIP_VALUE"])
    optimizer = build_optimizer(cfg, classifier)
    _check_groups(optimizer.param_groups, recorded["lr_wd"], release)
    # Clipping scales gradients in place.
    outputs = {name: value.detach().clone() for name, value in outputs.items()}
    norm = clip_gradients(trained, cfg.SOLVER.CLIP_GRADIENTS)
    assert norm is not None
    outputs["total_grad_norm"] = norm
    optimizer.step()
    outputs |= {f"updated/{name}": classifier.get_parameter(own) for name, own in ours.items()}
    for name in case.outputs:
        kind, _, module = name.partition("/")
        if kind.startswith("running_"):
            own = str(official_name(f"visual_encoder.proxy.{module}.{kind}", release)).removeprefix("classifier.")
            outputs[name] = classifier.get_buffer(own)
    return {name: value for name, value in outputs.items() if name in case.outputs}


def _step(case: GoldenCase, classifier: MaskCLIPpp) -> TrainingStep:
    """The recorded batch, with the recorded synonyms, through the classifier."""
    inputs = case.inputs
    numbers = range(sum(name.startswith("image/") for name in inputs))
    images = Images.from_list([inputs[f"image/{index}"] for index in numbers], 1)
    targets = []
    for index, (height, width) in zip(numbers, images.sizes):
        padding = (0, images.padded_size[1] - width, 0, images.padded_size[0] - height)
        masks = F.pad(inputs[f"gt_masks/{index}"], padding)
        targets.append(Targets(inputs[f"gt_classes/{index}"], masks))
    names = Vocabulary(tuple(case.config["train_classes"]))
    text = TextClassifier(
        images.pixels.new_zeros(0, 1),
        torch.zeros(0, dtype=torch.long),
        len(names),
        None,
        torch.zeros(len(names)) > 0,
        vocabulary=names,
    )
    proposals = classifier.training_proposals(ground_truth_proposals(targets), targets)
    clip = classifier.clip
    assert clip is not None
    draws = iter([int(inputs[name]) for name in sorted(inputs) if name.startswith("rand/")])
    with mock.patch("random.randrange", lambda _: next(draws)):
        classification = classifier(images, proposals, text, clip)
    assert next(draws, None) is None, "fewer synonyms were drawn than recorded"
    return TrainingStep(images, text, proposals, classification, targets, classifier, clip)


@golden_case("maskclippp", "optimizer_eva_text", "optimizer_convnext", "optimizer_resnet")
def optimizer(case: GoldenCase) -> dict[str, Tensor]:
    """Every trainable parameter with its rate and decay, by official name, and the rates over the iterations."""
    config, recorded = case.config, case.record["outputs_json"]
    clip = recorded_clip(config["clip"], case.device)
    classifier = MaskCLIPpp(clip, clip, **{**recorded_options(config), **_options(config)})
    trained = set(classifier.trainable_parameters())
    for parameter in classifier.parameters():
        parameter.requires_grad_(parameter in trained)
    solver, same = config["SOLVER"], ("BASE_LR_END", "MAX_ITER", "LR_SCHEDULER_NAME", "WARMUP_ITERS")
    cfg = _solver(solver, **{key: solver[key] for key in (*same, "WEIGHT_DECAY_NORM", "WEIGHT_DECAY_EMBED")})
    _check_groups(
        parameter_groups(classifier, cfg.SOLVER), recorded["param_groups"], str(recognise(recorded["param_groups"]))
    )
    rates = _rates(cfg, recorded["iterations"]) / cfg.SOLVER.BASE_LR
    wanted = torch.tensor(recorded["lr_factor"], dtype=torch.float64)
    relative, absolute = case.tolerance("out/lr_factor")
    return {"lr_factor": torch.isclose(rates, wanted, rtol=relative, atol=absolute).long()}


def _check_groups(groups: list[dict[str, Any]], recorded: Mapping[str, list[float]], release: str) -> None:
    """Holds rate and decay of every parameter against those recorded under official names."""
    ours = {name: (group["lr"], group["weight_decay"]) for group in groups for name in group["names"]}
    theirs = {
        str(official_name(name, release)).removeprefix("classifier."): tuple(values)
        for name, values in recorded.items()
    }
    assert ours.keys() == theirs.keys(), f"other parameters are trained: {sorted(ours.keys() ^ theirs.keys())[:8]}"
    for name, values in theirs.items():
        for mine, wanted in zip(ours[name], values):
            assert math.isclose(mine, wanted, rel_tol=1e-9), f"{name}: {ours[name]}, not {values}"
