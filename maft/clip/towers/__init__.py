"""Image towers by their kind of pooling: `image_tower` takes any tower of open_clip, or refuses it with the reason."""

from __future__ import annotations

from typing import Any

from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from timm.models.convnext import ConvNeXt
from timm.models.eva import Eva
from timm.models.fastvit import FastVit
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from timm.models.vision_transformer_relpos import VisionTransformerRelPos
from timm.models.vitamin import MbConvStages
from torch import nn

from maft.clip.towers.base import ImageTower
from maft.clip.towers.blocks import is_supported
from maft.clip.towers.latent_query import CoCaPool, LatentQueryTower, TimmLatentPool
from maft.clip.towers.maps import ConvNeXtTower, FastViTTower, SwinTower, ViTaminTower
from maft.clip.towers.mean_of_tokens import MeanOfTokensTower
from maft.clip.towers.resnet import ResNetTower
from maft.clip.towers.sequences import OpenClipSequence, TimmSequence
from maft.clip.towers.tokens import ClassTokenTower, TokenTower
from maft.clip.towers.whole_image import RelativePositionTower
from maft.errors import UserError

__all__ = ["ClassTokenTower", "ImageTower", "LatentQueryTower", "MeanOfTokensTower", "TokenTower", "image_tower"]

_OF_TRUNK: dict[type, type[ImageTower]] = {
    ConvNeXt: ConvNeXtTower,
    FastVit: FastViTTower,
    SwinTransformer: SwinTower,
    VisionTransformerRelPos: RelativePositionTower,
}


def image_tower(visual: nn.Module, name: str) -> ImageTower:
    """The pieces of an image tower.

    Args:
        visual: an image tower of open_clip, or a copy of one; its parameters stay its own.
        name: how messages call the CLIP it belongs to.

    Raises:
        UserError: its kind is not known.
    """
    if isinstance(visual, ModifiedResNet):
        return ResNetTower(visual, name)
    tower = None
    if isinstance(visual, VisionTransformer):
        tower = _open_clip_tower(visual, name)
    elif isinstance(visual, TimmModel) and "pool" not in dict(visual.head.named_children()):
        made = _OF_TRUNK.get(type(visual.trunk))
        tower = _timm_tower(visual, name) if made is None else made(visual, name)
    if tower is None:
        kind = type(getattr(visual, "trunk", visual)).__name__
        raise UserError(
            f"The image tower of {name} ({kind}) is not supported: choose a CLIP of open_clip's list whose image "
            "tower is a ViT, EVA, ViTamin, ConvNeXt, FastViT, Swin or ResNet."
        )
    return tower


def _open_clip_tower(visual: VisionTransformer, name: str) -> ImageTower | None:
    if not all(is_supported(block) for block in visual.transformer.resblocks):
        return None
    if visual.attn_pool is not None:
        if visual.attn_pool_contrastive is not None or visual.pool_type != "tok":
            return None
        sequence = OpenClipSequence(visual, norm_before_pool=False)
        return LatentQueryTower(visual, name, sequence, CoCaPool(visual.attn_pool), pools_prefix=True)
    kinds = {"tok": ClassTokenTower, "avg": MeanOfTokensTower}
    if visual.pool_type not in kinds:
        return None
    sequence = OpenClipSequence(visual, norm_before_pool=not visual.final_ln_after_pool)
    return kinds[visual.pool_type](visual, name, sequence)


def _timm_tower(visual: Any, name: str) -> ImageTower | None:
    trunk = visual.trunk
    if type(trunk) not in (TimmVisionTransformer, Eva) or not all(is_supported(block) for block in trunk.blocks):
        return None
    if not TimmSequence.is_supported(trunk):
        return None
    sequence = TimmSequence(visual)
    if trunk.attn_pool is not None:
        if not TimmLatentPool.is_supported(trunk.attn_pool):
            return None
        pools_prefix = isinstance(trunk, Eva) or trunk.pool_include_prefix
        return LatentQueryTower(visual, name, sequence, TimmLatentPool(trunk.attn_pool), pools_prefix=pools_prefix)
    if trunk.global_pool == "token" and trunk.num_prefix_tokens == 1:
        return ClassTokenTower(visual, name, sequence)
    if trunk.global_pool == "avg" and not getattr(trunk, "pool_include_prefix", False):
        made = ViTaminTower if isinstance(sequence.stem, MbConvStages) else MeanOfTokensTower
        return made(visual, name, sequence)
    return None
