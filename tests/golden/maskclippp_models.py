"""MaskCLIP++ as a whole: recorded predictions on FC-CLIP's, MAFT+'s and the true masks, and its released files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golden.case import GoldenCase, golden_case
from golden.clip import load_recorded_clip
from golden.maskclippp import recorded_classifier, recorded_clip, recorded_similarity
from golden.models_maskadapter import instances_of, segments_of
from maft.checkpoint.key_map import load_strictly
from maft.checkpoint.official.released import key_map
from maft.clip import VocabularyEncoder
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
    return FCCLIPEnsemble(alpha=test["GEOMETRIC_ENSEMBLE_ALPHA"], beta=test["GEOMETRIC_ENSEMBLE_BETA"])


def build_model(case: GoldenCase) -> OpenVocabSegmentor:
    """The recorded model with its weights: the proposer's CLIP is the shared one, the classifier has its own."""
    config, weights = case.config, case.weights
    clip = recorded_clip(config["clip_f"], case.device)
    recorded = {name for name in weights if name.startswith("text_encoder_f.")}
    scale, void = 100.0, None
    if recorded:
        names = {"text_encoder_f.": "", "visual_encoder_f.proxy.": "visual."}
        state = {
            new + name.removeprefix(old): value
            for old, new in names.items()
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
