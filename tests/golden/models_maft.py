"""FreeSeg and MAFT as whole models: recorded training steps and predictions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone
from detectron2.structures import Instances
from torch import Tensor

from golden.case import GoldenCase, golden_case, official_name
from golden.clip import openai_clip, set_normalisation, vocabulary_encoder
from maft.checkpoint.key_map import load_strictly
from maft.checkpoint.official.released import convert_released, recognise
from maft.classifiers.ip_clip import IPCLIP
from maft.config_keys import add_maft_config
from maft.ensembles import ClassifierAlone, FreeSegEnsemble
from maft.interfaces import BuildContext
from maft.losses.mask_aware import MaskAwareLoss
from maft.losses.self_distillation import SelfDistillationLoss
from maft.registry import CLASSIFIERS, PROPOSERS
from maft.segmentor import OpenVocabSegmentor
from maft.structures import Vocabulary

_FREESEG_CLIP = {"MASK_CROP": True, "DROP_EMPTY": True, "TRAIN": "none"}


def _backbone_config(config: dict[str, Any]) -> Any:
    cfg = get_cfg()
    add_maft_config(cfg)
    recorded, options = config["backbone"], cfg.MODEL.RESNETS
    cfg.MODEL.BACKBONE.NAME = "build_resnet_deeplab_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    options.DEPTH = recorded["depth"]
    options.STEM_TYPE = config["stem_type"]
    options.STEM_OUT_CHANNELS = recorded["stem_out_channels"]
    options.WIDTH_PER_GROUP = recorded["width_per_group"]
    options.RES2_OUT_CHANNELS = recorded["res2_out_channels"]
    options.RES5_MULTI_GRID = recorded["res5_multi_grid"]
    options.RES4_DILATION = config["res4_dilation"]
    options.RES5_DILATION = config["res5_dilation"]
    options.STRIDE_IN_1X1 = config["stride_in_1x1"]
    options.NORM = config["backbone_norm"]
    options.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    return cfg


def _build(case: GoldenCase, *, stage: int) -> OpenVocabSegmentor:
    """The recorded model; stage 1 is FreeSeg with its frozen CLIP branch, stage 2 is MAFT."""
    config = case.config
    weights = case.weights
    clip = set_normalisation(openai_clip(config["clip"], case.device), config, "clip_pixel_mean", "clip_pixel_std")
    layers = _decoder_layers(weights)
    context = BuildContext(clip, len(config["class_names"]), lambda: build_backbone(_backbone_config(config)))
    proposer = PROPOSERS.build(
        "FreeSeg",
        {
            "NUM_QUERIES": config["num_queries"],
            "HIDDEN_DIM": config["hidden_dim"],
            "HEADS": config["nheads"],
            "FEEDFORWARD_DIM": config["dim_feedforward"],
            "ENCODER_LAYERS": config["pd_enc_layers"],
            "ENCODER_POINTS": config["pd_n_points"],
            "ENCODER_FEEDFORWARD_DIM": config["pd_dim_feedforward"],
            "DECODER_LAYERS": layers,
            # The official criterion weighs one auxiliary prediction less than DEC_LAYERS, however many there are.
            "SUPERVISE_LAST_AUXILIARY": layers < config["dec_layers"],
            "EMBEDDING_HIDDEN_DIM": config["embed_hidden_dim"],
            "EMBEDDING_LAYERS": config["embed_layers"],
            "INTERACTION_DIM": config["interaction_embed_dim"],
            "INTERACTION_HEADS": config["interaction_num_heads"],
            # Losses were recorded without dropout, whose random numbers no two codes share.
            "DROPOUT": 0.0,
            "CLASS_WEIGHT": config["class_weight"],
            "MASK_WEIGHT": config["mask_weight"],
            "DICE_WEIGHT": config["dice_weight"],
            "VOID_WEIGHT": config["no_object_weight"],
            "PIXEL_MEAN": config["pixel_mean"],
            "PIXEL_STD": config["pixel_std"],
        },
        context,
    )
    proposer.size_divisibility = config["size_divisibility"]
    options = {"START_LAYER": config["start_layers"], "INPUT_SIZE": config["clip_input_size"]}
    classifier = CLASSIFIERS.build("IPCLIP", options if stage == 2 else {**options, **_FREESEG_CLIP}, context)
    losses = {}
    if stage == 2:
        losses = {"ma": MaskAwareLoss(weight=1.0), "dis": SelfDistillationLoss(weight=config["dis_weight"])}
    flags = tuple(bool(flag) for flag in config["trainable_flag"])
    model = OpenVocabSegmentor(
        clip=clip,
        vocabulary_encoder=vocabulary_encoder(
            clip, "vild", torch.zeros(1, clip.embed_dim), logit_scale=config.get("logit_scale", 100.0)
        ),
        proposer=proposer,
        classifier=classifier,
        ensemble=ClassifierAlone(),
        losses=losses,
        freeze_proposer=stage == 2,
        freeze_classifier=stage == 1,
        inference={
            "semantic": True, "panoptic": False, "instance": False,
            "resize_before": False, "labels_only": False, "seen_penalty": 0.0, "best_masks_above": 0.0,
        },
        vocabulary=Vocabulary(tuple(config["class_names"]), flags),
    ).to(case.device)  # fmt: skip
    release = recognise(weights)
    assert release == {1: "FreeSeg", 2: "MAFT"}[stage], f"the recorded weights were recognised as {release}"
    load_strictly(model, convert_released(weights, release, case.name), case.name)
    return model


def _decoder_layers(weights: Mapping[str, Tensor]) -> int:
    """Counted, for two recordings of one dec_layers have different numbers of layers."""
    found = (re.match(r"sem_seg_head\.predictor\.transformer_ffn_layers\.(\d+)\.", name) for name in weights)
    return 1 + max(int(layer[1]) for layer in found if layer)


def _inputs(case: GoldenCase) -> list[dict[str, Any]]:
    inputs, items = case.inputs, []
    for index, (height, width) in enumerate(case.config["output_sizes"]):
        image = inputs[f"image_{index}"]
        instances = Instances(tuple(image.shape[-2:]))
        instances.gt_classes = inputs[f"gt_classes_{index}"].long()
        instances.gt_masks = inputs[f"gt_masks_{index}"].bool()
        items.append({"image": image, "height": height, "width": width, "instances": instances})
    return items


def _score_maps(model: OpenVocabSegmentor, items: list[dict[str, Any]], name: str) -> dict[str, Tensor]:
    model.eval()
    return {f"{name}/image_{index}": result["sem_seg"] for index, result in enumerate(model(items))}


def _gradients(model: OpenVocabSegmentor, case: GoldenCase, release: str) -> dict[str, Tensor]:
    """Gradients of the recorded parameters, found through the same key map as the weights."""
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    wanted = [name.removeprefix("grad/") for name in case.outputs if name.startswith("grad/")]
    return {f"grad/{name}": gradients[str(official_name(name, release))] for name in wanted}


@golden_case("maft", "freeseg_model")
def freeseg_model(case: GoldenCase) -> dict[str, Tensor]:
    model, items = _build(case, stage=1), _inputs(case)
    flagged = model.vocabulary
    outputs: dict[str, Tensor] = {}
    for weight in case.config["clip_ensemble_weights"]:
        model.ensemble = FreeSegEnsemble(weight=weight)
        model.set_vocabulary(flagged)
        outputs |= _score_maps(model, items, f"sem_seg_w{weight}")
        model.set_vocabulary(Vocabulary(flagged.names))
        outputs |= _score_maps(model, items, f"sem_seg_w{weight}_noflag")
    model.train()
    losses = model(items)
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    outputs |= {f"train/{name}": value.detach().reshape(1) for name, value in {**losses, "total": total}.items()}
    return outputs | _gradients(model, case, "FreeSeg")


@golden_case("maft", "maft_model")
def maft_model(case: GoldenCase) -> dict[str, Tensor]:
    model, items = _build(case, stage=2), _inputs(case)
    outputs = _score_maps(model, items, "sem_seg_w0.0")
    outputs |= _score_maps(model, items[:1], "sem_seg_w0.0_single")
    # What the official code would do with an ensemble if it did not crash on it; the papers' zero-shot tables have one.
    released, classifier = model.ensemble, cast(IPCLIP, model.classifier)
    classifier.drop_empty = True
    for name in sorted({name.split("/")[0] for name in case.group("unofficial")}):
        model.ensemble = FreeSegEnsemble(weight=float(name.removeprefix("sem_seg_w")))
        outputs |= _score_maps(model, items, f"unofficial/{name}")
    model.ensemble, classifier.drop_empty = released, False
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    expected = {str(official_name(name, "MAFT")) for name in case.record["trainable_parameters"]}
    trainable.discard("vocabulary_encoder.void_embedding")
    assert trainable == expected, f"trainable parameters differ: {sorted(trainable ^ expected)[:4]}"
    model.train()
    losses = model(items)
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    outputs["train/ma_loss"] = losses["loss_mask_aware"].detach().reshape(1)
    outputs["train/dis_loss"] = losses["loss_self_distillation"].detach().reshape(1)
    outputs["train/total"] = total.detach().reshape(1)
    return outputs | _gradients(model, case, "MAFT")
