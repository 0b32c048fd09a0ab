"""TextRegion: region tokens, logits and segmentations of its towers, and the fusion of masks, from the release."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.models import register_model
from timm.models.eva import Eva, checkpoint_filter_fn
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from golden.case import GoldenCase, golden_case
from golden.clip import load_recorded_clip, openai_clip, vocabulary_encoder
from maft.checkpoint.key_map import load_strictly
from maft.checkpoint.official.released import key_map
from maft.classifiers.text_region import TextRegion
from maft.clip import CLIPEncoder, clip_from_config
from maft.clip.towers.regions import region_pool
from maft.inference import image_result
from maft.interfaces import BuildContext
from maft.layers.mask_fusion import fused_masks
from maft.structures import Images, Proposals, TextClassifier, Vocabulary

_TEXT = {"context_length": 8, "vocab_size": 8, "width": 16, "heads": 1, "layers": 1}
_OPTIONS = {
    "semantic": True, "panoptic": False, "instance": False, "labels_only": False, "seen_penalty": 0.0,
    "resize_before": False, "best_masks_above": 0.0,
}  # fmt: skip


def _trunk(name: str, build: Any) -> str:
    """Registers an image tower of recorded sizes with timm, which open_clip's descriptions name towers of."""

    def trunk(pretrained: bool = False, **options: Any) -> Any:
        for key in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
            options.pop(key, None)
        model = build(options)
        model.default_cfg = {"pool_size": None}
        return model

    trunk.__name__, trunk.__module__ = name, __name__
    register_model(trunk)
    return name


def _timm_clip(case: GoldenCase, name: str, build: Any) -> CLIPEncoder:
    tower = case.config["tower"]
    vision = {
        "image_size": tower["image_size"],
        "timm_model_name": _trunk(f"{name}_recorded", build),
        "timm_pool": "map",
        "timm_proj": "none",
    }
    described = {"embed_dim": tower["embed_dim"], "vision_cfg": vision, "text_cfg": _TEXT, "custom_text": True}
    if "logit_bias" in case.weights:
        described["init_logit_bias"] = 0.0
    half = (0.5, 0.5, 0.5)
    return clip_from_config("recorded", described, quick_gelu=False, device=case.device, mean=half, std=half)


def _siglip(case: GoldenCase) -> CLIPEncoder:
    tower = case.config["tower"]

    def build(options: dict[str, Any]) -> VisionTransformer:
        return VisionTransformer(
            img_size=tower["image_size"], patch_size=tower["patch_size"], embed_dim=tower["width"],
            depth=tower["layers"], num_heads=tower["heads"], class_token=False, global_pool="map", num_classes=0,
            act_layer="gelu_tanh",
        )  # fmt: skip

    clip = _timm_clip(case, "siglip", build)
    lacks = ("model.text.",)
    load_strictly(clip, key_map("clip").convert(case.weights), "the recorded SigLIP", may_lack=lacks)
    return clip


def _perception_encoder(case: GoldenCase) -> CLIPEncoder:
    tower = case.config["tower"]

    def build(options: dict[str, Any]) -> Eva:
        cells = tower["image_size"] // tower["patch_size"]
        return Eva(
            img_size=tower["image_size"], patch_size=tower["patch_size"], embed_dim=tower["width"],
            depth=tower["layers"], num_heads=tower["heads"], mlp_ratio=4.0, global_pool="map", attn_type="rope",
            use_pre_transformer_norm=True, use_rot_pos_emb=True, ref_feat_shape=(cells, cells), rope_grid_offset=1.0,
            rope_grid_indexing="xy", attn_pool_num_heads=tower["pooler_heads"], attn_pool_mlp_ratio=4.0,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-5), num_classes=tower["embed_dim"],
            class_token=tower["use_cls_token"],
        )  # fmt: skip

    clip = _timm_clip(case, "pe", build)
    trunk: Any = clip.visual
    load_strictly(trunk.trunk, checkpoint_filter_fn(case.weights, trunk.trunk), "the recorded Perception Encoder")
    return clip


def _texts(case: GoldenCase, rows: list[int]) -> TextClassifier:
    features, classes = case.inputs["query_features"], max(rows) + 1
    seen = torch.zeros(classes, dtype=torch.bool, device=case.device)
    bias = case.weights.get("logit_bias")
    return TextClassifier(features, torch.tensor(rows, device=case.device), classes, None, seen, 1.0, bias)


def _run(case: GoldenCase, clip: CLIPEncoder, run: str, of_kind: Mapping[str, Any]) -> dict[str, Tensor]:
    """Outputs of one recorded run such as "wide/semantic_multi_filtered_unaliased"."""
    image, kind = run.split("/")
    config, inputs = case.config, case.inputs
    has_class_token = region_pool(clip.tower, "").soft
    segment, filtered, multiple = "segment" in kind, "unfiltered" not in kind, "multi" in kind
    classifier = TextRegion.from_options(
        BuildContext(clip, 0, torch.nn.Identity),
        crop_size=config["crop_size"],
        multi_resolution=multiple,
        halves="cityscapes" in kind,
        filter_threshold=config["thresholds"][run] if filtered else None,
        mlp=segment and has_class_token,
        dense_elsewhere=has_class_token and not segment,
        region_logit_scale=float(config["region_logit_scale"]),
        official_positions=True,
        unit_values=has_class_token and filtered and multiple and "unaliased" not in kind,
        **of_kind,
    )
    # Rows of their own in the one path, rows that name several classes in the other.
    rows = list(range(len(config["query_idx"]))) if segment else config["query_idx"]
    text = _texts(case, rows)
    images = Images.from_list([inputs[f"image/{image}"]], 1)
    proposals = Proposals(inputs[f"masks/{image}"].float()[None], images.padded_size)
    answer = classifier(images, proposals, text, clip)
    assert answer.rows is not None and answer.embeddings is not None and answer.valid is not None
    features, _ = classifier.features(images.pixels[0], region_pool(clip.tower, ""), clip)
    cells = classifier.weights(replace(proposals, are_logits=False), images.sizes[0], features.shape[1:])
    kept, nonempty = answer.valid[0], cells.sum(1) > 0
    masks = proposals.masks[0]
    if not multiple:
        # The recording's stand-in for SAM's masks of an image that was squashed.
        masks = F.interpolate(masks[None], classifier.crop_size, mode="bilinear", align_corners=False)[0]
    outputs = {"region_logits": classifier.similarities(answer.embeddings[0, kept], text, clip)}
    if segment:
        outputs["region_tokens"] = answer.embeddings[0, kept]
        size = (masks.shape[-2], masks.shape[-1])
    else:
        size = tuple(config["semantic_output"][image])
    outputs["kept"] = kept[nonempty].to(torch.uint8)
    result = image_result(
        answer.class_logits[0], masks, size, are_logits=True, classes=text.num_classes, seen=None,
        things=None, options=_OPTIONS, rows=answer.rows,
    )  # fmt: skip
    outputs["max_prob" if segment else "seg_prob"] = result["sem_seg"].amax(0) if segment else result["sem_seg"]
    return {f"{run}/{name}": value for name, value in outputs.items()}


def _outputs(case: GoldenCase, clip: CLIPEncoder, **of_kind: Any) -> dict[str, Tensor]:
    runs = {re.match(r"\w+/\w+", name)[0] for name in case.outputs if "/" in name}  # type: ignore[index]
    return {name: value for run in sorted(runs) for name, value in _run(case, clip, run, of_kind).items()}


@golden_case("textregion", "textregion_clip")
@torch.no_grad()
def clip_towers(case: GoldenCase) -> dict[str, Tensor]:
    tower = case.config["tower"]
    described = {
        "embed_dim": tower["embed_dim"], "image_resolution": tower["image_size"], "vision_layers": tower["layers"],
        "vision_width": tower["width"], "vision_heads": tower["heads"], "vision_patch_size": tower["patch_size"],
        "context_length": 77, "vocab_size": 49408, "text_width": tower["text_width"], "text_heads": tower["text_heads"],
        "text_layers": tower["text_layers"],
    }  # fmt: skip
    clip = openai_clip(described, case.device)
    load_recorded_clip(clip, case.weights, "")
    encoder = vocabulary_encoder(clip, "imagenet", None)
    rows = encoder(Vocabulary(tuple(case.config["class_names"])), clip).embeddings
    return {"query_features": rows, **_outputs(case, clip)}


@golden_case("textregion", "textregion_siglip2")
@torch.no_grad()
def siglip_towers(case: GoldenCase) -> dict[str, Tensor]:
    return _outputs(case, _siglip(case))


@golden_case("textregion", "textregion_pe")
@torch.no_grad()
def perception_encoders(case: GoldenCase) -> dict[str, Tensor]:
    return _outputs(case, _perception_encoder(case), interpolation="bilinear")


@golden_case("textregion", "textregion_fuse_masks")
def fuse_masks(case: GoldenCase) -> dict[str, Tensor]:
    boxes = case.inputs["boxes_xywh"].clone()
    boxes[:, 2:] += boxes[:, :2]
    thresholds = {"overlap": case.config["fuse_mask_threshold"], "box_overlap": case.config["box_iou_threshold"]}
    return {"masks": fused_masks(case.inputs["masks"].float(), boxes, **thresholds)}
