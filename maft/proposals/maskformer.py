"""MaskFormer (Cheng et al., NeurIPS 2021) with a text-compared class embedding: ZSSeg, ZegFormer, OVSeg."""

from __future__ import annotations

from collections.abc import Mapping

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, get_norm
from detectron2.modeling import Backbone
from torch import Tensor, nn

from maft.errors import UserError
from maft.layers.transformer import MLP, Transformer, sine_position_encoding
from maft.proposals.criterion import SetCriterion
from maft.registry import PROPOSERS, BuildContext
from maft.structures import Images, Proposals, Targets, TextClassifier


class FPNPixelDecoder(nn.Module):
    """Merges backbone features top-down into one high-resolution map of per-pixel embeddings.

    Args:
        channels: channels of every backbone feature by name, from the highest resolution to the lowest.
        conv_dim: channels of the pyramid.
        mask_dim: channels of the per-pixel embeddings.
        norm: Detectron2's name of the normalisation ("GN": 32 groups).
    """

    def __init__(self, channels: Mapping[str, int], *, conv_dim: int, mask_dim: int, norm: str = "GN") -> None:
        super().__init__()
        self.lateral = nn.ModuleDict()
        self.output = nn.ModuleDict()
        *finer, coarsest = channels
        # A convolution before a normalisation needs no bias.
        bias = not norm
        for name in finer:
            self.lateral[name] = Conv2d(channels[name], conv_dim, 1, bias=bias, norm=get_norm(norm, conv_dim))
        for name in channels:
            inputs = channels[name] if name == coarsest else conv_dim
            self.output[name] = Conv2d(
                inputs, conv_dim, 3, padding=1, bias=bias, norm=get_norm(norm, conv_dim), activation=F.relu
            )
        self.mask_features = Conv2d(conv_dim, mask_dim, 3, padding=1)
        for conv in (*self.lateral.values(), *self.output.values(), self.mask_features):
            weight_init.c2_xavier_fill(conv)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Backbone features (B, C_i, h_i, w_i) by name -> per-pixel embeddings (B, mask_dim, h, w) of the finest."""
        *finer, coarsest = self.output
        x = self.output[coarsest](features[coarsest])
        for name in reversed(finer):
            lateral = self.lateral[name](features[name])
            x = self.output[name](lateral + F.interpolate(x, size=lateral.shape[-2:], mode="nearest"))
        return self.mask_features(x)


class MaskFormerHead(nn.Module):
    """Backbone features -> class embeddings and mask logits of every query and decoder layer.

    Args:
        channels: channels of every backbone feature by name, from the highest resolution to the lowest.
        embedding_dim: width of the class embedding, CLIP's joint space.
        embedding_hidden_dim, embedding_layers: the class embedding's MLP; one layer is a linear projection (ZegFormer).
        transformer_feature: the backbone feature the transformer reads.
    """

    def __init__(
        self,
        channels: Mapping[str, int],
        *,
        embedding_dim: int,
        embedding_hidden_dim: int = 1024,
        embedding_layers: int = 2,
        num_queries: int = 100,
        conv_dim: int = 256,
        mask_dim: int = 256,
        hidden_dim: int = 256,
        heads: int = 8,
        feedforward_dim: int = 2048,
        encoder_layers: int = 0,
        decoder_layers: int = 6,
        dropout: float = 0.1,
        pre_norm: bool = False,
        transformer_feature: str = "res5",
        norm: str = "GN",
    ) -> None:
        super().__init__()
        if transformer_feature not in channels:
            raise UserError(
                f"MODEL.PROPOSER.MaskFormer.TRANSFORMER_FEATURE {transformer_feature!r} is not a feature of the "
                f"backbone: choose one of {list(channels)}."
            )
        if hidden_dim % heads or hidden_dim % 2:
            raise UserError(
                f"MODEL.PROPOSER.MaskFormer.HIDDEN_DIM {hidden_dim} must be even and a multiple of HEADS {heads}."
            )
        self.transformer_feature = transformer_feature
        self.pixel_decoder = FPNPixelDecoder(channels, conv_dim=conv_dim, mask_dim=mask_dim, norm=norm)
        self.transformer = Transformer(
            hidden_dim,
            heads=heads,
            feedforward_dim=feedforward_dim,
            encoder_layers=encoder_layers,
            decoder_layers=decoder_layers,
            dropout=dropout,
            pre_norm=pre_norm,
        )
        self.query_embed = nn.Embedding(num_queries, hidden_dim)
        inputs = channels[transformer_feature]
        # As released: features that already have the transformer's width are not projected.
        self.input_proj: nn.Module = nn.Identity()
        if inputs != hidden_dim:
            self.input_proj = nn.Conv2d(inputs, hidden_dim, 1)
            weight_init.c2_xavier_fill(self.input_proj)
        self.class_embed = MLP(hidden_dim, embedding_hidden_dim, embedding_dim, embedding_layers)
        self.mask_embed = MLP(hidden_dim, hidden_dim, mask_dim, 3)

    def forward(self, features: Mapping[str, Tensor], *, all_layers: bool) -> tuple[Tensor, Tensor]:
        """Predictions of L decoder layers, the final one last.

        Args:
            features: (B, C_i, h_i, w_i) by name.
            all_layers: predict from every decoder layer; otherwise from the final one alone (L = 1).

        Returns:
            class embeddings (L, B, Q, embedding_dim), not normalised, and mask logits (L, B, Q, h, w) at the finest
            feature's size.
        """
        pixels = self.pixel_decoder(features)
        memory = self.input_proj(features[self.transformer_feature])
        size = (memory.shape[-2], memory.shape[-1])
        position = sine_position_encoding(size, memory.shape[1], device=memory.device).to(memory.dtype)
        decoded = self.transformer(memory.flatten(2).mT, position.flatten(1).mT, self.query_embed.weight)
        if not all_layers:
            decoded = decoded[-1:]
        return self.class_embed(decoded), torch.einsum("lbqc,bchw->lbqhw", self.mask_embed(decoded), pixels)


@PROPOSERS.register()
class MaskFormer(nn.Module):
    """Proposer: MaskFormer's masks, with class logits that compare every query with the text (OVSeg section 3.1).

    Args:
        backbone: a Detectron2 backbone.
        head: predicts from the backbone's features.
        criterion: the set criterion it is trained with.
        deep_supervision: in training, predict from every decoder layer and not from the last alone.
        pixel_mean, pixel_std: normalisation of RGB images in 0..255.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        backbone: Backbone,
        head: MaskFormerHead,
        criterion: SetCriterion,
        *,
        deep_supervision: bool = True,
        pixel_mean: tuple[float, float, float],
        pixel_std: tuple[float, float, float],
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.criterion = criterion
        self.deep_supervision = deep_supervision
        # Padding to less than the total stride would let the pyramid's levels disagree in size.
        self.size_divisibility = max(backbone.size_divisibility, 32)
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std), persistent=False)

    @classmethod
    def from_options(
        cls,
        context: BuildContext,
        *,
        num_queries: int = 100,
        conv_dim: int = 256,
        mask_dim: int = 256,
        hidden_dim: int = 256,
        heads: int = 8,
        feedforward_dim: int = 2048,
        encoder_layers: int = 0,
        decoder_layers: int = 6,
        dropout: float = 0.1,
        pre_norm: bool = False,
        embedding_hidden_dim: int = 1024,
        embedding_layers: int = 2,
        transformer_feature: str = "res5",
        deep_supervision: bool = True,
        norm: str = "GN",
        class_weight: float = 1.0,
        mask_weight: float = 20.0,
        dice_weight: float = 1.0,
        void_weight: float = 0.1,
        pixel_mean: tuple[float, float, float] = (123.675, 116.28, 103.53),
        pixel_std: tuple[float, float, float] = (58.395, 57.12, 57.375),
    ) -> MaskFormer:
        backbone = context.backbone()
        head = MaskFormerHead(
            {name: shape.channels for name, shape in backbone.output_shape().items()},  # type: ignore[operator]
            embedding_dim=context.clip.embed_dim,
            embedding_hidden_dim=embedding_hidden_dim,
            embedding_layers=embedding_layers,
            num_queries=num_queries,
            conv_dim=conv_dim,
            mask_dim=mask_dim,
            hidden_dim=hidden_dim,
            heads=heads,
            feedforward_dim=feedforward_dim,
            encoder_layers=encoder_layers,
            decoder_layers=decoder_layers,
            dropout=dropout,
            pre_norm=pre_norm,
            transformer_feature=transformer_feature,
            norm=norm,
        )
        criterion = SetCriterion(
            class_weight=class_weight, mask_weight=mask_weight, dice_weight=dice_weight, void_weight=void_weight
        )
        return cls(
            backbone,  # type: ignore[arg-type]
            head,
            criterion,
            deep_supervision=deep_supervision,
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
        )

    def forward(
        self,
        images: Images,
        text: TextClassifier,
        clip: nn.Module,
        targets: list[Targets] | None = None,
        batched_inputs: list[dict] | None = None,
    ) -> Proposals:
        """Mask logits (B, Q, H/4, W/4) and class logits (B, Q, C + 1); earlier layers as auxiliary in training."""
        features = self.backbone(images.normalized(self.pixel_mean, self.pixel_std))
        embeddings, masks = self.head(features, all_layers=self.training and self.deep_supervision)
        # Bfloat16 has steps of half a unit at 100 times the cosine, too coarse for a softmax.
        with torch.autocast(embeddings.device.type, enabled=False):
            layers = [
                Proposals(mask, images.padded_size, class_logits=text.logits(embedding.float()))
                for embedding, mask in zip(embeddings, masks)
            ]
        final = layers[-1]
        final.auxiliary = layers[:-1]
        return final

    def losses(self, proposals: Proposals, text: TextClassifier, targets: list[Targets]) -> dict[str, Tensor]:
        """Weighted set losses of the final prediction and of every auxiliary one."""
        return self.criterion(proposals, targets)
