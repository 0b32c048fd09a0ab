"""Runs recorded cases of OVSeg's masked crops, of their fine-tuning transform and of mask prompts."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF

from golden.case import GoldenCase, golden_case
from golden.clip import openai_clip
from maft.checkpoint.key_map import load_strictly
from maft.checkpoint.official.released import key_map
from maft.classifiers.masked_crops import MaskedCrops
from maft.clip.mask_prompts import MaskPrompts
from maft.data.pairs import RegionPairMapper
from maft.layers.crops import crop_regions, expand_boxes, tight_boxes
from maft.structures import Images, Proposals

# Sizes of a text tower that these cases do not have.
_NO_TEXT = {"context_length": 8, "vocab_size": 8, "text_width": 8, "text_heads": 1, "text_layers": 1}
# A CLIP of which only the pixel normalisation is read.
_ANY_CLIP = {
    "embed_dim": 8,
    "image_resolution": 16,
    "vision_layers": 1,
    "vision_width": 64,
    "vision_patch_size": 8,
    **_NO_TEXT,
}


@golden_case(
    "ovseg",
    "crop_regions_mean_r10_t035",
    "crop_regions_mean_r15_t05",
    "crop_regions_zero_r10_t05",
    "crop_regions_zero_r15_t035_matting",
)
def crop_regions_case(case: GoldenCase) -> dict[str, Tensor]:
    config, image, masks = case.config, case.inputs["image"].float(), case.inputs["mask"]
    clip = openai_clip(_ANY_CLIP, case.device)
    classifier = MaskedCrops(
        clip,
        input_size=config["region_size"],
        mask_threshold=config["mask_thr"],
        expand_ratio=config["mask_expand_ratio"],
        fill=config["mask_fill"],
        matting=config["mask_matting"],
    )
    images = Images.from_list([image])
    size = (int(image.shape[-2]), int(image.shape[-1]))
    proposals = Proposals(masks[None], size, are_logits=False)
    regions, region_masks, valid = classifier.regions(images, proposals, 0, clip)

    boxes = tight_boxes(masks > config["mask_thr"])[valid]
    crops = expand_boxes(boxes, config["mask_expand_ratio"], size)
    fill = clip.pixel_mean if config["mask_fill"] == "mean" else torch.zeros_like(clip.pixel_mean)
    first = masks[valid][:1] if config["mask_matting"] else masks[valid][:1] > config["mask_thr"]
    side = (config["region_size"], config["region_size"])
    unnormalized, _ = crop_regions(image, first, crops[:1], side, fill=fill)
    return {
        "boxes": boxes.float(),
        "crop_ltrb": crops,
        "region_masks": region_masks,
        "regions": regions,
        "unnorm_region_first": unnormalized[0],
        "valid": valid,
    }


@golden_case("ovseg", "mask_prompt_vit_d0", "mask_prompt_vit_d1", "mask_prompt_vit_d3")
def mask_prompt_vit(case: GoldenCase) -> dict[str, Tensor]:
    config, inputs = case.config, case.inputs
    tower = openai_clip(
        {
            "embed_dim": config["output_dim"],
            "image_resolution": config["input_resolution"],
            "vision_layers": config["layers"],
            "vision_width": config["width"],
            "vision_heads": config["heads"],
            "vision_patch_size": config["patch_size"],
            **_NO_TEXT,
        },
        case.device,
    ).tower
    weights = case.weights
    stored = {name: weights.pop(name) for name in list(weights) if name == "mask_embedding"}
    load_strictly(tower.visual, key_map("image_tower").convert(weights), case.name)
    outputs = {"feat_nomask": tower.encode(inputs["image"])}
    if config["mask_prompt_depth"]:
        prompts = MaskPrompts(tower, config["mask_prompt_depth"]).to(case.device)
        load_strictly(prompts, key_map("mask_prompts").convert(stored), case.name)
        masked = prompts(tower, inputs["image"], inputs["mask"])
        (masked * inputs["upstream"]).sum().backward()
        outputs["feat_masked"] = masked.detach()
        assert prompts.tokens.grad is not None
        outputs["grad/mask_embedding"] = prompts.tokens.grad
    return outputs


@golden_case("ovseg", "clip_mask_transform")
def clip_mask_transform(case: GoldenCase) -> dict[str, Tensor]:
    region = Image.fromarray(case.inputs["image_hwc"].cpu().numpy())
    clip = openai_clip(_ANY_CLIP, case.device)
    size = case.config["size"]
    mapper = RegionPairMapper(size, mask_source="colour")
    mean, std = (value.cpu()[:, None, None] for value in (clip.pixel_mean, clip.pixel_std))
    first, second = (tuple(box) for box in case.record["crops"])
    train, train_mask = mapper.crop(region, None, first)
    # The release validates on centre crops, which nothing here needs but the recording holds.
    centre = TF.center_crop(TF.resize(region, [size], InterpolationMode.BICUBIC), [size, size])
    val, val_mask = mapper.crop(centre, None, (0, 0, size, size))
    return {
        "train/image": (train - mean) / std,
        "train/mask": train_mask[0].long(),
        "train_nomask/image": (mapper.crop(region, None, second)[0] - mean) / std,
        "val/image": (val - mean) / std,
        "val/mask": val_mask[0].long(),
    }
