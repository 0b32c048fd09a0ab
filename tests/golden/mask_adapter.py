"""Mask pooling, Mask-Adapter's head, MAFT+'s text transfer and their losses against the official releases."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from golden.case import GoldenCase, golden_case
from maft.checkpoint.key_map import load_strictly
from maft.checkpoint.official.released import key_map
from maft.classifiers.maft_plus import ContentDependentTransfer, Form
from maft.classifiers.mask_adapter import MaskAdapterHead, pool_through_maps
from maft.classifiers.mask_pooling import MaskPooling
from maft.ensembles import geometric_ensemble
from maft.interfaces import TrainingStep
from maft.layers.mask_pool import mask_pool
from maft.losses.mask_aware import mask_aware_loss
from maft.losses.mask_consistency import MaskConsistencyLoss
from maft.losses.mask_cross_entropy import mask_cross_entropy
from maft.losses.representation_compensation import representation_compensation_loss
from maft.structures import Classification, Proposals, Targets, TextClassifier


def text_classifier(rows: Tensor, void: Tensor, synonyms: list[int]) -> TextClassifier:
    """Texts (T, D) with a void row, ``synonyms`` of them for each class."""
    counts = torch.tensor(synonyms, device=rows.device)
    classes = torch.arange(len(counts), device=rows.device)
    return TextClassifier(rows, classes.repeat_interleave(counts), len(counts), void, classes >= 0)


def _proposals(masks: Tensor) -> Proposals:
    return Proposals(masks, (4 * masks.shape[-2], 4 * masks.shape[-1]))


def _scale(case: GoldenCase) -> Tensor:
    return case.inputs["logit_scale"].exp().clamp(max=case.config.get("logit_scale_exp_max", 100))


@golden_case("maskadapter", "mask_pooling")
def mask_pooling(case: GoldenCase) -> dict[str, Tensor]:
    features = case.inputs["x"].requires_grad_()
    size = (features.shape[-2], features.shape[-1])

    def pool(masks: str) -> Tensor:
        return mask_pool(features, MaskPooling.inside(_proposals(case.inputs[masks]), size))

    pooled = pool("mask_logits")
    (pooled * case.inputs["cotangent"]).sum().backward()
    assert features.grad is not None
    with torch.no_grad():
        same_size = pool("mask_logits_same_size")
    return {"pooled": pooled.detach(), "pooled_same_size": same_size, "grad/x": features.grad}


@golden_case("maskadapter", "mask_adapter_head")
def mask_adapter_head(case: GoldenCase) -> dict[str, Tensor]:
    inputs, weights = case.inputs, case.weights
    head = MaskAdapterHead(**head_sizes(weights)).to(case.device)
    names = key_map("mask_adapter_head")
    load_strictly(head, names.convert(weights, case.name), case.name)
    dense, projected = inputs["clip_vis_dense"], inputs["clip_vis_dense_projected"]
    outputs = {}
    with torch.no_grad():
        maps = head(projected, inputs["binary_masks"])
        outputs["maps_binary"] = maps.flatten(1, 2)
        outputs["pooled_binary"] = pool_through_maps(maps, dense).mean(2)
        outputs["maps_soft"] = head(projected, inputs["soft_masks"]).flatten(1, 2)
    pooled = pool_through_maps(head(projected, inputs["soft_masks"]), dense).mean(2)
    (pooled * inputs["cotangent"]).sum().backward()
    outputs["pooled_soft"] = pooled.detach()
    parameters = dict(head.named_parameters())
    for name in case.group("out/grad"):
        gradient = parameters[names.rename(name) or ""].grad
        assert gradient is not None, name
        outputs[f"grad/{name}"] = gradient
    return outputs


def head_sizes(weights: dict[str, Tensor]) -> dict[str, Any]:
    """Constructor arguments of the head whose official weights (without prefix) these are."""
    width, embed_dim = weights["fuse.weight"].shape[:2]
    return {
        "embed_dim": embed_dim,
        "channels": width,
        "mask_channels": weights["mask_downscaling.3.weight"].shape[0],
        "num_maps": weights["final.weight"].shape[0],
        "num_blocks": sum(name.endswith(".gamma") for name in weights),
    }


@golden_case("maskadapter", "geometric_ensemble")
@torch.no_grad()
def ensemble_of_maps(case: GoldenCase) -> dict[str, Tensor]:
    config, inputs = case.config, case.inputs
    maps = inputs["maps"].unflatten(1, (-1, config["num_output_maps"]))
    vectors = pool_through_maps(maps, inputs["clip_vis_dense"])
    embeddings = (vectors @ inputs["clip_projection"].T).mean(2)
    logits = _logits(case, embeddings)
    return {
        "pooled_embedding": embeddings,
        "out_vocab_logits": logits,
        "mask_cls": _ensemble(case, logits, config["alpha"], config["beta"]),
    }


@golden_case("maskadapter", "geometric_ensemble_fcclip")
@torch.no_grad()
def ensemble_of_pooled_masks(case: GoldenCase) -> dict[str, Tensor]:
    config, inputs = case.config, case.inputs
    dense = inputs["clip_vis_dense"]
    inside = MaskPooling.inside(_proposals(inputs["pred_masks"]), (dense.shape[-2], dense.shape[-1]))
    logits = _logits(case, mask_pool(dense, inside) @ inputs["clip_projection"].T)
    valid = inside.flatten(2).any(-1, keepdim=True)
    return {
        "mask_cls": _ensemble(case, logits, config["alpha"], config["beta"]),
        "mask_cls_valid": _ensemble(case, logits, config["alpha"] * valid, config["beta"] * valid),
    }


def _logits(case: GoldenCase, embeddings: Tensor) -> Tensor:
    void = F.normalize(case.inputs["void_embedding"], dim=-1)
    text = text_classifier(case.inputs["text_classifier"], void, case.config["num_templates"])
    return text.logits(embeddings, _scale(case))


def _ensemble(case: GoldenCase, logits: Tensor, alpha: Any, beta: Any) -> Tensor:
    seen = torch.tensor(case.config["overlap"], device=case.device).bool()
    return geometric_ensemble(case.inputs["in_vocab_logits"], logits[..., :-1], seen, alpha, beta)


@golden_case("maskadapter", "maftp_cdt")
def content_dependent_transfer(case: GoldenCase) -> dict[str, Tensor]:
    config, inputs = case.config, case.inputs
    outputs: dict[str, Any] = {}
    names = key_map("text_transfer")
    forms: dict[str, Form] = {"semantic": "post_norm", "panoptic": "res_post_norm"}
    for part, form in forms.items():
        prefix = f"cdt_{part}."
        weights = {name.removeprefix(prefix): w for name, w in case.weights.items() if name.startswith(prefix)}
        transfer = ContentDependentTransfer(config["d_model"], config["nhead"], form=form).to(case.device)
        load_strictly(transfer, names.convert(weights, case.name), case.name)
        features = inputs["img_feat"].detach().clone().requires_grad_()
        rows = inputs["text_classifier"]
        text = transfer(text_classifier(rows[:-1], rows[-1:], config["num_templates"]), features)
        outputs[f"text_{part}"] = text.matrix.detach()
        outputs[f"logits_{part}"] = text.logits(inputs["query"], _scale(case)).detach()
        (text.matrix * inputs["cotangent"]).sum().backward()
        outputs[f"grad/img_feat_{part}"] = features.grad
        parameters = dict(transfer.named_parameters())
        outputs |= {f"grad/{prefix}{name}": parameters[names.rename(name) or ""].grad for name in weights}
    return outputs


@golden_case("maskadapter", "mask_consistency_loss")
def mask_consistency(case: GoldenCase) -> dict[str, Tensor]:
    config, inputs = case.config, case.inputs
    rows = inputs["text_classifier"]
    text = text_classifier(rows[:-1], rows[-1:], config["num_templates"])
    (start, stop), (target, _) = config["slice_pred"], config["slice_target"]
    slots = torch.arange(stop - start, device=case.device)
    outputs: dict[str, Tensor] = {}
    for name, detach in (("fcclip", True), ("maft", False)):
        pooled = inputs["pooled"].detach().clone().requires_grad_()
        logits = text.logits(pooled, _scale(case))
        cross_entropy = mask_cross_entropy(logits, inputs["labels"])
        term = MaskConsistencyLoss(weight=1.0, detach_target=detach, count_free_slots=True)
        consistency = _consistency(term, pooled, torch.stack([start + slots, target + slots], dim=1))
        (config["class_weight"] * cross_entropy + config["cos_weight"] * consistency).backward()
        assert pooled.grad is not None
        outputs[f"grad/pooled_{name}"] = pooled.grad
    ignored = mask_cross_entropy(logits.detach(), torch.full_like(inputs["labels"], -1))
    pairs = torch.stack([slots, len(slots) + slots], dim=1)
    # The recording clears all pairs but the first three, as free slots are.
    both = torch.cat([inputs[name].clone() for name in ("pooled_pred", "pooled_target")], dim=1)
    both[:, pairs[3:].flatten()] = 0
    return outputs | {
        "logits": logits.detach(),
        "loss_ce": cross_entropy.detach(),
        "loss_ce_all_ignored": ignored,
        "loss_cosine": consistency.detach(),
        "loss_cosine_with_zero_rows": _consistency(term, both, pairs),
    }


def _consistency(term: MaskConsistencyLoss, embeddings: Tensor, pairs: Tensor) -> Tensor:
    unused = cast(Any, None)
    labels = torch.zeros(embeddings.shape[:2], dtype=torch.int64, device=embeddings.device)
    proposals = Proposals(embeddings[..., None], (1, 1), labels=labels, pairs=pairs)
    step = TrainingStep(unused, unused, proposals, Classification(unused, embeddings), [], unused, unused)
    return term(step)["loss_mask_consistency"]


@golden_case("maskadapter", "maftp_ma_loss", "maftp_ma_loss_maskadapter_copy")
def maft_plus_mask_aware_loss(case: GoldenCase) -> dict[str, Tensor]:
    inputs = case.inputs
    targets = [
        Targets(inputs[f"gt_classes/{index}"], inputs[f"gt_masks/{index}"])
        for index in range(len(inputs["mask_logits"]))
    ]
    size = (targets[0].masks.shape[-2], targets[0].masks.shape[-1])
    logits = inputs["out_vocab_logits"].requires_grad_()
    loss = mask_aware_loss(
        logits[..., :-1].softmax(-1),
        Proposals(inputs["mask_logits"].sigmoid(), size, are_logits=False).probabilities(size),
        targets,
        normalize=case.config["normalise_iou"],
    )
    loss.backward()
    assert logits.grad is not None
    return {"loss": loss.detach(), "grad/out_vocab_logits": logits.grad}


@golden_case("maskadapter", "maftp_rc_loss")
def representation_compensation(case: GoldenCase) -> dict[str, Tensor]:
    inputs, losses = case.inputs, []
    outputs: dict[str, Any] = {}
    count = sum(name.startswith("a/") for name in inputs)
    for index in range(count):
        student = inputs[f"a/{index}"].requires_grad_()
        loss = representation_compensation_loss(student, inputs[f"b/{index}"], case.config["spp_scales"])
        loss.backward()
        outputs |= {f"loss/{index}": loss.detach(), f"grad/a/{index}": student.grad}
        losses.append(loss.detach())
    return outputs | {"loss_list": torch.stack(losses).mean()}
