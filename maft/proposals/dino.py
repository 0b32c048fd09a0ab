"""DINOv2 and DINOv3 (Oquab et al., 2023; Simeoni et al., 2025) of the transformers library, taken apart by blocks."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn

from maft.errors import UserError
from maft.proposals.transformers_models import Family, Source, load_model

# By ``model_type``. The blocks of a DINOv2 take a mask since 5.18; those of a DINOv3 always did.
_SINCE = "5.18"
FAMILIES = {
    "dinov2": Family("Dinov2Model", _SINCE),
    "dinov2_with_registers": Family("Dinov2WithRegistersModel", _SINCE),
    "dinov3_vit": Family("DINOv3ViTModel"),
}


class DINOTower(nn.Module):
    """A plain ViT as embeddings, blocks and last norm, whose blocks can be run one by one with a mask.

    Args:
        model: one of `FAMILIES`.
        name: how messages call it.

    Attributes:
        blocks: its transformer blocks.
        norm: what follows the last of them.
        width: of a token, W.
        prefix: tokens before the patches.
        patch_size: (height, width) in pixels.
    """

    def __init__(self, model: Any, name: str) -> None:
        super().__init__()
        # Boolean masks mean attention in this implementation alone.
        model.set_attn_implementation("sdpa")
        config = model.config
        self.name, self.width = name, config.hidden_size
        self.patch_size = (config.patch_size, config.patch_size)
        self.prefix = 1 + getattr(config, "num_register_tokens", 0)
        self.embeddings: Any = model.embeddings
        if self.embeddings.mask_token is not None:
            # It stands for patches that are hidden in DINO's own training.
            self.embeddings.mask_token.requires_grad_(False)
        self.rotary: Any = getattr(model, "rope_embeddings", None)
        holders: Any = (part for part in model.modules() if isinstance(getattr(part, "layer", None), nn.ModuleList))
        self.blocks: nn.ModuleList = next(holders).layer
        self.norm: Any = model.norm if self.rotary is not None else model.layernorm

    def cut(self, first: int) -> tuple[nn.ModuleList, nn.Module]:
        """Gives the blocks from ``first`` on and the norm away, to be trained; freezes what is left, if a block is."""
        taken, norm = self.blocks[first:], self.norm
        self.blocks, self.norm = self.blocks[:first], nn.Identity()
        if first:
            self.requires_grad_(False)
        return taken, norm

    def forward(self, pixels: Tensor) -> tuple[Tensor, tuple[int, int], Any]:
        """Tokens of normalised pixels after its blocks and norm, their grid, and what `run_dino_block` rotates by.

        Args:
            pixels: (B, 3, h, w), h and w multiples of the patch.

        Returns:
            tokens (B, prefix + gh * gw, W), (gh, gw), and None or sines and cosines of the patches.
        """
        grid = pixels.shape[2] // self.patch_size[0], pixels.shape[3] // self.patch_size[1]
        tokens, rotation = self.embeddings(pixels), None if self.rotary is None else self.rotary(pixels)
        for block in self.blocks:
            tokens = run_dino_block(block, tokens, rotation)
        return self.norm(tokens), grid, rotation


def run_dino_block(block: nn.Module, tokens: Tensor, rotation: Any = None, mask: Tensor | None = None) -> Tensor:
    """One block on tokens (B, L, W) of which the last are the patches.

    Args:
        rotation: see `DINOTower`.
        mask: boolean, True: may attend; broadcastable to (B, heads, L, L).
    """
    options = {} if rotation is None else {"position_embeddings": rotation}
    return block(tokens, attention_mask=mask, **options)


def load_dino(weights: str) -> DINOTower:
    """A DINO in float32.

    Args:
        weights: a folder with ``config.json`` and ``model.safetensors``, or a Hugging Face hub id
            (``facebook/dinov2-large``, ``facebook/dinov3-vitl16-pretrain-lvd1689m``).

    Raises:
        UserError: see `maft.proposals.transformers_models.load_model`; or transformers is too old for a DINOv2.
    """
    source = Source(weights, "MODEL.PROPOSER.EoMT.PRETRAINED", "a DINO", "facebook/dinov2-large")
    tower = DINOTower(load_model(source, FAMILIES), weights)
    if "attention_mask" not in inspect.signature(type(tower.blocks[0]).forward).parameters:
        from transformers import __version__

        raise UserError(
            f"{source.node} {weights} is a DINOv2, whose blocks take a mask in transformers {_SINCE} or newer, and "
            f"{__version__} is installed: pip install --upgrade transformers, or give a DINOv3."
        )
    return tower
