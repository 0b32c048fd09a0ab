"""Masked crops, OVSeg's mask classifier (Liang et al., CVPR 2023, section 3.2): CLIP sees every region by itself."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maft.clip import CLIPEncoder
from maft.clip.mask_prompts import MaskPrompts
from maft.clip.vit import encode_vit
from maft.errors import UserError
from maft.layers.crops import crop_regions, expand_boxes, tight_boxes
from maft.registry import CLASSIFIERS, BuildContext
from maft.structures import Classification, Images, Proposals, TextClassifier

TRAINING_RULES = ("none", "prompts", "tower", "all")
FILLS = ("mean", "zero")
_NODE = "MODEL.CLASSIFIER.MaskedCrops"


@CLASSIFIERS.register()
class MaskedCrops(nn.Module):
    """Cuts every proposal out of the image, fills its background and embeds it with CLIP's image tower.

    Also the classifier of ZSSeg (defaults, without prompts) and FreeSeg (``resize_align_corners``).

    Args:
        visual: the tower to fine-tune, a copy of CLIP's; None runs the shared frozen tower given at call time.
        mask_prompts: learned tokens for the patches outside a region (section 3.3), or None.
        input_size: side of the square that regions are resized to.
        mask_threshold: a pixel belongs to a proposal when its probability is above this; a proposal without a pixel is
            not classified.
        expand_ratio: growth of the bounding box about its centre, at least 1.
        fill: colour outside the mask: "mean" (CLIP's pixel mean) or "zero" (black).
        matting: blend image and fill by the mask's probability instead of cutting at the threshold.
        resize_align_corners: bicubic rule of the regions; True in FreeSeg's release.
        crops_per_chunk: regions that CLIP sees at once, a bound on memory.
        train: "none", "prompts", "tower" (the image tower) or "all" (both).

    Raises:
        UserError: an unknown fill or training rule, or a number out of range.
    """

    def __init__(
        self,
        visual: nn.Module | None,
        mask_prompts: MaskPrompts | None,
        *,
        input_size: int = 224,
        mask_threshold: float = 0.5,
        expand_ratio: float = 1.0,
        fill: str = "mean",
        matting: bool = False,
        resize_align_corners: bool = False,
        crops_per_chunk: int = 64,
        train: str = "none",
    ) -> None:
        super().__init__()
        _check_choice("FILL", fill, FILLS)
        _check_choice("TRAIN", train, TRAINING_RULES)
        if not 0 <= mask_threshold < 1:
            raise UserError(f"{_NODE}.MASK_THRESHOLD is {mask_threshold}, but it must lie in [0, 1).")
        if expand_ratio < 1:
            raise UserError(f"{_NODE}.EXPAND_RATIO is {expand_ratio}, but a box smaller than its mask would cut it.")
        if crops_per_chunk < 1:
            raise UserError(f"{_NODE}.CROPS_PER_CHUNK is {crops_per_chunk}, but CLIP must see one region at least.")
        self.visual = visual
        self.mask_prompts = mask_prompts
        self.input_size = input_size
        self.mask_threshold = mask_threshold
        self.expand_ratio = expand_ratio
        self.fill = fill
        self.matting = matting
        self.resize_align_corners = resize_align_corners
        self.crops_per_chunk = crops_per_chunk
        self.rule = train
        self.requires_grad_(False)
        for parameter in self.trainable_parameters():
            parameter.requires_grad_(True)

    @classmethod
    def from_options(
        cls,
        context: BuildContext,
        *,
        input_size: int | None = None,
        mask_threshold: float = 0.5,
        expand_ratio: float = 1.0,
        fill: str = "mean",
        matting: bool = False,
        mask_prompt_depth: int = 0,
        mask_prompts: str = "",
        resize_align_corners: bool = False,
        crops_per_chunk: int = 64,
        train: str = "none",
    ) -> MaskedCrops:
        """Builds the classifier for ``context.clip``, whose image tower is copied when it trains.

        Args:
            input_size: default CLIP's own.
            mask_prompt_depth: how often blank patches are replaced by prompts; 0 for none.
            mask_prompts: file with trained prompts, of ours or of the official release; "" starts from random ones.
        """
        clip = context.clip
        if mask_prompt_depth == 0 and (mask_prompts or train in ("prompts", "all")):
            raise UserError(f"{_NODE} has MASK_PROMPT_DEPTH 0 and yet uses prompts: set it to the prompts' depth.")
        size = clip.image_size[0] if input_size is None else input_size
        prompts = None
        if mask_prompt_depth:
            prompts = MaskPrompts(clip.visual, mask_prompt_depth, (size, size))
            if mask_prompts:
                prompts.load(mask_prompts)
        return cls(
            deepcopy(clip.visual) if train in ("tower", "all") else None,
            prompts,
            input_size=size,
            mask_threshold=mask_threshold,
            expand_ratio=expand_ratio,
            fill=fill,
            matting=matting,
            resize_align_corners=resize_align_corners,
            crops_per_chunk=crops_per_chunk,
            train=train,
        )

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """What the training rule fine-tunes."""
        if self.mask_prompts is not None and self.rule in ("prompts", "all"):
            yield from self.mask_prompts.parameters()
        if self.visual is not None and self.rule in ("tower", "all"):
            yield from self.visual.parameters()

    def forward(self, images: Images, proposals: Proposals, text: TextClassifier, clip: CLIPEncoder) -> Classification:
        """Names every proposal that has a pixel.

        Returns:
            logits (B, Q, C), or (B, Q, C + 1) with void last, embeddings (B, Q, D) before normalisation, and valid
            (B, Q); rows of proposals that are not valid hold zeros.
        """
        crops = [self.regions(images, proposals, index, clip) for index in range(len(images.sizes))]
        valid = torch.stack([one for _, _, one in crops])
        found = self.encode_regions(torch.cat([r for r, _, _ in crops]), torch.cat([m for _, m, _ in crops]), clip)
        embeddings = found.new_zeros(*valid.shape, found.shape[-1])
        embeddings = embeddings.index_put((valid,), found)
        # Bfloat16 has steps of half a unit at 100 times the cosine, too coarse for a softmax.
        with torch.autocast(embeddings.device.type, enabled=False):
            logits = text.logits(embeddings.float())
        return Classification(logits, embeddings, valid, has_void=text.void is not None)

    def regions(
        self, images: Images, proposals: Proposals, index: int, clip: CLIPEncoder
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The masked regions of one image.

        Returns:
            normalised regions (n, 3, s, s), region masks (n, 1, s, s) and valid (Q,) bool, n of them True.
        """
        height, width = images.sizes[index]
        masks = proposals.image(index).probabilities(proposals.padded_size)[0, :, :height, :width]
        binary = masks > self.mask_threshold
        if proposals.valid is not None:
            binary = binary & proposals.valid[index, :, None, None]
        boxes = tight_boxes(binary)
        valid = boxes[:, 2] > 0
        binary, boxes = binary[valid], boxes[valid]
        pixels = images.pixels[index, :, :height, :width]
        normalized = (pixels - clip.pixel_mean[:, None, None]) / clip.pixel_std[:, None, None]
        background = torch.zeros_like(clip.pixel_mean)
        if self.fill == "zero":
            background = -clip.pixel_mean / clip.pixel_std
        regions, region_masks = crop_regions(
            normalized,
            masks[valid].to(normalized.dtype) if self.matting else binary,
            expand_boxes(boxes, self.expand_ratio, (height, width)),
            (self.input_size, self.input_size),
            fill=background,
            align_corners=self.resize_align_corners,
        )
        return regions, region_masks, valid

    def encode_regions(self, regions: Tensor, region_masks: Tensor, clip: CLIPEncoder) -> Tensor:
        """Embeds masked regions, with mask prompts when there are some.

        Args:
            regions: (n, 3, s, s) normalised, n may be 0.
            region_masks: (n, 1, s, s), above 0 where a pixel belongs to the region.

        Returns:
            (n, D), not normalised.
        """
        embeddings = [
            self._encode(*chunk, clip)
            for chunk in zip(regions.split(self.crops_per_chunk), region_masks.split(self.crops_per_chunk))
            if len(chunk[0])
        ]
        return torch.cat(embeddings) if embeddings else regions.new_zeros(0, clip.embed_dim)

    def encode_image(self, images: Images, clip: CLIPEncoder, *, teacher: bool = False) -> Tensor:
        """The tower on whole images squashed to a square, as self-distillation compares it: (B, D), not normalised.

        Args:
            teacher: run CLIP's own frozen tower on the same pixels instead of the fine-tuned one.

        Raises:
            UserError: no tower is fine-tuned.
        """
        if self.visual is None:
            raise UserError(f"SelfDistillationLoss needs {_NODE}.TRAIN tower or all: no image tower is fine-tuned now.")
        pixels = images.normalized(clip.pixel_mean, clip.pixel_std)
        pixels = F.interpolate(
            pixels, (self.input_size, self.input_size), mode="bicubic", align_corners=self.resize_align_corners
        )
        return clip.encode_image(pixels) if teacher else self._encode_plain(pixels, clip)

    def _encode(self, regions: Tensor, region_masks: Tensor, clip: CLIPEncoder) -> Tensor:
        if self.mask_prompts is not None:
            return self.mask_prompts(clip.visual if self.visual is None else self.visual, regions, region_masks)
        return self._encode_plain(regions, clip)

    def _encode_plain(self, pixels: Tensor, clip: CLIPEncoder) -> Tensor:
        if self.visual is None:
            return clip.encode_image(pixels)
        return encode_vit(self.visual, pixels) if clip.kind == "vit" else self.visual(pixels)


def _check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(f"{_NODE}.{option} is {value!r}; choose one of: {', '.join(choices)}.")
