"""OVSeg as a whole model: recorded predictions and a recorded training step."""

from __future__ import annotations

import re
from typing import Any

import torch
from detectron2.structures import Instances
from torch import Tensor

from golden.case import GoldenCase, golden_case, official_name
from golden.clip import openai_clip, vocabulary_encoder
from golden.maskformer import head_options
from golden.ovseg_backbones import build_resnet, build_swin
from maft.checkpoint.key_map import load_strictly
from maft.checkpoint.official.released import convert_released, recognise
from maft.classifiers.masked_crops import MaskedCrops
from maft.clip import CLIPEncoder, VocabularyEncoder
from maft.ensembles import OVSegEnsemble, ProposerAlone
from maft.interfaces import BuildContext, Ensemble
from maft.registry import PROPOSERS
from maft.segmentor import OpenVocabSegmentor
from maft.structures import Vocabulary

# What the proposer takes beside the head's options.
_TRAINING_OPTIONS = {
    "MODEL.MASK_FORMER.DEEP_SUPERVISION": "deep_supervision",
    "MODEL.MASK_FORMER.MASK_WEIGHT": "mask_weight",
    "MODEL.MASK_FORMER.DICE_WEIGHT": "dice_weight",
    "MODEL.MASK_FORMER.NO_OBJECT_WEIGHT": "void_weight",
    "MODEL.PIXEL_MEAN": "pixel_mean",
    "MODEL.PIXEL_STD": "pixel_std",
}


def _templates(config: dict[str, Any], adapter: dict[str, Any]) -> str | list[str]:
    """The recorded prompt templates: a named set, or the list that the official "predefined" stands for."""
    name = config["templates"]
    if name == "predefined":
        return adapter.get("PREDEFINED_PROMPT_TEMPLATES", ["a photo of a {}."])
    return name


def adapter_options(case: GoldenCase) -> dict[str, Any]:
    """The recorded options of CLIP's adapter by the last part of their names."""
    options = case.config["opts"].items()
    return {key.rsplit(".", 1)[1]: value for key, value in options if re.fullmatch(r".*\.CLIP_ADAPTER\.\w+", key)}


def maskformer_model(
    case: GoldenCase,
    release: str,
    clip: CLIPEncoder,
    ensemble: Ensemble,
    encoder: VocabularyEncoder,
    of_regions: VocabularyEncoder | None = None,
) -> OpenVocabSegmentor:
    """MaskFormer with masked crops as recorded, of OVSeg and of ZSSeg, with its weights."""
    config, options = case.config, case.config["opts"]
    swin = options["MODEL.BACKBONE.NAME"] == "D2SwinTransformer"
    context = BuildContext(
        clip, len(config["class_names"]), lambda: build_swin(options) if swin else build_resnet(options)
    )
    chosen = head_options(options) | {
        ours: options[name] for name, ours in _TRAINING_OPTIONS.items() if name in options
    }
    proposer = PROPOSERS.build("MaskFormer", {name.upper(): value for name, value in chosen.items()}, context)
    adapter = adapter_options(case)
    classifier = MaskedCrops.from_options(
        context,
        mask_threshold=adapter.get("MASK_THR", 0.5),
        fill=adapter.get("MASK_FILL", "mean"),
        expand_ratio=adapter.get("MASK_EXPAND_RATIO", 1.0),
        matting=adapter.get("MASK_MATTING", False),
        mask_prompt_depth=adapter.get("MASK_PROMPT_DEPTH", 0),
    )
    model = OpenVocabSegmentor(
        clip=clip,
        vocabulary_encoder=encoder,
        classifier_vocabulary_encoder=of_regions,
        proposer=proposer,
        classifier=classifier,
        ensemble=ensemble,
        losses={},
        inference={
            "semantic": True, "panoptic": False, "instance": False,
            "resize_before": False, "labels_only": False, "seen_penalty": 0.0, "best_masks_above": 0.0,
        },
        vocabulary=Vocabulary(tuple(config["class_names"])),
    ).to(case.device)  # fmt: skip
    weights = case.weights
    found = recognise(weights)
    assert found == release, f"the recorded weights were recognised as {found}"
    load_strictly(model, convert_released(weights, release, case.name), case.name)
    return model


def _build(case: GoldenCase) -> OpenVocabSegmentor:
    clip = openai_clip(case.config["clip"], case.device)
    adapter = adapter_options(case)
    encoder = vocabulary_encoder(clip, _templates(case.config, adapter), torch.zeros(1, clip.embed_dim))
    ensemble = OVSegEnsemble(weight=adapter["CLIP_ENSEMBLE_WEIGHT"])
    return maskformer_model(case, "OVSeg", clip, ensemble, encoder)


def _masked_crops(model: OpenVocabSegmentor) -> MaskedCrops:
    assert isinstance(model.classifier, MaskedCrops)
    return model.classifier


@golden_case("ovseg", "ovseg_model")
@torch.no_grad()
def ovseg_model(case: GoldenCase) -> dict[str, Tensor]:
    model = _build(case).eval()
    height, width = case.config["out_hw"]
    item = {"image": case.inputs["image"], "height": height, "width": width}
    classifier = _masked_crops(model)
    trained_ensemble, prompts = model.ensemble, classifier.mask_prompts

    def predict(ensemble: Ensemble, with_prompts: bool = True) -> Tensor:
        model.ensemble = ensemble
        classifier.mask_prompts = prompts if with_prompts else None
        return model([item])[0]["sem_seg"]  # type: ignore[index]

    outputs = {
        "ens_mpf/sem_seg": predict(trained_ensemble),
        "ens_nompf/sem_seg": predict(trained_ensemble, with_prompts=False),
        "w0_mpf/sem_seg": predict(OVSegEnsemble(weight=0)),
        "w0_nompf/sem_seg": predict(OVSegEnsemble(weight=0), with_prompts=False),
        "noens/sem_seg": predict(ProposerAlone()),
    }
    for name in case.outputs:
        if name.startswith("demo_w0_thr"):
            digits = name.split("/")[0].removeprefix("demo_w0_thr")
            outputs[name] = _demo(model, item, int(digits) / 10 ** (len(digits) - 1))
    return outputs


def _demo(model: OpenVocabSegmentor, item: dict[str, Any], threshold: float) -> Tensor:
    """The official demo: CLIP's scores alone, each class's best proposal, masks cut at the threshold."""
    classifier = _masked_crops(model)
    trained = classifier.mask_threshold
    classifier.mask_threshold = model.inference_options["best_masks_above"] = threshold
    model.ensemble = OVSegEnsemble(weight=0)
    scores = model([item])[0]["sem_seg"]  # type: ignore[index]
    classifier.mask_threshold, model.inference_options["best_masks_above"] = trained, 0.0
    return scores


def train_step(
    case: GoldenCase, model: OpenVocabSegmentor, release: str, *, images: str, labels: str, masks: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Losses by name and gradients under their official names, of one step on the recorded batch.

    Args:
        images, labels, masks: how the names of its tensors begin.
    """
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    expected = {official_name(name, release) for name in case.record["trainable"]}
    assert trainable == expected, f"trainable parameters differ: {sorted(map(str, trainable ^ expected))[:4]}"
    items = []
    for index in range(sum(name.startswith(images) for name in case.inputs)):
        image = case.inputs[f"{images}{index}"]
        instances = Instances(tuple(image.shape[-2:]))  # type: ignore[arg-type]
        instances.gt_classes = case.inputs[f"{labels}{index}"]
        instances.gt_masks = case.inputs[f"{masks}{index}"].bool()
        items.append({"image": image, "instances": instances})
    losses = model.train()(items)
    assert isinstance(losses, dict)
    torch.stack(list(losses.values())).sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    recorded = {name: gradients[official_name(name, release) or ""] for name in case.group("out/grad")}
    total = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
    return {name: value.detach() for name, value in losses.items()}, recorded | {"": total}


@golden_case("ovseg", "ovseg_train")
def ovseg_train(case: GoldenCase) -> dict[str, Tensor]:
    model = _build(case)
    losses, gradients = train_step(
        case, model, "OVSeg", images="train_image_", labels="train_labels_", masks="train_masks_"
    )
    outputs = {f"loss/{name}": value for name, value in losses.items()}
    outputs["loss_total"] = torch.stack(list(losses.values())).sum()
    outputs["grad_norm_all_trainable"] = gradients.pop("")
    return outputs | {f"grad/{name}": value for name, value in gradients.items()}
