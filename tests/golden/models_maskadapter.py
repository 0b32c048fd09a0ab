"""FC-CLIP, MAFT+ and Mask-Adapter as whole models: recorded predictions and training steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from detectron2.structures import Instances
from torch import Tensor, nn

from golden.case import GoldenCase, golden_case, official_name
from golden.clip import convnext_clip
from golden.draws import RecordedDraws
from golden.mask_adapter import head_sizes
from maft.checkpoint.key_map import load_strictly
from maft.checkpoint.official.released import convert_released, key_map, recognise
from maft.classifiers.maft_plus import MAFTPlus
from maft.clip import CLIPEncoder, VocabularyEncoder
from maft.data.label_sets import overlap
from maft.ensembles import ClassifierAlone, FCCLIPEnsemble
from maft.interfaces import BuildContext, Ensemble, Loss, MaskClassifier, Proposer
from maft.losses.mask_aware import MaskAwareLoss
from maft.losses.mask_consistency import MaskConsistencyLoss
from maft.losses.mask_cross_entropy import MaskCrossEntropyLoss
from maft.losses.representation_compensation import RepresentationCompensationLoss
from maft.proposals.mask2former import Mask2Former
from maft.registry import CLASSIFIERS, PROPOSERS
from maft.segmentor import OpenVocabSegmentor
from maft.structures import Images, Proposals, Vocabulary

_WARM_UP_MASKS = 32


def proposer_options(config: dict[str, Any]) -> dict[str, Any]:
    """YAML options of the recorded Mask2Former on CLIP features."""
    return {
        "BACKBONE": "clip",
        "CLASS_HEAD": "pooled",
        "NUM_QUERIES": config["num_queries"],
        "CONV_DIM": config["conv_dim"],
        "MASK_DIM": config["mask_dim"],
        "HIDDEN_DIM": config["hidden_dim"],
        "HEADS": config["nheads"],
        "FEEDFORWARD_DIM": config["dim_feedforward"],
        "ENCODER_LAYERS": config["enc_layers"],
        "ENCODER_POINTS": config["enc_n_points"],
        "ENCODER_FEEDFORWARD_DIM": config["pixel_decoder_ffn_hardcoded"],
        # The official count includes the prediction before the first layer.
        "DECODER_LAYERS": config["dec_layers"] - 1,
        "CLASS_WEIGHT": config["class_weight"],
        "MASK_WEIGHT": config["mask_weight"],
        "DICE_WEIGHT": config["dice_weight"],
        "VOID_WEIGHT": config["no_object_weight"],
        "NUM_POINTS": config["num_points"],
    }


def _transfer_options(config: dict[str, Any]) -> dict[str, Any]:
    return {
        # The official model chooses the form by whether it runs panoptic inference.
        "TEXT_TRANSFER": "res_post_norm" if config["panoptic_on"] else "post_norm",
        "TRANSFER_HEADS": config["cdt_params"][1],
        "ROWS_IN_MEMORY_ORDER": True,
    }


def _adapter_options(case: GoldenCase, weights: dict[str, Tensor], *, on_maft_plus: bool) -> dict[str, Any]:
    prefix, adapter = "mask_adapter.", case.config["mask_adapter"]
    sizes = head_sizes({name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)})
    sizes.pop("embed_dim")
    return {
        **{name.upper(): size for name, size in sizes.items()},
        "MASK_THRESHOLD": adapter["mask_threshold"],
        "IOU_THRESHOLD": adapter["iou_threshold"],
        "NUM_GROUND_TRUTH": adapter["num_gt_masks"],
        "NUM_MATCHED": adapter["num_pred_masks"],
        "MATCH_THRESHOLD": 0.5 if on_maft_plus else 0.4,
        "THRESHOLD_FREE_SLOTS": True,
        **(_transfer_options(case.config) if on_maft_plus else {}),
    }


def _losses(config: dict[str, Any], release: str) -> dict[str, Loss]:
    if release == "FC-CLIP":
        return {}
    if release == "MAFT+":
        return {
            "ranking": MaskAwareLoss(sigmoid_first=True),
            "compensation": RepresentationCompensationLoss(weight=config["rc_weights"]),
        }
    losses: dict[str, Loss] = {"cross_entropy": MaskCrossEntropyLoss(weight=config["class_weight"])}
    if "warm-up" not in release:
        losses["consistency"] = MaskConsistencyLoss(
            weight=config["mask_adapter"]["cos_weight"],
            detach_target=release == "Mask-Adapter on FC-CLIP",
            count_free_slots=True,
        )
    return losses


def build_model(case: GoldenCase, *, training: bool) -> OpenVocabSegmentor:
    """The recorded model with its weights; which of the six it is follows from the names of the weights."""
    config, weights = case.config, case.weights
    release = recognise(weights)
    assert release is not None, "the recorded weights were not recognised"
    clip = convnext_clip(config, case.device)
    train, test = Vocabulary(tuple(config["train_classes"])), Vocabulary(tuple(config["test_classes"]))
    context = BuildContext(clip, len(train), nn.Identity)
    inference = {
        "semantic": config.get("semantic_on", True),
        "panoptic": config["panoptic_on"], "instance": config["instance_on"],
        "resize_before": False, "labels_only": False, "seen_penalty": 0.0, "best_masks_above": 0.0,
        "max_instances": config["topk"], "object_mask_threshold": config["object_mask_threshold"],
        "overlap_threshold": config["overlap_threshold"],
    }  # fmt: skip
    model = OpenVocabSegmentor(
        clip=clip,
        vocabulary_encoder=_vocabulary_encoder(clip, config, weights, train_void=release != "Mask-Adapter on MAFT+"),
        proposer=_proposer(config, release, context, training=training),
        classifier=_classifier(case, weights, release, context),
        ensemble=_ensemble(config, release),
        losses=_losses(config, release),
        freeze_proposer=release.startswith("Mask-Adapter on"),
        inference=inference,
        vocabulary=train,
    ).to(case.device)
    load_strictly(model, convert_released(weights, release, case.name), case.name)
    if not training:
        flags = overlap(test.names, train.names)
        things = [index in config["thing_ids"] for index in range(len(test))]
        model.set_vocabulary(Vocabulary(test.names, tuple(flags)), things)
    return model


def _proposer(config: dict[str, Any], release: str, context: BuildContext, *, training: bool) -> Proposer:
    proposer: Proposer
    if "warm-up" not in release:
        proposer = PROPOSERS.build("Mask2Former", proposer_options(config), context)
    elif training:
        proposer = PROPOSERS.build("GroundTruth", {"NUM_MASKS": _WARM_UP_MASKS}, context)
    else:
        proposer = _StretchedGroundTruth()
    proposer.size_divisibility = config["size_divisibility"]
    if isinstance(proposer, Mask2Former):
        proposer.criterion.oversample_ratio = config["oversample_ratio"]
        proposer.criterion.importance_sample_ratio = config["importance_sample_ratio"]
    return proposer


def _classifier(case: GoldenCase, weights: dict[str, Tensor], release: str, context: BuildContext) -> MaskClassifier:
    if release == "FC-CLIP":
        return CLASSIFIERS.build("MaskPooling", {}, context)
    if release == "MAFT+":
        classifier: MAFTPlus = CLASSIFIERS.build("MAFTPlus", _transfer_options(case.config), context)
        _load_teacher(classifier.teacher, weights)
        return classifier
    options = _adapter_options(case, weights, on_maft_plus="MAFT+" in release)
    return CLASSIFIERS.build("MaskAdapter", options, context)


def _ensemble(config: dict[str, Any], release: str) -> Ensemble:
    if "warm-up" in release:
        return ClassifierAlone(void=True, softmax_twice=True)
    if release == "MAFT+":
        # The classifier names the masks, and the proposer only says which are void.
        return FCCLIPEnsemble(alpha=1.0, beta=1.0)
    on_valid_masks = bool(config.get("ensemble_on_valid_mask", False))
    return FCCLIPEnsemble(alpha=config["alpha"], beta=config["beta"], on_valid_masks=on_valid_masks)


def _vocabulary_encoder(
    clip: CLIPEncoder, config: dict[str, Any], weights: dict[str, Tensor], *, train_void: bool
) -> VocabularyEncoder:
    scale = float(weights["backbone.clip_model.logit_scale"].exp().clamp(max=100))
    return VocabularyEncoder(
        clip.embed_dim,
        clip.text_width,
        templates=config["templates"],
        synonyms="max",
        train_void=train_void,
        logit_scale=scale,
    )


def _load_teacher(teacher: nn.Module, weights: dict[str, Tensor]) -> None:
    prefix = "backbone_t.clip_model.visual."
    state = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    # Files for inference may lack the teacher.
    if state:
        load_strictly(teacher, key_map("image_tower").convert(state), "the recorded teacher")


class _StretchedGroundTruth(Proposer):
    """Ground truth as the warm-up model is evaluated on it: masks of the image stretched over its padding."""

    def forward(self, images: Images, text: Any, clip: Any, targets: Any = None, records: Any = None) -> Proposals:
        labels = records[0]["sem_seg"]
        masks = [labels == value for value in labels.unique() if value != 255]
        return Proposals(torch.stack(masks)[None].float(), images.padded_size, are_logits=False)


def _test_inputs(case: GoldenCase) -> list[dict[str, Any]]:
    items = []
    for index, (height, width) in enumerate(case.record["inputs_json"]["height_width"]):
        item = {"image": case.inputs[f"image/{index}"], "height": height, "width": width}
        if "sem_seg_gt" in case.inputs:
            item["sem_seg"] = case.inputs["sem_seg_gt"]
        items.append(item)
    return items


@golden_case(
    "maskadapter",
    "fcclip_model",
    "fcclip_maskadapter_model",
    "maftp_model",
    "maftp_maskadapter_model",
    "maftp_maskadapter_model_panoptic",
    "maskadapter_gt_eval",
)
@torch.no_grad()
def predictions(case: GoldenCase) -> dict[str, Tensor]:
    model = build_model(case, training=False).eval()
    items = _test_inputs(case)
    images = Images.from_list([item["image"] for item in items], case.config["size_divisibility"])
    proposals = model.propose(images, items)
    probabilities = model.class_probabilities(proposals, model.classify(images, proposals))
    outputs = {f"mask_cls/{index}": table.log() for index, table in enumerate(probabilities)}
    segments = case.record.get("outputs_json", {}).get("panoptic_segments")
    for index, result in enumerate(cast(list[dict[str, Any]], model(items))):
        if "sem_seg" in result:
            outputs[f"sem_seg/{index}"] = result["sem_seg"]
        if "panoptic_seg" in result:
            outputs[f"panoptic_seg/{index}"], found = result["panoptic_seg"]
            found = segments_of(found)
            assert not segments or found == segments[index], f"segments {found} instead of {segments[index]}"
        if "instances" in result:
            outputs |= {f"instances/{index}/{name}": value for name, value in instances_of(result["instances"]).items()}
    return outputs


def segments_of(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Segments without their scores, which are ours; the official code has none."""
    return [{key: segment[key] for key in ("id", "isthing", "category_id")} for segment in found]


def instances_of(found: Instances) -> dict[str, Tensor]:
    """The best ones first."""
    order = found.scores.argsort(descending=True)
    return {
        "scores": found.scores[order],
        "pred_classes": found.pred_classes[order],
        "pred_masks": found.pred_masks[order].to(torch.uint8),
    }


_LOSS_NAMES = {
    "loss_mask_aware": "ranking_loss",
    "loss_representation_compensation": "rc_loss",
    "loss_mask_cross_entropy": "loss_ce",
    "loss_mask_consistency": "loss_cosine",
}


@golden_case(
    "maskadapter",
    "fcclip_train",
    "maftp_train",
    "maskadapter_warmup_train",
    "maskadapter_warmup_maft_train",
    "fcclip_maskadapter_train",
    "maftp_maskadapter_train",
)
def training_step(case: GoldenCase) -> dict[str, Tensor]:
    model = build_model(case, training=True)
    items, release = [], cast(str, recognise(case.weights))
    for index in range(len(case.record["inputs_json"]["height_width"])):
        image = case.inputs[f"image/{index}"]
        instances = Instances((int(image.shape[-2]), int(image.shape[-1])))
        instances.gt_classes = case.inputs[f"gt_classes/{index}"]
        instances.gt_masks = case.inputs[f"gt_masks/{index}"].bool()
        items.append({"image": image, "instances": instances})
    with RecordedDraws(case).replayed():
        losses = cast(dict[str, Tensor], model.train()(items))
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    outputs = {_LOSS_NAMES.get(name, name): value.detach() for name, value in losses.items()}
    outputs["total"] = total.detach()
    parameters = dict(model.named_parameters())
    record = case.record["outputs_json"]
    names = record.get("grad_norm_names", record.get("trainable"))
    if names is not None:
        trainable = {name for name, parameter in parameters.items() if parameter.requires_grad}
        expected = {official_name(name, release) for name in names}
        assert trainable == expected, f"trainable parameters differ: {sorted(map(str, trainable ^ expected))[:4]}"

    def gradient(name: str) -> Tensor:
        value = parameters[official_name(name, release) or ""].grad
        assert value is not None, f"{name} has no gradient"
        return value

    outputs |= {name: gradient(name.removeprefix("grad/")) for name in case.outputs if name.startswith("grad/")}
    if "grad_norms" in case.outputs:
        outputs["grad_norms"] = torch.stack([gradient(name).norm() for name in record["grad_norm_names"]])
    return outputs
