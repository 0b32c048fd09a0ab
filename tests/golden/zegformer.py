"""ZegFormer: its head, regions, score rules and texts, and the whole model, as recorded from the release."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from detectron2.modeling import build_backbone
from detectron2.structures import Instances
from torch import Tensor, nn

from golden.case import GoldenCase, golden_case, official_name, released_shapes
from golden.clip import load_recorded_clip, openai_clip
from golden.maskformer import head_options
from maft.checkpoint.key_map import load_strictly
from maft.checkpoint.loading import unfit
from maft.checkpoint.official.released import convert_released, key_map, recognise
from maft.classifiers.roi_align_crops import RoIAlignCrops
from maft.clip import VocabularyEncoder
from maft.config import load_config
from maft.config_keys import default_config
from maft.ensembles import ProposerAlone, ZegFormerEnsemble
from maft.inference import image_result
from maft.interfaces import BuildContext, ClassScores, Ensemble
from maft.layers.crops import boxes_to_last_pixel
from maft.proposals.maskformer import MaskFormer
from maft.registry import PROPOSERS
from maft.segmentor import OpenVocabSegmentor
from maft.structures import Images, Proposals, TextClassifier, Vocabulary

_CLIP_SIDE = 224
# The templates' official names, and ours.
_TEMPLATES = {"single": "zegformer_single", "imagenet_select": "zegformer_select", "clip": "zegformer_regions"}
_RULES: dict[str, Ensemble] = {
    "ens": ZegFormerEnsemble(),
    "all_cls": ZegFormerEnsemble(rule="all_classes"),
    "clip_only": ZegFormerEnsemble(rule="classifier"),
    "query_only": ProposerAlone(),
}
# Sizes of a CLIP of which only the pixel normalisation is read.
_ANY_CLIP = {
    "embed_dim": 8, "image_resolution": _CLIP_SIDE, "vision_layers": 1, "vision_width": 64, "vision_patch_size": 112,
    "context_length": 8, "vocab_size": 8, "text_width": 8, "text_heads": 1, "text_layers": 1,
}  # fmt: skip


def _text(rows: Tensor, void: Tensor | None = None) -> TextClassifier:
    classes = len(rows)
    return TextClassifier(
        rows, torch.arange(classes, device=rows.device), classes, void, rows.new_zeros(classes).bool()
    )


# Configs of the recorded files; the evaluation form holds CLIP.
_CONFIGS = {
    "coco R101 (training form)": "coco-stuff-156",
    "coco R50 (training form)": "r50_coco-stuff-156",
    "voc R101 (training form)": "voc-15",
    "ade847 R50 (training form)": "ade-847-572",
    "coco R101 (evaluation form)": "coco-stuff-156",
}
_FOLDER = Path(__file__).resolve().parent.parent.parent / "configs/maft"


@golden_case("zegformer", "checkpoint_keys")
def checkpoint_keys(case: GoldenCase) -> dict[str, Tensor]:
    outputs = {}
    for file, official in released_shapes(case):
        release = recognise(official)
        assert release == "ZegFormer", f"{file} was recognised as {release}"
        with torch.device("meta"):
            model = OpenVocabSegmentor(load_config(_FOLDER / f"zegformer_{_CONFIGS[file]}.yaml"))
        problems = unfit(model.state_dict(), convert_released(official, release, file))
        assert not problems, f"{file}: {problems[:4]}"
        outputs[file] = torch.ones(())
    return outputs


@golden_case("zegformer", "zegformer_head")
@torch.no_grad()
def head(case: GoldenCase) -> dict[str, Tensor]:
    channels = {f"res{level + 2}": width for level, width in enumerate(case.config["channels"])}
    weights, inputs = case.weights, case.inputs
    void = weights.pop("predictor.bg_feature")
    scale = weights.pop("predictor.logit_scale").exp().item()
    options = head_options(case.config["opts"])
    model = MaskFormer(nn.Identity(), channels, void.shape[1], embedding_layers=1, **options).to(case.device).eval()
    load_strictly(model, key_map("zegformer_head").convert(weights, case.name), case.name)
    embeddings, masks = model.predict({name: inputs[name] for name in channels}, all_layers=True)
    outputs = {}
    layers = [*(f"aux_{index}/" for index in range(len(masks) - 1)), ""]
    for layer, embedding, mask in zip(layers, embeddings, masks, strict=True):
        outputs[f"{layer}pred_masks"] = mask
        for mode, rows in (("train", "text_features"), ("eval", "text_features_test")):
            outputs[f"{mode}/{layer}pred_logits"] = _text(inputs[rows], void).logits(embedding, scale)
    return outputs


@golden_case("zegformer", "zegformer_regions")
@torch.no_grad()
def regions(case: GoldenCase) -> dict[str, Tensor]:
    clip = openai_clip(_ANY_CLIP, case.device)
    images = Images.from_list([case.inputs["image"]], case.config["size_divisibility"])
    proposals = Proposals(case.inputs["pred_masks"], images.padded_size)
    outputs = {"boxes": boxes_to_last_pixel(proposals.probabilities(images.padded_size)[0] > 0.5).float()}
    for style in ("cropmask", "crop", "mask"):
        # A chunk that the number of masks is no multiple of.
        classifier = RoIAlignCrops(clip.image_size, style=style, crops_per_chunk=3)
        crops = torch.cat(list(classifier.crops(clip.normalize(images)[0], proposals)))
        outputs[f"{style}_s8"], outputs[f"{style}_mean"] = crops[:, :, ::8, ::8], crops.mean((2, 3))
    return outputs


@golden_case("zegformer", "zegformer_ensemble")
@torch.no_grad()
def ensemble(case: GoldenCase) -> dict[str, Tensor]:
    inputs, names = case.inputs, case.config["class_names"]
    seen = torch.tensor([name not in case.config["unseen_class_names"] for name in names], device=case.device)
    classifier = _text(inputs["text_features_test_clip"]).logits(inputs["image_features"], inputs["logit_scale"].exp())
    valid = torch.ones(1, len(classifier), dtype=torch.bool, device=case.device)
    scores = ClassScores(inputs["pred_logits"], classifier[None], None, valid, seen)
    images = Images.from_list([inputs["image"]], case.config["size_divisibility"])
    height, width = images.sizes[0]
    masks = Proposals(inputs["pred_masks"], images.padded_size).resized(images.padded_size)[0, :, :height, :width]

    def maps(probabilities: Tensor, penalty: float) -> Tensor:
        result = image_result(
            probabilities, masks, tuple(case.config["out_hw"]), are_logits=True, classes=len(names), seen=seen,
            things=None, options=_inference(penalty),
        )  # fmt: skip
        return result["sem_seg"]

    outputs = {}
    for form, rule in _RULES.items():
        probabilities = rule(scores)[0, :, : len(names)]
        outputs[f"scores/{form}"] = probabilities
        outputs[f"sem_seg/{form}"] = maps(probabilities, case.config["gzero_calibrate"])
    outputs["sem_seg/ens_nocal"] = maps(outputs["scores/ens"], 0.0)
    return outputs


def _inference(penalty: float) -> dict[str, Any]:
    return {
        "semantic": True, "panoptic": False, "instance": False, "resize_before": False, "labels_only": False,
        "seen_penalty": penalty, "best_masks_above": 0.0,
    }  # fmt: skip


def _vocabulary(config: dict[str, Any], names: str = "class_names") -> Vocabulary:
    words = tuple(config[names])
    return Vocabulary(words, tuple(word not in config["unseen_class_names"] for word in words))


def _build(case: GoldenCase, *, training: bool = False) -> OpenVocabSegmentor:
    config, options = case.config, case.config["opts"]
    cfg = default_config()
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.FREEZE_AT = "build_resnet_backbone", 0
    cfg.MODEL.RESNETS.STRIDE_IN_1X1, cfg.MODEL.RESNETS.OUT_FEATURES = False, ["res2", "res3", "res4", "res5"]
    recorded = [(key, value) for key, value in options.items() if key.startswith("MODEL.RESNETS.")]
    cfg.merge_from_list([item for pair in recorded for item in pair])
    clip = openai_clip(config["clip"], case.device)
    context = BuildContext(clip, len(config["train_class_names"]), lambda: build_backbone(cfg))
    chosen = {name.upper(): value for name, value in head_options(options).items()}
    model = OpenVocabSegmentor(
        clip=clip,
        vocabulary_encoder=_encoder(case, clip, _TEMPLATES[options["MODEL.PROMPT_ENSEMBLE_TYPE"]], void=True),
        classifier_vocabulary_encoder=_encoder(case, clip, _TEMPLATES["clip"]),
        proposer=PROPOSERS.build("MaskFormer", {"EMBEDDING_LAYERS": 1, **chosen}, context),
        classifier=RoIAlignCrops.from_options(context),
        ensemble=_RULES["ens"],
        losses={},
        freeze_classifier=True,
        inference=_inference(options["MODEL.MASK_FORMER.GZERO_CALIBRATE"]),
        vocabulary=_vocabulary(config, "train_class_names" if training else "class_names"),
    ).to(case.device)
    weights = case.weights
    release = recognise(weights)
    assert release == "ZegFormer", f"the recorded weights were recognised as {release}"
    load_strictly(model, convert_released(weights, release, case.name), case.name)
    return model


def _encoder(case: GoldenCase, clip: Any, templates: str, *, void: bool = False) -> VocabularyEncoder:
    return VocabularyEncoder(
        clip.embed_dim, clip.text_width, templates=templates, synonyms="average", void=void, normalize_void=False
    )


@golden_case("zegformer", "zegformer_model")
@torch.no_grad()
def whole_model(case: GoldenCase) -> dict[str, Tensor]:
    model = _build(case).eval()
    assert isinstance(model.classifier, RoIAlignCrops)
    outputs = {}
    for name in case.outputs:
        if name.startswith("scores/"):
            continue
        variant, image = name.split("/")
        height, width = case.config["out_hw"][int(image.removeprefix("image_"))]
        record = {"image": case.inputs[image], "height": height, "width": width}
        form, _, style = variant.partition("ens_")
        model.ensemble, model.classifier.style = _RULES["ens" if style else form], style or "cropmask"  # type: ignore[assignment]
        images = model.padded([record])
        proposals = model.propose(images, [record])
        classification = model.classify(images, proposals)
        scores = model.class_probabilities(proposals, classification)
        outputs[f"scores/{name}"] = scores[0, :, : len(model.vocabulary)]
        outputs[name] = model([record])[0]["sem_seg"]  # type: ignore[index]
    return outputs


@golden_case("zegformer", "zegformer_text")
@torch.no_grad()
def texts(case: GoldenCase) -> dict[str, Tensor]:
    clip = openai_clip(case.config["clip"], case.device)
    load_recorded_clip(clip, case.weights, "sem_seg_head.predictor.clip_model.")
    words, outputs = _vocabulary(case.config), {}
    for official, ours in _TEMPLATES.items():
        encoder = _encoder(case, clip, ours)
        assert list(encoder.templates) == case.config["templates"][official]
        outputs[f"text_features_{official}"] = encoder(words, clip).embeddings
    return outputs


@golden_case("zegformer", "zegformer_train")
def training_step(case: GoldenCase) -> dict[str, Tensor]:
    model = _build(case, training=True).train()
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    expected = {official_name(name, "ZegFormer") for name in case.record["trainable"]}
    assert trainable == expected, f"trainable parameters differ: {sorted(map(str, trainable ^ expected))[:4]}"
    records = []
    for index in range(sum(name.startswith("image_") for name in case.inputs)):
        image = case.inputs[f"image_{index}"]
        instances = Instances(tuple(image.shape[-2:]))  # type: ignore[arg-type]
        instances.gt_classes = case.inputs[f"gt_classes_{index}"]
        instances.gt_masks = case.inputs[f"gt_masks_{index}"].bool()
        records.append({"image": image, "instances": instances})
    losses = model(records)
    assert isinstance(losses, dict)
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    scalars = {**losses, "total": total}
    outputs = {f"train/{name}": value.detach().reshape(1) for name, value in scalars.items()}
    for name in case.outputs:
        if name.startswith("grad/"):
            outputs[name] = gradients[official_name(name.removeprefix("grad/"), "ZegFormer") or ""]
    return outputs
