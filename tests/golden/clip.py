"""CLIP towers, texts and IP-CLIP against the official releases."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.models import ConvNeXt, register_model
from torch import Tensor

from golden.case import GoldenCase, golden_case
from maft.checkpoint.key_map import load_strictly
from maft.checkpoint.official.released import key_map
from maft.classifiers.ip_clip import IPCLIP
from maft.clip import CLIPEncoder, VocabularyEncoder, clip_from_config, load_clip
from maft.clip.tokenizers import BytePairTokenizer
from maft.interfaces import BuildContext
from maft.structures import Images, Proposals, TextClassifier, Vocabulary


class CompactTokenizer(BytePairTokenizer):
    """CLIP's tokenizer with its ids mapped to the rows of a small recorded embedding table."""

    def __init__(self, rows: Mapping[str, int], context_length: int) -> None:
        super().__init__(context_length)
        self.rows = rows
        self.sot_token_id, self.eot_token_id = rows[str(self.sot_token_id)], rows[str(self.eot_token_id)]

    def encode(self, text: str) -> list[int]:
        return [self.rows[str(token)] for token in super().encode(text)]


def openai_clip(config: Mapping[str, Any], device: torch.device) -> CLIPEncoder:
    """An untrained CLIP with QuickGELU from a recorded ``config.clip`` of the maft and ovseg cases."""

    def value(*names: str) -> int:
        return next(int(config[name]) for name in names if name in config)

    vision_width, text_width = value("vision_width"), value("text_width", "transformer_width")
    # OpenAI's towers have one head per 64 channels, and their configurations need not say so.
    vision_heads = int(config.get("vision_heads", vision_width // 64))
    text_heads = config.get("text_heads", config.get("transformer_heads", text_width // 64))
    described = {
        "embed_dim": value("embed_dim"),
        "vision_cfg": {
            "layers": value("vision_layers"),
            "width": vision_width,
            "head_width": vision_width // vision_heads,
            "patch_size": value("vision_patch_size"),
            "image_size": value("image_resolution"),
        },
        "text_cfg": {
            "context_length": value("context_length"),
            "vocab_size": value("vocab_size"),
            "width": text_width,
            "heads": int(text_heads),
            "layers": value("text_layers", "transformer_layers"),
        },
    }
    return clip_from_config("recorded CLIP", described, quick_gelu=True, device=device)


def convnext_clip(config: Mapping[str, Any], device: torch.device) -> CLIPEncoder:
    """An untrained ConvNeXt CLIP from the whole configuration of a maskadapter case."""
    clip = config["clip"]
    # open_clip names trunks by timm's registry, so the recorded sizes become an entry of it.
    name = "convnext_recorded_" + sha256(json.dumps([clip["depths"], clip["dims"]]).encode()).hexdigest()[:8]
    if not timm.is_model(name):

        def trunk(pretrained: bool = False, **options: Any) -> ConvNeXt:
            for key in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
                options.pop(key, None)
            model: Any = ConvNeXt(depths=tuple(clip["depths"]), dims=tuple(clip["dims"]), **options)
            model.default_cfg = {"pool_size": (7, 7)}
            return model

        trunk.__name__ = name
        trunk.__module__ = __name__
        register_model(trunk)
    sizes = ("context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio")
    text = {key: clip["text"][key] for key in sizes if key in clip["text"]}
    described = {
        "embed_dim": clip["embed_dim"],
        "vision_cfg": {
            "timm_model_name": name,
            "timm_pool": "",
            "timm_proj": clip["proj"],
            "timm_proj_bias": clip["proj_bias"],
            "timm_drop": clip["drop"],
            "timm_drop_path": clip["drop_path"],
            # Read by no convolution; a tower has to state one.
            "image_size": 64,
        },
        "text_cfg": text,
    }
    tokenizer = None
    if "token_id_map" in config:
        tokenizer = CompactTokenizer(config["token_id_map"], text["context_length"])
    quick_gelu = clip["text"].get("act") == "quick_gelu"
    encoder = clip_from_config("recorded CLIP", described, quick_gelu=quick_gelu, tokenizer=tokenizer, device=device)
    return set_normalisation(encoder, config, "pixel_mean", "pixel_std")


def set_normalisation(clip: CLIPEncoder, config: Mapping[str, Any], mean: str, std: str) -> CLIPEncoder:
    """Gives CLIP the pixel statistics that a case records under these names, where it does."""
    for buffer, name in ((clip.pixel_mean, mean), (clip.pixel_std, std)):
        if name in config:
            buffer.copy_(torch.tensor(config[name]))
    return clip


def load_recorded_clip(clip: CLIPEncoder, weights: Mapping[str, Tensor], prefix: str = "clip_model.") -> None:
    """Loads the CLIP below ``prefix`` strictly; a case about texts alone may leave out the image tower."""
    state = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    text_only = not any(name.startswith("visual.") for name in state)
    load_strictly(
        clip, key_map("clip").convert(state), "the recorded CLIP", may_lack=("model.visual.",) if text_only else ()
    )


def vocabulary_encoder(
    clip: CLIPEncoder,
    templates: str | Sequence[str],
    void: Tensor | None,
    *,
    synonyms: str = "whole",
    logit_scale: float = 100.0,
) -> VocabularyEncoder:
    """A vocabulary encoder with recorded templates and no-object row."""
    encoder = VocabularyEncoder(
        clip.embed_dim,
        clip.text_width,
        templates=templates,
        synonyms=synonyms,
        void=void is not None,
        logit_scale=logit_scale,
    )
    if void is not None:
        load_strictly(encoder, {"void_embedding": void}, "the recorded no-object row")
    return encoder.to(clip.device)


@golden_case("maft", "clip_text")
def maft_clip_text(case: GoldenCase) -> dict[str, Tensor]:
    clip = openai_clip(case.config["clip"], case.device)
    weights = case.weights
    load_recorded_clip(clip, weights)
    names, templates = [name.strip() for name in case.config["class_names"]], case.config["templates"]
    tokens = torch.stack([clip.tokenize([template.format(name) for name in names]) for template in templates])
    with torch.no_grad():
        raw = torch.stack([clip.encode_text(row.to(case.device)) for row in tokens])
        encoder = vocabulary_encoder(clip, templates, weights["non_object_embedding"])
        features = encoder(Vocabulary(tuple(names)), clip).matrix
    return {
        "token_ids": tokens,
        "imagenet_token_ids": clip.tokenize(case.config["extra_texts"]),
        "raw_per_template": raw,
        "normalised_per_template": F.normalize(raw, dim=-1),
        "text_features": features,
    }


@golden_case("ovseg", "clip_text")
def ovseg_clip_text(case: GoldenCase) -> dict[str, Tensor]:
    clip = openai_clip(case.config["clip"], case.device)
    weights = case.weights
    load_recorded_clip(clip, weights)
    vocabulary = Vocabulary(tuple(case.config["nouns"]))
    outputs = {}
    for name, templates in case.config["templates"].items():
        tokens = torch.stack([clip.tokenize([t.format(noun) for noun in vocabulary.names]) for t in templates])
        if not torch.equal(tokens, case.inputs[f"tokens_{name}"].cpu()):
            raise AssertionError(f"token ids of the {name} templates differ")
        encoder = vocabulary_encoder(clip, templates, weights["non_object_embedding"])
        with torch.no_grad():
            text = encoder(vocabulary, clip)
        outputs[f"text_features_{name}"] = text.embeddings
        if name == "vild":
            outputs["get_text_features"] = text.matrix.detach()
    return outputs


@golden_case("maft", "ipclip_visual")
@torch.no_grad()
def ipclip_visual(case: GoldenCase) -> dict[str, Tensor]:
    config = case.config
    shape = {
        "embed_dim": config["output_dim"],
        "image_resolution": config["input_resolution"],
        "vision_layers": config["layers"],
        "vision_width": config["width"],
        "vision_heads": config["heads"],
        "vision_patch_size": config["patch_size"],
        "context_length": 8,
        "vocab_size": 8,
        "text_width": 8,
        "text_heads": 1,
        "text_layers": 1,
    }
    clip = openai_clip(shape, case.device)
    tower: Any = clip.tower
    load_strictly(tower.visual, key_map("image_tower").convert(case.weights), "the recorded tower")
    inputs = case.inputs

    def run(name: str) -> Tensor:
        masked = re.fullmatch(r"masked_(dense_)?b(\d+)_start(\d+)", name)
        many = re.fullmatch(r"masked_(n\d+)", name)
        if masked or many:
            # The notes name the second of the recorded starts for the case of many masks.
            start = int(masked[3]) if masked else config["start_layers"][:2][-1]
            masks = inputs["masks"][: int(masked[2])] if masked else inputs[f"masks_{many[1]}"]  # type: ignore[index]
            pixels = inputs["image"][: len(masks)]
            if masked and masked[1]:
                tokens, grid = tower.tokens(pixels, start, align_corners=True)
                # Patches of the masked blocks attend to patches alone, whatever the masks are.
                return tower.project(tower.run(tokens[:, 1:], grid, start)).unflatten(1, grid)
            classifier = IPCLIP(clip, start_layer=start, input_size=None, train="none")
            grid = (pixels.shape[-2] // config["patch_size"], pixels.shape[-1] // config["patch_size"])
            proposals = Proposals(masks, (masks.shape[-2], masks.shape[-1]), are_logits=False)
            visible = classifier.visible_patches(Images(pixels, []), proposals, grid)
            return classifier.encode_proposals(tower, pixels, visible)
        kind, size = name.split("_")
        pixels = inputs["image"][: int(size[1:])] if re.fullmatch(r"b\d+", size) else inputs[f"image_{size}"]
        tokens, grid = tower.tokens(pixels, align_corners=True)
        projected = tower.project(tokens)
        return projected[:, 0] if kind == "cls" else projected[:, 1:].unflatten(1, grid)

    return {name: run(name) for name in case.outputs}


@golden_case("maft", "maft_frozen_parameters")
def maft_frozen_parameters(case: GoldenCase) -> dict[str, Tensor]:
    name = case.config["CLIP_MODEL_NAME"].replace("/", "-").replace("@336px", "-336")
    clip = load_clip(name, "openai", device="meta")
    start = case.config["start_layers_effective"]["IPCLIP"]
    classifier = IPCLIP.from_options(BuildContext(clip, 1, torch.nn.Identity), start_layer=start)
    names = {parameter: name for name, parameter in classifier.named_parameters()}
    trainable = {names[p].replace("visual.", "IPCLIP.", 1): p for p in classifier.trainable_parameters()}
    statements = {
        "trainable": set(trainable) == set(case.record["trainable"]),
        "num_trainable_tensors": len(trainable) == case.record["num_trainable_tensors"],
        "num_trainable_parameters": sum(p.numel() for p in trainable.values())
        == case.record["num_trainable_parameters"],
        "nothing_of_clip": not any(True for _ in classifier.trainable_clip_parameters(clip)),
    }
    return {name: torch.tensor(float(holds)) for name, holds in statements.items()}


@golden_case("maskadapter", "clip_convnext_backbone")
@torch.no_grad()
def clip_convnext_backbone(case: GoldenCase) -> dict[str, Tensor]:
    clip = convnext_clip(case.config, case.device)
    load_recorded_clip(clip, case.weights)
    inputs = case.inputs
    features = clip.tower.dense_features(inputs["image_normalised"])
    dense = features.pop("dense")
    encoder = vocabulary_encoder(clip, case.config["templates"], None, synonyms="max")
    return {
        **features,
        "clip_vis_dense": dense,
        "clip_vis_dense_projected": clip.tower.project_dense(dense),
        "clip_vis_dense_projected_wrong_reshape": clip.tower.project_dense(dense, rows_in_memory_order=True),
        "visual_prediction": clip.tower.project_pooled(inputs["pooled"]),
        "text_features": clip.encode_text(inputs["text_tokens"]),
        "text_classifier": encoder(Vocabulary(tuple(case.config["test_classes"])), clip).embeddings,
    }


@golden_case("maskadapter", "classification_logits")
def classification_logits(case: GoldenCase) -> dict[str, Tensor]:
    leaves = {name: case.inputs[name].requires_grad_() for name in ("x", "text_classifier", "logit_scale")}
    counts = torch.tensor(case.config["num_templates"], device=case.device)
    classes = torch.arange(len(counts), device=case.device)
    rows = leaves["text_classifier"]
    text = TextClassifier(rows[:-1], classes.repeat_interleave(counts), len(counts), rows[-1:], classes >= 0)
    logits = text.logits(leaves["x"], leaves["logit_scale"].exp().clamp(max=100))
    (logits * case.inputs["cotangent"]).sum().backward()
    gradients = {f"grad/{name}": leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
    return {"logits": logits.detach(), **gradients}
