"""The shipped tiny CLIPs: their folders, and image towers for 96-pixel images under names that open_clip configs use.

Importing the module registers those towers in timm.
"""

from pathlib import Path
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.convnext import ConvNeXt
from timm.models.vision_transformer import VisionTransformer
from torch import nn

TINY_CLIPS = ("tiny_vit", "tiny_convnext", "tiny_siglip")


def tiny_clip_folder(name: str) -> Path:
    """Folder of a shipped tiny CLIP, one of ``TINY_CLIPS``."""
    return Path(__file__).parent / name


default_cfgs = generate_default_cfgs(
    {
        "convnext_miniature.untrained": {
            "num_classes": 1000,
            "input_size": (3, 96, 96),
            "pool_size": (12, 12),
            "first_conv": "stem.0",
            "classifier": "head.fc",
        },
        "vit_siglip_miniature.untrained": {
            "num_classes": 0,
            "input_size": (3, 96, 96),
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
)


@register_model
def convnext_miniature(pretrained: bool = False, **options: Any) -> ConvNeXt:
    """Strides 4, 8, 8, 8: at 96 pixels a stride of 32 would leave 3 x 3 cells, too few to pool masks from.

    The last stages are dilated by timm's ``output_stride``; their kernels are small so that a feature stays local.
    """
    arguments: dict[str, Any] = {
        "depths": (1, 2, 1, 1),
        "dims": (48, 128, 128, 128),
        "kernel_sizes": (7, 5, 3, 3),
        "output_stride": 8,
        "ls_init_value": 1.0,
    }
    model = build_model_with_cfg(ConvNeXt, "convnext_miniature", pretrained, **(arguments | options))
    # timm's weights of deviation 0.02 and layer scale of 1e-6 suit wide models and long training: here every block
    # would be close to the identity for the first hundreds of steps.
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
    return model


@register_model
def vit_siglip_miniature(pretrained: bool = False, **options: Any) -> VisionTransformer:
    """The blocks of the tiny ViT without a class token: a latent query pools the patches, as in SigLIP."""
    arguments: dict[str, Any] = {
        "img_size": 96,
        "patch_size": 8,
        "embed_dim": 128,
        "depth": 6,
        "num_heads": 4,
        "class_token": False,
        "global_pool": "map",
        # timm's weights of deviation 0.02 suit wide models; these follow each layer's width.
        "weight_init": "jax",
    }
    return build_model_with_cfg(VisionTransformer, "vit_siglip_miniature", pretrained, **(arguments | options))
