"""The side adapter: where features of CLIP enter, its positions, and what it makes of its queries."""

import pytest
import torch
import torch.nn.functional as F

from maft.proposals.side_adapter import SideAdapter


def adapter(**options):
    torch.manual_seed(0)
    given = {
        "num_queries": 5, "width": 24, "depth": 3, "heads": 2, "patch_size": 8, "image_size": 32,
        "fused": {0: 16, 2: 16}, "supervised": (2, 3), "bias_heads": 4, "embed_dim": 12, "hidden_dim": 20,
        "mlp_layers": 3, **options,
    }  # fmt: skip
    return SideAdapter(**given)


def features(*blocks, size=(2, 3)):
    torch.manual_seed(1)
    return {block: torch.randn(2, 16, *size) for block in blocks}


@torch.no_grad()
def test_it_is_what_the_paper_says_step_by_step():
    model, pixels, maps = adapter(), torch.randn(2, 3, 32, 48), features(0, 2)
    layers = model(pixels, maps, all_layers=True)
    square = model.pos_embed.mT.unflatten(2, (4, 4))
    resized = F.interpolate(square, size=(4, 6), mode="bicubic", align_corners=False).flatten(2).mT
    position = torch.cat([model.query_pos_embed, resized], dim=1)
    x = torch.cat([model.query_embed.expand(2, -1, -1), model.patch_embed(pixels).flatten(2).mT], dim=1) + position
    found = []
    for number in range(4):
        if number:
            x = model.blocks[number - 1](x)
        if number in maps:
            fusion = model.fusions[str(number)]
            normal = F.layer_norm(maps[number].permute(0, 2, 3, 1), (16,), fusion.norm.weight, fusion.norm.bias, 1e-6)
            projected = fusion.projection(normal.permute(0, 3, 1, 2))
            x[:, 5:] += F.interpolate(projected, size=(4, 6), mode="bilinear", align_corners=False).flatten(2).mT
        if number in (2, 3):
            found.append(x.clone())
        if 0 < number < 3:
            x = x + position
    for (masks, bias), state in zip(layers, found, strict=True):
        queries, patches = model.query_mlp(state[:, :5]), state[:, 5:].mT.unflatten(2, (4, 6))
        torch.testing.assert_close(masks, (queries @ model.pixel_mlp(patches).flatten(2)).unflatten(2, (4, 6)))
        head = model.bias_mlp(patches)[:, 12:24].flatten(2)
        scaled = (queries @ head).unflatten(2, (4, 6)) * model.bias_scaling.weight + model.bias_scaling.bias
        torch.testing.assert_close(bias[:, 1], scaled, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_evaluation_makes_the_last_masks_alone():
    model, pixels, maps = adapter(), torch.randn(1, 3, 32, 32), {n: m[:1] for n, m in features(0, 2).items()}
    (masks, bias), last = model(pixels, maps, all_layers=False)[0], model(pixels, maps, all_layers=True)[-1]
    torch.testing.assert_close(masks, last[0])
    torch.testing.assert_close(bias, last[1])
    assert masks.shape == (1, 5, 4, 4) and bias.shape == (1, 4, 5, 4, 4)


@torch.no_grad()
def test_the_official_rule_keeps_the_positions_of_as_many_patches_in_another_layout():
    pixels, maps = torch.randn(1, 3, 16, 64), {n: m[:1] for n, m in features(0, 2).items()}
    ours, official = (adapter(resize_by_count=rule)(pixels, maps, all_layers=False)[0][0] for rule in (False, True))
    assert (ours - official).abs().max() > 1e-5
    square = torch.randn(1, 3, 32, 32)
    ours, official = (adapter(resize_by_count=rule)(square, maps, all_layers=False)[0][0] for rule in (False, True))
    torch.testing.assert_close(ours, official)


@pytest.mark.parametrize("block", [0, 2])
def test_features_of_clip_get_gradients_and_change_masks(block):
    model, maps = adapter(), {n: m.requires_grad_() for n, m in features(0, 2).items()}
    masks, bias = model(torch.randn(2, 3, 32, 32), maps, all_layers=False)[0]
    (masks.square().sum() + bias.square().sum()).backward()
    assert maps[block].grad.abs().max() > 0
