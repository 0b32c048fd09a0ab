"""MaskCLIP++'s mask prior: where a soft mask acts in each kind of image tower.

Of a soft mask m on the token grid, with the learned scale s of an attention head, a patch p gets the additive logit

    m_p exp(s)  where m_p exceeds the threshold,    -100 elsewhere

so that a mask without any patch attends to the whole image by content. A tower with a class token has one more copy of
it for each mask in its last blocks, which sees patches alone; a ResNet asks once for each mask in its attention pool;
the mean of a ConvNeXt's last map becomes the mean under the mask.

Shape letters: B images, Q masks, D joint embedding, (gh, gw) grid, P = gh gw.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from maft.clip.towers import ClassTokenTower, ImageTower
from maft.clip.towers.maps import ConvNeXtTower
from maft.clip.towers.resnet import ResNetTower
from maft.clip.towers.sequences import TimmSequence
from maft.errors import UserError
from maft.layers.mask_pool import weighted_mean

_HIDDEN = -100.0


def require_mask_prior(tower: ImageTower, name: str) -> None:
    """Raises `UserError` where MaskCLIP++ has no mask prior for a tower."""
    if not isinstance(tower, (ClassTokenTower, ConvNeXtTower, ResNetTower)):
        raise UserError(
            f"MODEL.CLASSIFIER.NAME MaskCLIPpp does not work with the image tower of {name} ({tower.kind}): its mask "
            "prior is defined for a class token (ViT, EVA-02, EVA-01), a ConvNeXt and CLIP's ResNets; choose one of "
            "these, such as EVA02-L-14-336 or convnext_base_w_320."
        )


def has_official_batches(tower: ImageTower) -> bool:
    """Whether the official code handles batches of a tower in a way of its own, as it does those of EVA."""
    return isinstance(tower, ClassTokenTower) and isinstance(tower.sequence, TimmSequence)


def scale_shape(tower: ImageTower, blocks: int) -> tuple[int, ...]:
    """Shape of the learned scales of a tower whose last ``blocks`` blocks see masks; () where it has none."""
    if isinstance(tower, ClassTokenTower):
        return blocks, int(tower.blocks[0].attn.num_heads)  # type: ignore[union-attr, arg-type]
    return (int(tower.visual.attnpool.num_heads),) if isinstance(tower, ResNetTower) else ()


def prior_bias(masks: Tensor, scale: Tensor, threshold: float | None) -> Tensor:
    """Additive logits of patches (B, heads, Q, P).

    Args:
        masks: (B, Q, gh, gw) in [0, 1].
        scale: (heads,) logarithms of the factors inside a mask.
        threshold: what a mask must exceed; None: half its own maximum.
    """
    values = masks.flatten(2)
    least = values.amax(-1, keepdim=True) / 2 if threshold is None else threshold
    inside = (values > least)[:, None]
    return torch.where(inside, values[:, None] * scale.exp().view(1, -1, 1, 1), _HIDDEN)


def class_token_embeddings(
    tower: ClassTokenTower,
    pixels: Tensor,
    masks: Tensor,
    scale: Tensor,
    threshold: float | None,
    *,
    numbers: Sequence[int] | None = None,
    checkpointing: bool = False,
) -> Tensor:
    """Mask tokens of the last blocks: (B, Q, D), not normalised.

    Args:
        pixels: (B, 3, H, W) normalised.
        masks: (B, Q, gh, gw) on the tower's grid.
        scale: (blocks, heads), the first row for the LAST block.
        numbers: of a batch as the official code counts its masks (`_official_rows`, `_official_rotation`); None: as the
            paper says.
    """
    start = len(tower.blocks) - len(scale)
    tokens, grid = tower.tokens(pixels, start, align_corners=True, checkpointing=checkpointing)
    bias = [prior_bias(masks, row, threshold) for row in scale.flip(0)]
    rows = rotation = None
    if numbers is not None:
        rows = _official_rows(tokens, masks.shape[1])
        rotation = _official_rotation(tower.sequence.rotation(grid), numbers)
    rows = tower.class_rows(
        tokens,
        grid,
        bias,
        start,
        rows=rows,
        rotation=rotation,
        sees_itself=False,
        keeps_class_token=True,
        checkpointing=checkpointing,
    )
    return tower.project(rows)


def _official_rows(tokens: Tensor, masks: int) -> Tensor:
    """What the mask tokens of EVA towers start from in the official code: of image i, token i of the FIRST image."""
    return tokens[0, : len(tokens), None].expand(-1, masks, -1)


def _official_rotation(rotation: Tensor | None, numbers: Sequence[int]) -> Tensor | None:
    """Rotary positions (B, 1, P, n) as the official code gives them to the last P tokens of a padded sequence.

    An image with d masks fewer than the most in the batch has d tokens of padding behind its patches, which are rotated
    as if they stood d places earlier, the first d of them not at all.
    """
    if rotation is None:
        return None
    sine, cosine = torch.zeros_like(rotation).chunk(2, dim=-1)
    still = torch.cat([sine, torch.ones_like(cosine)], dim=-1)
    missing = [max(numbers) - number for number in numbers]
    return torch.stack([torch.cat([still[:d], rotation[: max(0, len(rotation) - d)]]) for d in missing])[:, None]


def mean_under_masks(tower: ConvNeXtTower, features: Tensor, masks: Tensor) -> Tensor:
    """The projected mean of dense features (B, C, gh, gw) over soft masks (B, Q, gh, gw): (B, Q, D), not normalised."""
    masks = masks.float()
    return tower.project_pooled(weighted_mean(features, masks / (masks.sum((-2, -1), keepdim=True) + 1e-6)))
