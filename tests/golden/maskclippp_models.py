"""MaskCLIP++ as a whole: recorded predictions on FC-CLIP's, MAFT+'s and the true masks, and its released files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golden.case import GoldenCase, golden_case, released_shapes
from golden.clip import load_recorded_clip
from golden.maskclippp import recorded_classifier, recorded_clip, recorded_similarity
from golden.models_maskadapter import instances_of, segments_of
from maft.checkpoint.key_map import differences, load_strictly
from maft.checkpoint.official.released import convert_released, key_map, recognise
from maft.classifiers.mask_clip_pp import MaskCLIPpp
from maft.clip import VocabularyEncoder, load_clip
from maft.data.label_sets import overlap
from maft.ensembles import ClassifierAlone, FCCLIPEnsemble
from maft.interfaces import BuildContext, Ensemble, Proposer
from maft.layers.sizes import with_short_side
from maft.proposals.mask2former import Mask2Former
from maft.registry import PROPOSERS
from maft.segmentor import OpenVocabSegmentor
from maft.structures import Images, Proposals, Vocabulary


class _TrueMasks(Proposer):
    """Recorded label maps, as the official code hands them to its classifier: at the size of a proposer's masks."""

    size_divisibility = 1

    def __init__(self, labels: Tensor, short_side: int) -> None:
        super().__init__()
        self.labels, self.short_side = labels, short_side

    def forward(self, images: Images, text: Any, clip: Any, targets: Any = None, records: Any = None) -> Proposals:
        masks = torch.stack([self.labels == value for value in self.labels.unique() if value != 255])
        size = with_short_side(images.sizes[0], self.short_side)
        masks = F.interpolate(masks[None].float(), size, mode="bilinear", align_corners=False)
        return Proposals(masks, images.padded_size, are_logits=False, own_size=size)


def _proposer(case: GoldenCase, context: BuildContext) -> Proposer:
    config, sizes = case.config, case.config["segmentor"]
    short_side = config["visual_encoder_f"]["TEST_IMAGE_SIZE"]
    if config.get("segmentor_name") == "GTSegmentor":
        return _TrueMasks(case.inputs["gt/0"], short_side)
    proposer: Mask2Former = PROPOSERS.build(
        "Mask2Former",
        {
            "BACKBONE": "clip",
            "CLASS_HEAD": "pooled",
            "NUM_QUERIES": sizes["num_queries"],
            "CONV_DIM": sizes["conv_dim"],
            "MASK_DIM": sizes["mask_dim"],
            "HIDDEN_DIM": sizes["hidden_dim"],
            "HEADS": sizes["nheads"],
            "FEEDFORWARD_DIM": sizes["dim_feedforward"],
            "ENCODER_LAYERS": sizes["enc_layers"],
            # The official count includes the prediction before the first layer.
            "DECODER_LAYERS": sizes["dec_layers"] - 1,
            "TEST_SIZE": short_side,
        },
        context,
    )
    prefix = "segmentor."
    state = {f"sem_seg_head.{n.removeprefix(prefix)}": v for n, v in case.weights.items() if n.startswith(prefix)}
    state = {name: value for name, value in state.items() if "void_embedding" not in name}
    converted = key_map("mask_adapter").convert(state, case.name)
    load_strictly(proposer, {n.removeprefix("proposer."): v for n, v in converted.items()}, case.name)
    return proposer


def _ensemble(config: Mapping[str, Any]) -> Ensemble:
    if config.get("segmentor_name") == "GTSegmentor":
        return ClassifierAlone()
    test = config["maskclippp_test"]
    if not test["ENSEMBLE_ON"]:
        return FCCLIPEnsemble(alpha=1.0, beta=1.0)
    return FCCLIPEnsemble(alpha=test["GEOMETRIC_ENSEMBLE_ALPHA"], beta=test["GEOMETRIC_ENSEMBLE_BETA"], floor=1e-8)


def build_model(case: GoldenCase) -> OpenVocabSegmentor:
    """The recorded model with its weights: the proposer's CLIP is the shared one, the classifier has its own."""
    config, weights = case.config, case.weights
    clip = recorded_clip(config["clip_f"], case.device)
    recorded = {name for name in weights if name.startswith("text_encoder_f.")}
    scale, void = 100.0, None
    if recorded:
        prefixes = {"text_encoder_f.": "", "visual_encoder_f.proxy.": "visual."}
        state = {
            new + name.removeprefix(old): value
            for old, new in prefixes.items()
            for name, value in weights.items()
            if name.startswith(old)
        }
        load_recorded_clip(clip, state, "")
        scale = float(clip.temperature)
        void = weights["segmentor.void_embedding.weight"]
    encoder = VocabularyEncoder(
        clip.embed_dim, clip.text_width, synonyms="max", void=void is not None, logit_scale=scale
    ).to(case.device)
    if void is not None:
        load_strictly(encoder, {"void_embedding": void}, case.name)
    test, options = config["mask_former_test"], recorded_similarity(config)
    names = Vocabulary(tuple(config["test_classes"]))
    model = OpenVocabSegmentor(
        clip=clip,
        vocabulary_encoder=encoder,
        proposer=_proposer(case, BuildContext(clip, len(names), nn.Identity)),
        classifier=recorded_classifier(case, train_text=_TEXT_RULES[config["text_finetune"]], **options),
        ensemble=_ensemble(config),
        losses={},
        inference={
            "semantic": test["SEMANTIC_ON"], "panoptic": test["PANOPTIC_ON"], "instance": test["INSTANCE_ON"],
            "resize_before": False, "labels_only": False, "seen_penalty": 0.0, "best_masks_above": 0.0,
            "sum_logits": False, "max_instances": config["segmentor"]["topk"],
            "object_mask_threshold": test.get("OBJECT_MASK_THRESHOLD", 0.0),
            "overlap_threshold": test.get("OVERLAP_THRESHOLD", 0.0),
        },
    ).to(case.device)  # fmt: skip
    seen = overlap(names.names, config["train_classes"])
    things = [index in config["thing_ids"] for index in range(len(names))]
    model.set_vocabulary(Vocabulary(names.names, seen), things)
    return model.eval()


# How each released file is built: the CLIP, and what is learned on similarities.
_EVA: dict[str, Any] = {"similarity": "linear"}
_CONVNEXT: dict[str, Any] = {"similarity": "pseudo_text", "train": "all"}
RELEASED: dict[str, tuple[str, dict[str, Any]]] = {
    "coco-stuff_eva-clip-vit-l-14-336_wtext": ("EVA02-L-14-336", {**_EVA, "templates": "single"}),
    "coco-stuff_clip-convnext-base": ("convnext_base_w_320", _CONVNEXT),
    "coco-pan_clip-rn50x16": ("RN50x16", {**_EVA, "train": "all"}),
    "coco-pan_clip-convnext-base": ("convnext_base_w_320", _CONVNEXT),
    "coco-pan_clip-convnext-large": ("convnext_large_d_320", _CONVNEXT),
    "coco-pan_clip-convnext-xxlarge": ("convnext_xxlarge", _CONVNEXT),
    "coco-pan_eva-clip-vit-b-16": ("EVA02-B-16", _EVA),
    "coco-pan_eva-clip-vit-l-14-336": ("EVA02-L-14-336", _EVA),
    "coco-pan_eva-clip-vit-g-14-plus": ("EVA01-g-14-plus", _EVA),
}
_PROPOSERS = {
    "fcclip_coco-pan_clip-convnext-base.pth": ("convnext_base_w_320", 250),
    "fcclip_coco-pan_clip-convnext-large.pth": ("convnext_large_d_320", 250),
    "maftp_b.pth": ("convnext_base_w_320", 100),
    "maftp_l.pth": ("convnext_large_d_320", 100),
    "maftp_l_pano.pth": ("convnext_large_d_320", 100),
}


@golden_case("maskclippp", "checkpoint_keys")
def released_files(case: GoldenCase) -> dict[str, Tensor]:
    """Every released file holds what our model of it has, but for a frozen text tower and the image tower's head."""
    fits: dict[str, Tensor] = {}
    problems: list[str] = []
    for file, names in released_shapes(case):
        record = case.record[file]
        if file.startswith("mask generator: "):
            found = _misfits_of_proposer(file.removeprefix("mask generator: "), names)
        else:
            found = _misfits(file, names, record)
        fits[file] = torch.tensor(float(not found))
        problems += [f"{file}: {line}" for line in found[:3]]
    if problems:
        raise AssertionError("; ".join(problems))
    return fits


def _misfits(file: str, official: Mapping[str, torch.Size], record: Mapping[str, Any]) -> list[str]:
    name, options = RELEASED[file.removeprefix("maskclippp_").removesuffix(".pth")]
    tuned = any(key.startswith("text_encoder.") for key in official)
    with torch.device("meta"):
        clip = load_clip(name, "random")
        classifier = MaskCLIPpp(clip, clip, train_text="attention_mlp_norms" if tuned else "none", **options)
    release = str(recognise(official))
    state = {n.removeprefix("classifier."): v for n, v in convert_released(official, release, file).items()}
    texts = {f"clip.{key}" for key in clip.state_dict() if not key.startswith("model.visual.")}
    expected = {key: v for key, v in classifier.state_dict().items() if tuned or key not in texts}
    found = differences(expected, state)
    trained = sum(parameter.numel() for parameter in classifier.trainable_parameters())
    if trained != record["n_trainable"]:
        found.append(f"trains {trained} numbers instead of {record['n_trainable']}")
    return found


def _misfits_of_proposer(file: str, official: Mapping[str, torch.Size]) -> list[str]:
    name, queries = _PROPOSERS[file]
    with torch.device("meta"):
        clip = load_clip(name, "random")
        options = {"BACKBONE": "clip", "CLASS_HEAD": "pooled", "NUM_QUERIES": queries}
        proposer = PROPOSERS.build("Mask2Former", options, BuildContext(clip, 1, nn.Identity))
        encoder = VocabularyEncoder(clip.embed_dim, clip.text_width)
    parts: dict[str, nn.Module] = {"proposer": proposer, "vocabulary_encoder": encoder}
    if any(key.startswith("backbone.") for key in official):
        parts["clip"] = clip
    state = key_map("mask_adapter").convert(official, file)
    return differences(
        {f"{part}.{n}": v for part, module in parts.items() for n, v in module.state_dict().items()}, state
    )


_TEXT_RULES: dict[str, Any] = {"none": "none", "attention": "attention_mlp_norms"}


@golden_case("maskclippp", "model_eva_fcclip", "model_convnext_maft", "model_eva_gt_masks")
@torch.no_grad()
def predictions(case: GoldenCase) -> dict[str, Tensor]:
    model = build_model(case)
    items = [
        {"image": case.inputs[f"image/{index}"], "height": height, "width": width}
        for index, (height, width) in enumerate(case.record["inputs_json"]["height_width"])
    ]
    outputs: dict[str, Tensor] = {}
    for index, item in enumerate(items):
        images = model.padded([item])
        proposals = model.propose(images, [item])
        classification = model.classify(images, proposals)
        assert classification is not None
        if proposals.class_logits is None:
            outputs[f"mask_cls/{index}"] = classification.logits[0]
            outputs[f"mask_acc/{index}"] = classification.logits[0].argmax(-1)
        else:
            outputs[f"mask_cls/{index}"] = model.class_probabilities(proposals, classification)[0].log()
        (result,) = model([item])
        outputs[f"sem_seg/{index}"] = result["sem_seg"]
        if "panoptic_seg" in result:
            outputs[f"panoptic_seg/{index}"], segments = result["panoptic_seg"]
            expected = case.record["outputs_json"]["panoptic_segments"][index]
            assert segments_of(segments) == expected, f"segments {segments} instead of {expected}"
        if "instances" in result:
            outputs |= {f"instances/{index}/{n}": value for n, value in instances_of(result["instances"]).items()}
    return outputs
