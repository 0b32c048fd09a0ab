"""MobileSAM by its definition, with the parameter names of its released file, to compare with."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maft.proposals.mobile_sam import Sizes

SMALL = Sizes(
    side=64,
    widths=(8, 8, 16, 16),
    depths=(1, 1, 2, 1),
    heads=(1, 2, 2, 2),
    # On grids of 8, 4 and 4 cells: with a rest, as one, and without.
    windows=(2, 3, 4, 2),
    decoder_width=16,
    decoder_hidden=16,
    decoder_heads=2,
    mask_channels=4,
)


class ConvNorm(nn.Module):
    def __init__(self, width, out, kernel=1, stride=1, groups=1):
        super().__init__()
        self.c = nn.Conv2d(width, out, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out)

    def forward(self, x):
        return self.bn(self.c(x))


class Inverted(nn.Module):
    """Block of the first stage, and with ``out`` what ends a stage."""

    def __init__(self, width, hidden, out, stride=1):
        super().__init__()
        self.conv1 = ConvNorm(width, hidden)
        self.conv2 = ConvNorm(hidden, hidden, 3, stride, hidden)
        self.conv3 = ConvNorm(hidden, out)

    def forward(self, x):
        return self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))


class Attention(nn.Module):
    def __init__(self, width, heads, window):
        super().__init__()
        self.heads, self.window = heads, window
        self.norm, self.qkv, self.proj = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.attention_biases = nn.Parameter(torch.zeros(heads, window * window))

    def forward(self, x):
        """(n, window * window, width): every pair of cells has the bias of its distance in rows and in columns."""
        q, k, v = self.qkv(self.norm(x)).unflatten(2, (self.heads, 3, -1)).permute(3, 0, 2, 1, 4)
        cells = torch.arange(self.window**2)
        rows, columns = cells // self.window, cells % self.window
        distance = (rows[:, None] - rows).abs() * self.window + (columns[:, None] - columns).abs()
        logits = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1]) + self.attention_biases[:, distance]
        return self.proj((logits.softmax(-1) @ v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(self.norm(x))))


class Block(nn.Module):
    def __init__(self, width, heads, window):
        super().__init__()
        self.attn, self.mlp = Attention(width, heads, window), Mlp(width)
        self.local_conv = ConvNorm(width, width, 3, 1, width)

    def forward(self, x):
        """(B, C, h, w); what windows lack of cells is zero, and attended to."""
        size, (height, width) = self.attn.window, x.shape[2:]
        padded = F.pad(x, (0, -width % size, 0, -height % size))
        attended = torch.empty_like(padded)
        for top in range(0, padded.shape[2], size):
            for left in range(0, padded.shape[3], size):
                window = padded[:, :, top : top + size, left : left + size]
                found = self.attn(window.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, (size, size))
                attended[:, :, top : top + size, left : left + size] = found
        x = self.local_conv(x + attended[:, :, :height, :width])
        return x + self.mlp(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Stage(nn.Module):
    def __init__(self, sizes, index):
        super().__init__()
        width, count = sizes.widths[index], sizes.depths[index]
        if index == 0:
            self.blocks = nn.ModuleList(Inverted(width, 4 * width, width) for _ in range(count))
        else:
            heads, window = sizes.heads[index], sizes.windows[index]
            self.blocks = nn.ModuleList(Block(width, heads, window) for _ in range(count))
        if index < 3:
            out = sizes.widths[index + 1]
            self.downsample = Inverted(width, out, out, stride=1 if index == 2 else 2)

    def forward(self, x):
        for block in self.blocks:
            x = F.gelu(x + block(x)) if isinstance(block, Inverted) else block(x)
        return self.downsample(x) if hasattr(self, "downsample") else x


class ChannelNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x):
        x = x - x.mean(1, keepdim=True)
        x = x / (x.square().mean(1, keepdim=True) + 1e-6).sqrt()
        return x * self.weight[:, None, None] + self.bias[:, None, None]


class Encoder(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        first, last, out = sizes.widths[0], sizes.widths[-1], sizes.decoder_width
        self.patch_embed = nn.Module()
        self.patch_embed.seq = nn.Sequential(
            ConvNorm(3, first // 2, 3, 2), nn.GELU(), ConvNorm(first // 2, first, 3, 2)
        )
        self.layers = nn.ModuleList(Stage(sizes, index) for index in range(4))
        self.norm_head, self.head = nn.LayerNorm(last), nn.Linear(last, 1000)
        self.neck = nn.Sequential(
            nn.Conv2d(last, out, 1, bias=False),
            ChannelNorm(out),
            nn.Conv2d(out, out, 3, padding=1, bias=False),
            ChannelNorm(out),
        )

    def forward(self, x):
        x = self.patch_embed.seq(x)
        for layer in self.layers:
            x = layer(x)
        return self.neck(x)


class PromptEncoder(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        width, masks = sizes.decoder_width, sizes.mask_channels
        self.side = sizes.side
        self.pe_layer = nn.Module()
        self.pe_layer.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, width // 2))
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, width) for _ in range(4))
        self.not_a_point_embed, self.no_mask_embed = nn.Embedding(1, width), nn.Embedding(1, width)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, masks // 4, 2, 2),
            ChannelNorm(masks // 4),
            nn.GELU(),
            nn.Conv2d(masks // 4, masks, 2, 2),
            ChannelNorm(masks),
            nn.GELU(),
            nn.Conv2d(masks, width, 1),
        )

    def position(self, points):
        """(..., 2) as x, y in 0..1 -> (..., width)."""
        angles = (2 * points - 1) @ self.pe_layer.positional_encoding_gaussian_matrix * 2 * math.pi
        return torch.cat([angles.sin(), angles.cos()], -1)

    def grid(self):
        count = self.side // 16
        places = (torch.arange(count) + 0.5) / count
        y, x = torch.meshgrid(places, places, indexing="ij")
        return self.position(torch.stack([x, y], -1)).permute(2, 0, 1)[None]

    def boxes(self, boxes):
        """(n, 4) in pixels of the square -> (n, 2, width)."""
        corners = torch.cat([self.point_embeddings[2].weight, self.point_embeddings[3].weight])
        return self.position((boxes.view(-1, 2, 2) + 0.5) / self.side) + corners

    def points(self, points, on_object):
        """(n, k, 2), (n, k) -> (n, k + 1, width), the last of which is no point."""
        kinds = torch.cat([self.point_embeddings[0].weight, self.point_embeddings[1].weight])[on_object]
        none = self.not_a_point_embed.weight.expand(len(points), 1, -1)
        return torch.cat([self.position((points + 0.5) / self.side) + kinds, none], 1)


class DecoderAttention(nn.Module):
    def __init__(self, width, heads, share=1):
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, width // share) for _ in range(3))
        self.out_proj = nn.Linear(width // share, width)

    def forward(self, q, k, v):
        projected = self.q_proj(q), self.k_proj(k), self.v_proj(v)
        q, k, v = (x.unflatten(2, (self.heads, -1)).transpose(1, 2) for x in projected)
        logits = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])
        return self.out_proj((logits.softmax(-1) @ v).transpose(1, 2).flatten(2))


class DecoderLayer(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        width, heads = sizes.decoder_width, sizes.decoder_heads
        self.self_attn = DecoderAttention(width, heads)
        self.cross_attn_token_to_image = DecoderAttention(width, heads, 2)
        self.cross_attn_image_to_token = DecoderAttention(width, heads, 2)
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.LayerNorm(width) for _ in range(4))
        self.mlp = nn.Module()
        self.mlp.lin1, self.mlp.lin2 = nn.Linear(width, sizes.decoder_hidden), nn.Linear(sizes.decoder_hidden, width)

    def forward(self, tokens, image, prompts, places, first):
        seen = tokens if first else tokens + prompts
        attended = self.self_attn(seen, seen, tokens)
        tokens = self.norm1(attended if first else tokens + attended)
        seen = self.cross_attn_token_to_image(tokens + prompts, image + places, image)
        tokens = self.norm2(tokens + seen)
        tokens = self.norm3(tokens + self.mlp.lin2(F.relu(self.mlp.lin1(tokens))))
        seen = self.cross_attn_image_to_token(image + places, tokens + prompts, tokens)
        return tokens, self.norm4(image + seen)


class Perceptron(nn.Module):
    def __init__(self, width, hidden, out):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, out)])

    def forward(self, x):
        return self.layers[2](F.relu(self.layers[1](F.relu(self.layers[0](x)))))


class Decoder(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        width = sizes.decoder_width
        self.transformer = nn.Module()
        self.transformer.layers = nn.ModuleList(DecoderLayer(sizes) for _ in range(2))
        self.transformer.final_attn_token_to_image = DecoderAttention(width, sizes.decoder_heads, 2)
        self.transformer.norm_final_attn = nn.LayerNorm(width)
        self.iou_token, self.mask_tokens = nn.Embedding(1, width), nn.Embedding(4, width)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(width, width // 4, 2, 2),
            ChannelNorm(width // 4),
            nn.GELU(),
            nn.ConvTranspose2d(width // 4, width // 8, 2, 2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(Perceptron(width, width, width // 8) for _ in range(4))
        self.iou_prediction_head = Perceptron(width, width, 4)

    def forward(self, image, places, prompts):
        """(1, C, h, w), the same and (n, k, C) -> logits (n, 4, 4 h, 4 w) and quality (n, 4)."""
        height, width = image.shape[2:]
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight]).expand(len(prompts), -1, -1)
        prompts = torch.cat([own, prompts], 1)
        image, places = (x.flatten(2).transpose(1, 2).expand(len(prompts), -1, -1) for x in (image, places))
        tokens = prompts
        for index, layer in enumerate(self.transformer.layers):
            tokens, image = layer(tokens, image, prompts, places, index == 0)
        seen = self.transformer.final_attn_token_to_image(tokens + prompts, image + places, image)
        tokens = self.transformer.norm_final_attn(tokens + seen)
        pixels = self.output_upscaling(image.transpose(1, 2).unflatten(2, (height, width)))
        kinds = [mlp(tokens[:, 1 + index]) for index, mlp in enumerate(self.output_hypernetworks_mlps)]
        return torch.einsum("nmc,nchw->nmhw", torch.stack(kinds, 1), pixels), self.iou_prediction_head(tokens[:, 0])


class MobileSAMByDefinition(nn.Module):
    """The first mask answers boxes and several points, the other three a single one."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.image_encoder = Encoder(sizes)
        self.prompt_encoder = PromptEncoder(sizes)
        self.mask_decoder = Decoder(sizes)

    def forward(self, square: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """(1, 3, side, side) and (n, k, C) -> logits (n, 4, side / 4, side / 4) and quality (n, 4)."""
        image = self.image_encoder(square) + self.prompt_encoder.no_mask_embed.weight[..., None, None]
        return self.mask_decoder(image, self.prompt_encoder.grid(), prompts)


def random_by_definition(sizes: Sizes = SMALL) -> MobileSAMByDefinition:
    """With weights and running statistics that all matter."""
    torch.manual_seed(0)
    model = MobileSAMByDefinition(sizes).eval()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith("running_var"):
                value.copy_(torch.rand_like(value) + 0.5)
            elif value.is_floating_point():
                value.add_(torch.randn_like(value) * 0.3)
    return model
