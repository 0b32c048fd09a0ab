"""The shipped tiny CLIPs: their folders, and a ConvNeXt for 96-pixel images under a name that open_clip configs use.

Importing the module registers the ConvNeXt in timm.
"""

from pathlib import Path
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.convnext import ConvNeXt
from torch import nn

TINY_CLIPS = ("tiny_vit", "tiny_convnext")


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
        }
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
