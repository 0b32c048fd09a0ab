"""Whole models as pieces of work: inference by stages, and training steps, of released configs with random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.structures import Instances
from torch import Tensor, nn

from benchmarks.inputs import random_mask_logits
from benchmarks.work import Work
from maft.building import build_model
from maft.checkpoint.loading import InitialWeights
from maft.config import load_config
from maft.structures import Images, Proposals

# Texts are encoded once a vocabulary: their tower, which has a benchmark of its own, is cut to its first layer here.
_TEXT_LAYERS = 1


def maft_inference(
    device: torch.device,
    *,
    config: str = "maft/maft_vitb16_coco-stuff-171",
    size: tuple[int, int] = (640, 864),
    overrides: Sequence[str] = (),
) -> Work:
    """MAFT ViT-B/16: one image to labels."""
    model = _model(config, device, overrides)
    proposer = model.proposer
    stages = {
        "backbone": (proposer.backbone, "forward"),
        "pixel decoder": (proposer.pixel_decoder, "forward"),
        "transformer decoder": (proposer.decoder, "forward"),
        "classifier": (model.classifier, "forward"),
        "post-processing": (model, "combine"),
    }
    if hasattr(proposer, "interaction"):
        stages["text interaction"] = (proposer.interaction, "forward")
    return _inference(model, size, stages)


def ovseg_proposals(
    device: torch.device, *, config: str = "ovseg/ovseg_swinb_vitl14", size: tuple[int, int] = (640, 864)
) -> Work:
    """OVSeg's proposer, a MaskFormer on Swin-B: one image to masks and class scores."""
    model = _model(config, device)
    images, text = _images(size, device), model.vocabulary_encoder(model.vocabulary, model.clip)

    @torch.no_grad()
    def run() -> Mapping[str, Tensor]:
        proposals = model.proposer(images, text, model.clip)
        return {"masks": proposals.masks, "classes": proposals.class_logits}

    return Work(f"{_times(size)}, {len(model.vocabulary)} classes", run, model)


def ovseg_regions(
    device: torch.device,
    *,
    config: str = "ovseg/ovseg_swinb_vitl14",
    size: tuple[int, int] = (640, 864),
    regions: int = 8,
) -> Work:
    """OVSeg's classifier, ViT-L/14 on one masked crop per region."""
    model = _model(config, device)
    images, text = _images(size, device), model.vocabulary_encoder(model.vocabulary, model.clip)
    masks = random_mask_logits(regions, (size[0] // 4, size[1] // 4))[None].to(device)
    proposals = Proposals(masks, images.padded_size)

    @torch.no_grad()
    def run() -> Mapping[str, Tensor]:
        return {"classes": model.classifier(images, proposals, text, model.clip).logits}

    return Work(f"{regions} regions of {_times(size)}", run, model)


def mask_adapter_inference(
    device: torch.device,
    *,
    config: str = "mask_adapter/fcclip_convnextl",
    size: tuple[int, int] = (640, 864),
    overrides: Sequence[str] = ("MODEL.CLIP.NAME", "convnext_base_w_320"),
) -> Work:
    """FC-CLIP with Mask-Adapter on a ConvNeXt-B: one image to semantic labels."""
    off = ["MODEL.INFERENCE.PANOPTIC", "False", "MODEL.INFERENCE.INSTANCE", "False"]
    model = _model(config, device, [*overrides, *off])
    stages = {
        "CLIP tower": (model.clip, "dense_features"),
        "pixel decoder": (model.proposer.pixel_decoder, "forward"),
        "transformer decoder": (model.proposer.decoder, "forward"),
        "Mask-Adapter head": (model.classifier.head, "forward"),
        "post-processing": (model, "combine"),
    }
    return _inference(model, size, stages)


def maft_training(device: torch.device, *, config: str = "maft/maft_vitb16_coco-stuff-171", side: int = 480) -> Work:
    """A step of MAFT's stage 2: the proposer is frozen, CLIP's image tower is tuned."""
    return _training(config, device, side)


def freeseg_training(
    device: torch.device, *, config: str = "maft/freeseg_r101_coco-stuff-171", side: int = 480
) -> Work:
    """A step of FreeSeg, MAFT's stage 1."""
    return _training(config, device, side)


def warm_up_training(
    device: torch.device, *, config: str = "mask_adapter/fcclip_convnextl_warm-up", side: int = 480
) -> Work:
    """A step of Mask-Adapter's first stage: ground-truth masks train the head."""
    return _training(config, device, side, ["MODEL.CLIP.NAME", "convnext_base_w_320"])


def _model(config: str, device: torch.device, overrides: Sequence[str] = ()) -> Any:
    cfg = load_config(config, ["MODEL.VOCABULARY.TEMPLATES", "single", *overrides])
    cfg.MODEL.DEVICE, cfg.MODEL.START_FROM = str(device), []
    if cfg.MODEL.CLIP.PRETRAINED:
        cfg.MODEL.CLIP.PRETRAINED = "random"
    torch.manual_seed(0)
    model = build_model(cfg, InitialWeights())
    text: Any = model.clip.model
    for name in ("text", "transformer"):
        tower = getattr(text, name, None)
        blocks = getattr(getattr(tower, "transformer", tower), "resblocks", None)
        if blocks is not None and tower is not getattr(text, "visual", None):
            del blocks[_TEXT_LAYERS:]
    _stir(model)
    return model.eval()


@torch.no_grad()
def _stir(model: nn.Module) -> None:
    """Constants become random: as initialised, normalisations, gammas and offsets would hide what is done with them."""
    draws = torch.Generator().manual_seed(0)
    for name, value in model.state_dict().items():
        if not value.is_floating_point() or value.numel() < 2 or value.amin() != value.amax():
            continue
        noise = torch.randn(value.shape, generator=draws).to(value.device)
        value.mul_(1 + 0.1 * noise).add_(0.02 * noise)
        if name.endswith("running_var"):
            value.abs_().add_(0.1)


def _inference(model: Any, size: tuple[int, int], stages: Mapping[str, tuple[Any, str]]) -> Work:
    image = _pixels(size).to(torch.uint8)
    records = [{"image": image, "height": size[0], "width": size[1]}]
    seen: dict[str, Tensor] = {}

    def keep(_: nn.Module, __: Any, proposals: Any) -> None:
        seen["masks"], seen["queries' classes"] = proposals.masks, proposals.class_logits

    model.proposer.register_forward_hook(keep)

    @torch.no_grad()
    def run() -> Mapping[str, Tensor]:
        result = model(records)[0]
        return {**seen, "labels": result["sem_seg_labels"], "confidence": result["sem_seg_confidence"]}

    return Work(f"{_times(size)}, {len(model.vocabulary)} classes", run, model, stages)


def _training(config: str, device: torch.device, side: int, overrides: Sequence[str] = ()) -> Work:
    model = _model(config, device, overrides).train()
    for module in model.modules():
        # Draws would differ where a sum is divided in another way.
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    instances = Instances((side, side))
    instances.gt_masks = random_mask_logits(8, (side, side)) > 0
    instances.gt_classes = torch.arange(8)
    records = [{"image": _pixels((side, side)).to(torch.uint8), "instances": instances}]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def run() -> Mapping[str, Tensor]:
        torch.manual_seed(0)
        model.zero_grad(set_to_none=True)
        losses = model(records)
        sum(losses.values()).backward()
        norms = [parameter.grad.norm() for parameter in trained if parameter.grad is not None]
        return {**{name: loss.detach()[None] for name, loss in losses.items()}, "gradients": torch.stack(norms)}

    return Work(f"forward and backward, one image of {_times((side, side))}", run, model)


def _pixels(size: tuple[int, int]) -> Tensor:
    draws = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, max(2, size[0] // 8), max(2, size[1] // 8), generator=draws)
    return F.interpolate(coarse, size, mode="bilinear", align_corners=False)[0] * 255


def _images(size: tuple[int, int], device: torch.device) -> Images:
    return Images.from_list([_pixels(size).to(device)], 32)


def _times(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


MODELS: dict[str, Callable[[torch.device], Work]] = {
    "maft-inference": maft_inference,
    "mask-adapter-inference": mask_adapter_inference,
    "ovseg-proposals": ovseg_proposals,
    "ovseg-regions": ovseg_regions,
    "maft-training": maft_training,
    "freeseg-training": freeseg_training,
    "warm-up-training": warm_up_training,
}
