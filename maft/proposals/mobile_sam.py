"""MobileSAM (Zhang et al., "Faster Segment Anything", 2023): SAM with a TinyViT for its image encoder, of one file.

``mobile_sam.pt`` holds SAM's prompt encoder and mask decoder under the names of SAM's authors, and a TinyViT-5M (Wu et
al., ECCV 2022) with SAM's neck for the image encoder. The decoders run as transformers has them, the TinyViT as timm
has it, but for its last stage, which keeps the stride of 16 that SAM's decoder wants. `FILE_NAMES` was written from the
published code, without the file: a file with other names is refused, not read in part.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from maft.checkpoint.io import read_state_dict
from maft.checkpoint.key_map import KeyMap, load_strictly
from maft.errors import UserError
from maft.proposals.transformers_models import Source, refuse_infinite, transformers_class

_SIGN = "image_encoder.patch_embed.seq.0.c.weight"
# One tensor in the file, two in transformers, of which one is the other's twin.
_POSITIONS, _SAME_POSITIONS = (
    "shared_image_embedding.positional_embedding",
    "prompt_encoder.shared_embedding.positional_embedding",
)

# In each pair the name in the file and that in `mobile_sam`.
FILE_NAMES = KeyMap(
    [
        # A classifier of ImageNet, which segments nothing.
        (r"image_encoder\.(?:norm_head|head)\..*", None),
        # A table of places, in files that were written before it was left out of them.
        (r"image_encoder\..*\.attention_bias_idxs", None),
        (r"image_encoder\.patch_embed\.seq\.0\.c\.(.*)", r"vision_encoder.tower.patch_embed.conv1.conv.\1"),
        (r"image_encoder\.patch_embed\.seq\.0\.(bn\..*)", r"vision_encoder.tower.patch_embed.conv1.\1"),
        (r"image_encoder\.patch_embed\.seq\.2\.c\.(.*)", r"vision_encoder.tower.patch_embed.conv2.conv.\1"),
        (r"image_encoder\.patch_embed\.seq\.2\.(bn\..*)", r"vision_encoder.tower.patch_embed.conv2.\1"),
        # What ends a stage there begins the next one here.
        *(
            rule
            for stage in range(3)
            for rule in (
                (
                    rf"image_encoder\.layers\.{stage}\.(downsample\..*)\.c\.(.*)",
                    rf"vision_encoder.tower.stages.{stage + 1}.\1.conv.\2",
                ),
                (
                    rf"image_encoder\.layers\.{stage}\.(downsample\..*)",
                    rf"vision_encoder.tower.stages.{stage + 1}.\1",
                ),
            )
        ),
        (r"image_encoder\.layers\.(\d+\.blocks\..*)\.c\.(.*)", r"vision_encoder.tower.stages.\1.conv.\2"),
        (r"image_encoder\.layers\.(\d+\.blocks\..*)", r"vision_encoder.tower.stages.\1"),
        (r"image_encoder\.neck\.0\.(.*)", r"vision_encoder.neck.conv1.\1"),
        (r"image_encoder\.neck\.1\.(.*)", r"vision_encoder.neck.layer_norm1.\1"),
        (r"image_encoder\.neck\.2\.(.*)", r"vision_encoder.neck.conv2.\1"),
        (r"image_encoder\.neck\.3\.(.*)", r"vision_encoder.neck.layer_norm2.\1"),
        (r"prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix", _POSITIONS),
        (r"prompt_encoder\.point_embeddings\.(.*)", r"prompt_encoder.point_embed.\1"),
        (r"prompt_encoder\.mask_downscaling\.0\.(.*)", r"prompt_encoder.mask_embed.conv1.\1"),
        (r"prompt_encoder\.mask_downscaling\.1\.(.*)", r"prompt_encoder.mask_embed.layer_norm1.\1"),
        (r"prompt_encoder\.mask_downscaling\.3\.(.*)", r"prompt_encoder.mask_embed.conv2.\1"),
        (r"prompt_encoder\.mask_downscaling\.4\.(.*)", r"prompt_encoder.mask_embed.layer_norm2.\1"),
        (r"prompt_encoder\.mask_downscaling\.6\.(.*)", r"prompt_encoder.mask_embed.conv3.\1"),
        (r"(prompt_encoder\.(?:no_mask|not_a_point)_embed\.weight)", r"\1"),
        (r"(mask_decoder\.(?:iou_token|mask_tokens)\.weight)", r"\1"),
        (r"(mask_decoder\.transformer\.layers\.\d+\.)norm(\d\..*)", r"\1layer_norm\2"),
        (r"(mask_decoder\.transformer\.)norm_final_attn(\..*)", r"\1layer_norm_final_attn\2"),
        (r"(mask_decoder\.transformer\..*)", r"\1"),
        (r"mask_decoder\.output_upscaling\.0\.(.*)", r"mask_decoder.upscale_conv1.\1"),
        (r"mask_decoder\.output_upscaling\.1\.(.*)", r"mask_decoder.upscale_layer_norm.\1"),
        (r"mask_decoder\.output_upscaling\.3\.(.*)", r"mask_decoder.upscale_conv2.\1"),
        (r"(mask_decoder\.(?:output_hypernetworks_mlps\.\d|iou_prediction_head)\.)layers\.0(\..*)", r"\1proj_in\2"),
        (r"(mask_decoder\.(?:output_hypernetworks_mlps\.\d|iou_prediction_head)\.)layers\.1(\..*)", r"\1layers.0\2"),
        (r"(mask_decoder\.(?:output_hypernetworks_mlps\.\d|iou_prediction_head)\.)layers\.2(\..*)", r"\1proj_out\2"),
    ]
)


@dataclass(frozen=True)
class Sizes:
    """Those of the released model.

    Attributes:
        side: of the square that it sees, in pixels.
        widths: channels of each stage of the TinyViT.
        depths: blocks of each stage.
        heads: of the attention in each stage; the first has none.
        windows: side of the attention's windows in each stage, in cells.
        decoder_width: channels of prompts and decoder.
        decoder_hidden: hidden width of its transformer.
        decoder_heads: of its attention.
        mask_channels: of its embedding of a mask that is shown.
    """

    side: int = 1024
    widths: tuple[int, ...] = (64, 128, 160, 320)
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (2, 4, 5, 10)
    windows: tuple[int, ...] = (7, 7, 14, 7)
    decoder_width: int = 256
    decoder_hidden: int = 2048
    decoder_heads: int = 8
    mask_channels: int = 16


RELEASED = Sizes()


class TinyViTEncoder(nn.Module):
    """SAM's image encoder with timm's TinyViT in the place of its ViT.

    Args:
        sizes: of the TinyViT.
        neck: SAM's, from the width of the last stage to that of the decoder.
    """

    def __init__(self, sizes: Sizes, neck: nn.Module) -> None:
        super().__init__()
        from timm.models.tiny_vit import TinyVit

        tower: Any = TinyVit(
            num_classes=0,
            embed_dims=sizes.widths,
            depths=sizes.depths,
            num_heads=sizes.heads,
            window_sizes=sizes.windows,
            drop_path_rate=0.0,
        )
        tower.head = nn.Identity()
        tower.stages[-1].downsample.conv2.conv.stride = (1, 1)
        self.tower = tower
        self.neck = neck

    def forward(self, pixel_values: Tensor, **_: Any) -> Any:
        """(B, 3, s, s) -> (B, C, s / 16, s / 16), as ``last_hidden_state``, like transformers' encoder."""
        from transformers.modeling_outputs import BaseModelOutput

        tokens = self.tower.forward_features(pixel_values).permute(0, 2, 3, 1)
        return BaseModelOutput(last_hidden_state=self.neck(tokens))


def mobile_sam(sizes: Sizes, source: Source) -> Any:
    """A ``transformers.SamModel`` with a TinyViT, in evaluation mode, as initialised.

    Raises:
        UserError: transformers is missing.
    """
    positions = sizes.decoder_width // 2
    prompts = {"hidden_size": sizes.decoder_width, "image_size": sizes.side, "mask_input_channels": sizes.mask_channels}
    config = transformers_class("SamConfig", "4.56", source)(
        # The ViT that it describes is replaced below, but for the neck.
        vision_config={
            "hidden_size": sizes.widths[-1],
            "output_channels": sizes.decoder_width,
            "num_hidden_layers": 0,
            "image_size": sizes.side,
            "num_pos_feats": positions,
        },
        prompt_encoder_config=prompts,
        mask_decoder_config={
            "hidden_size": sizes.decoder_width,
            "mlp_dim": sizes.decoder_hidden,
            "num_attention_heads": sizes.decoder_heads,
            "iou_head_hidden_dim": sizes.decoder_width,
            # As SAM's authors have it; transformers' default is 1e-6.
            "layer_norm_eps": 1e-5,
        },
    )
    model = transformers_class("SamModel", "4.56", source)(config)
    model.vision_encoder = TinyViTEncoder(sizes, model.vision_encoder.neck)
    return model.eval()


def load_mobile_sam(source: Source, sizes: Sizes | None = None) -> Any:
    """MobileSAM in float32 from its released file; on the meta device names and shapes alone.

    Args:
        source: whose weights are the path of a file.
        sizes: None: the released ones.

    Raises:
        UserError: the file is damaged or not MobileSAM's, or transformers is missing.
    """
    sizes = sizes or RELEASED
    if torch.get_default_device().type == "meta":
        return mobile_sam(sizes, source)
    place = f"{source.node} {os.fspath(source.weights)}"
    state = read_state_dict(source.weights)
    if _SIGN not in state:
        raise UserError(
            f"{place} is a file, and not that of MobileSAM, which alone is read as one: any other model of SAM's "
            "family is read from a folder with config.json and model.safetensors, as on "
            f"https://huggingface.co/{source.example}/tree/main."
        )
    converted = converted_names(state, place)
    refuse_infinite(source, converted.items(), os.path.basename(source.weights))
    model = mobile_sam(sizes, source)
    load_strictly(model, {name: _float(value) for name, value in converted.items()}, place)
    return model


def converted_names(state: Mapping[str, Tensor], place: str) -> dict[str, Tensor]:
    """Tensors of the released file under the names of `mobile_sam`; raises `UserError` for a name it does not know."""
    converted = FILE_NAMES.convert(state, place)
    if _POSITIONS in converted:
        converted[_SAME_POSITIONS] = converted[_POSITIONS]
    return converted


def _float(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value
