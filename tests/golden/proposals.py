"""Runs the recorded cases of the Mask2Former family: backbone, pixel decoder, decoders, criterion and matching."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.projects.deeplab import add_deeplab_config, build_resnet_deeplab_backbone
from matched import matched
from torch import Tensor, nn

from golden.case import GoldenCase, golden_case
from golden.draws import RecordedDraws
from maft.checkpoint.key_map import KeyMap, Rule, load_strictly
from maft.checkpoint.official.released import key_map
from maft.matching import HungarianMatcher, ground_truth_slots, match_by_iou
from maft.proposals.criterion import SetCriterion
from maft.proposals.freeseg import TextInteraction
from maft.proposals.pixel_decoder import PixelDecoder
from maft.proposals.transformer_decoder import MaskedAttentionDecoder, MaskPooledClassHead, QueryClassHead
from maft.structures import Proposals, Targets, TextClassifier


def _layers(case: GoldenCase, logits_name: str, masks_name: str, padded_size: tuple[int, int]) -> Proposals:
    """The recorded predictions of all decoder layers, with gradients; the last one is the final one."""
    layers: list[Proposals] = []
    while logits_name.format(len(layers)) in case.inputs:
        logits = case.inputs[logits_name.format(len(layers))].requires_grad_()
        masks = case.inputs[masks_name.format(len(layers))].requires_grad_()
        layers.append(Proposals(masks, padded_size, class_logits=logits))
    final = layers.pop()
    final.auxiliary = layers
    return final


def _targets(case: GoldenCase, labels_name: str, masks_name: str) -> list[Targets]:
    inputs = case.inputs
    targets: list[Targets] = []
    while labels_name.format(len(targets)) in inputs:
        index = len(targets)
        targets.append(Targets(inputs[labels_name.format(index)], inputs[masks_name.format(index)].bool()))
    return targets


def _criterion_outputs(
    criterion: SetCriterion, proposals: Proposals, targets: list[Targets], logits_name: str, masks_name: str
) -> dict[str, Tensor]:
    """Unweighted losses, their weighted total and its gradients."""
    losses, matcher = criterion(proposals, targets), criterion.matcher
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    weights = {"ce": matcher.class_weight, "mask": matcher.mask_weight, "dice": matcher.dice_weight}
    unweighted = {name: value / weights[name.split("_")[1]] for name, value in losses.items()}
    outputs: dict[str, Tensor | None] = {**unweighted, "total_weighted": total}
    for index, layer in enumerate([*proposals.auxiliary, proposals]):
        assert layer.class_logits is not None
        outputs[logits_name.format(index)] = layer.class_logits.grad
        outputs[masks_name.format(index)] = layer.masks.grad
    return {name: value.detach() for name, value in outputs.items() if value is not None}


@golden_case("maft", "set_criterion")
def maft_set_criterion(case: GoldenCase) -> dict[str, Tensor]:
    config = case.config
    matcher = HungarianMatcher(
        class_weight=config["class_weight"],
        mask_weight=config["mask_weight"],
        dice_weight=config["dice_weight"],
        mask_loss="focal",
    )
    criterion = SetCriterion(matcher, void_weight=config["no_object_weight"])
    targets = _targets(case, "labels_{}", "masks_{}")
    size = (targets[0].masks.shape[-2], targets[0].masks.shape[-1])
    proposals = _layers(case, "layer_{}/pred_logits", "layer_{}/pred_masks", size)
    grad = "grad/layer_{}/"
    outputs = _criterion_outputs(criterion, proposals, targets, grad + "pred_logits", grad + "pred_masks")
    outputs = {name: value.reshape(1) if value.ndim == 0 else value for name, value in outputs.items()}
    for index, layer in enumerate([*proposals.auxiliary, proposals]):
        assert layer.class_logits is not None
        for image, match in enumerate(matched(matcher, layer.class_logits, layer.masks, targets)):
            outputs[f"match/layer_{index}/image_{image}"] = torch.stack(match)
    return outputs


@golden_case("maskadapter", "set_criterion")
def maskadapter_set_criterion(case: GoldenCase) -> dict[str, Tensor]:
    config = case.config
    matcher = HungarianMatcher(
        class_weight=config["class_weight"],
        mask_weight=config["mask_weight"],
        dice_weight=config["dice_weight"],
        mask_loss="bce",
        num_points=config["num_points"],
    )
    criterion = SetCriterion(
        matcher,
        void_weight=config["no_object_weight"],
        oversample_ratio=config["oversample_ratio"],
        importance_sample_ratio=config["importance_sample_ratio"],
    )
    targets = _targets(case, "gt_classes/{}", "gt_masks/{}")
    size = (targets[0].masks.shape[-2], targets[0].masks.shape[-1])
    proposals = _layers(case, "pred_logits/{}", "pred_masks/{}", size)
    with RecordedDraws(case).replayed():
        return _criterion_outputs(criterion, proposals, targets, "grad/pred_logits/{}", "grad/pred_masks/{}")


@golden_case("maskadapter", "iou_matching", "iou_matching_maft")
def iou_matching(case: GoldenCase) -> dict[str, Tensor]:
    config = case.config
    height, width = case.record["inputs_json"]["padded_size"]
    targets = [
        Targets(t.labels, F.pad(t.masks, (0, width - t.masks.shape[-1], 0, height - t.masks.shape[-2])))
        for t in _targets(case, "gt_classes/{}", "gt_masks/{}")
    ]
    with RecordedDraws(case).replayed():
        masks, labels = ground_truth_slots(targets, config["num_gt_masks"])
        predicted, wanted, matched_labels = match_by_iou(
            case.inputs["pred_masks"],
            targets,
            slots=config["max_matches"],
            iou_threshold=config["iou_threshold"],
            mask_threshold=config["pred_binarise_threshold"],
        )
    return {
        "masks": masks,
        "labels": labels,
        "matched_pred_masks": predicted,
        "matched_target_masks": wanted,
        "matched_labels": matched_labels,
    }


def build_pixel_decoder(case: GoldenCase) -> PixelDecoder:
    """Our pixel decoder from the official options of either release; dropout off, as in every recording."""
    config = case.config
    return PixelDecoder(
        {name: value.shape[1] for name, value in case.inputs.items() if name.startswith("res")},
        width=config["conv_dim"],
        mask_dim=config["mask_dim"],
        num_layers=config["pd_enc_layers" if "pd_enc_layers" in config else "enc_layers"],
        num_heads=config.get("pd_nheads", config["nheads"]),
        num_points=config.get("pd_n_points", config.get("enc_n_points", 4)),
        ffn_dim=config.get("pd_dim_feedforward", config.get("pixel_decoder_ffn_hardcoded", 1024)),
    )


def _grad_outputs(
    case: GoldenCase, module: nn.Module, rules: Iterable[Rule], inputs: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Gradients of the recorded parameters (official names) and inputs."""
    names, parameters = KeyMap(rules), dict(module.named_parameters())
    outputs = {}
    for name in case.group("out/grad"):
        tensor = inputs[name] if name in inputs else parameters[names.rename(name) or ""]
        assert tensor.grad is not None, name
        outputs[f"grad/{name}"] = tensor.grad
    return outputs


@golden_case("maft", "backbone")
def backbone(case: GoldenCase) -> dict[str, Tensor]:
    model = build_resnet(case.config).to(case.device).eval()
    load_strictly(model, key_map("resnet").convert(case.weights, case.name), case.name)
    with torch.no_grad():
        return model(case.inputs["image"])


def build_resnet(config: dict[str, Any]) -> nn.Module:
    """Detectron2's DeepLab ResNet from the recorded options."""
    cfg = get_cfg()
    add_deeplab_config(cfg)
    resnets = cfg.MODEL.RESNETS
    resnets.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    for key, value in config.items():
        if key.upper() in resnets:
            resnets[key.upper()] = value
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    return build_resnet_deeplab_backbone(cfg, ShapeSpec(channels=3))


@golden_case("maft", "msdeform_pixel_decoder")
def maft_pixel_decoder(case: GoldenCase) -> dict[str, Tensor]:
    model = build_pixel_decoder(case).to(case.device).eval()
    load_strictly(model, key_map("pixel_decoder").convert(case.weights, case.name), case.name)
    with torch.no_grad():
        mask_features, memories = model(case.inputs)
    outputs = {f"multi_scale_features_{level}": memory for level, memory in enumerate(memories)}
    return dict(outputs, mask_features=mask_features, transformer_encoder_features=memories[0])


@golden_case("maskadapter", "m2f_pixel_decoder")
def maskadapter_pixel_decoder(case: GoldenCase) -> dict[str, Tensor]:
    model = build_pixel_decoder(case).to(case.device).eval()
    load_strictly(model, key_map("pixel_decoder").convert(case.weights, case.name), case.name)
    features = {name: value.requires_grad_() for name, value in case.inputs.items() if name.startswith("res")}
    mask_features, memories = model(features)
    (mask_features * case.inputs["cotangent"]).sum().backward()
    outputs = {f"multi_scale_{level}": memory.detach() for level, memory in enumerate(memories)}
    outputs["mask_features"] = mask_features.detach()
    return outputs | _grad_outputs(case, model, key_map("pixel_decoder").rules, features)


@golden_case("maskadapter", "m2f_transformer_decoder")
def maskadapter_transformer_decoder(case: GoldenCase) -> dict[str, Tensor]:
    config, inputs, weights = case.config, case.inputs, case.weights
    memories = [inputs[f"multi_scale_{level}"] for level in range(config["num_feature_levels"])]
    head = MaskPooledClassHead(config["hidden_dim"], config["mask_dim"], inputs["text_classifier"].shape[-1])
    model = MaskedAttentionDecoder(
        width=config["hidden_dim"],
        mask_dim=config["mask_dim"],
        memory_channels=[memory.shape[1] for memory in memories],
        class_head=head,
        num_queries=config["num_queries"],
        num_layers=config["dec_layers"] - 1,
        num_heads=config["nheads"],
        ffn_dim=config["dim_feedforward"],
    ).to(case.device)
    load_strictly(model, key_map("transformer_decoder").convert(weights, case.name), case.name)
    text = _text_classifier(inputs["text_classifier"], case)
    mask_features = inputs["mask_features"].requires_grad_()
    layers = model(memories, mask_features)
    logits, masks = [text.logits(embedding, head.scale()) for embedding, _ in layers], [mask for _, mask in layers]
    cotangents = inputs["cotangent_logits"], inputs["cotangent_masks"]
    ((logits[-1] * cotangents[0]).sum() + (masks[-1] * cotangents[1]).sum()).backward()
    outputs = {"pred_logits": logits[-1].detach(), "pred_masks": masks[-1].detach()}
    for index in range(len(layers) - 1):
        outputs[f"aux/{index}/pred_logits"] = logits[index].detach()
        outputs[f"aux/{index}/pred_masks"] = masks[index].detach()
    return outputs | _grad_outputs(case, model, key_map("transformer_decoder").rules, {"mask_features": mask_features})


def _text_classifier(rows: Tensor, case: GoldenCase) -> TextClassifier:
    """Texts of the recorded classes, comma lists split into synonyms, the last row void."""
    columns = case.inputs["cotangent_logits"].shape[-1]
    vocabularies = (case.config["train_classes"], case.config["test_classes"])
    # Which vocabulary was recorded shows in the number of classes and of texts alone.
    counts = next(
        counts
        for counts in ([len(name.split(",")) for name in names] for names in vocabularies)
        if len(counts) + 1 == columns and sum(counts) + 1 == len(rows)
    )
    row_class = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)).to(rows.device)
    seen = torch.ones(len(counts), dtype=torch.bool, device=rows.device)
    return TextClassifier(rows[:-1], row_class, len(counts), rows[-1:], seen)


@golden_case("maft", "freeseg_head")
def freeseg_head(case: GoldenCase) -> dict[str, Tensor]:
    config, inputs = case.config, case.inputs
    head = nn.Module()
    head.pixel_decoder = build_pixel_decoder(case)
    head.interaction = TextInteraction(
        width=config["conv_dim"],
        text_dim=config["text_dim"],
        inner_dim=config["interaction_embed_dim"],
        num_heads=config["interaction_num_heads"],
        dropout=0.0,
    )
    head.decoder = MaskedAttentionDecoder(
        width=config["hidden_dim"],
        mask_dim=config["mask_dim"],
        memory_channels=[config["conv_dim"]] * len(head.pixel_decoder.input_proj),
        class_head=QueryClassHead(
            config["hidden_dim"], config["embed_hidden_dim"], config["embedding_dim"], config["embed_layers"]
        ),
        num_queries=config["num_queries"],
        num_layers=config["dec_layers"] - 1,
        num_heads=config["nheads"],
        ffn_dim=config["dim_feedforward"],
    )
    head.to(case.device).eval()
    load_strictly(head, key_map("mask2former_head").convert(case.weights, case.name), case.name)
    with torch.no_grad():
        mask_features, memories = head.pixel_decoder(inputs)
        *memories, mask_features = head.interaction([*memories, mask_features], inputs["text_features"])
        layers = head.decoder(memories, mask_features)
    prefixes = [*(f"aux_{index}/" for index in range(len(layers) - 1)), ""]
    outputs: dict[str, Tensor] = {}
    for prefix, (embeddings, masks) in zip(prefixes, layers):
        outputs |= {f"{prefix}pred_logits": embeddings, f"{prefix}pred_masks": masks}
    return outputs
