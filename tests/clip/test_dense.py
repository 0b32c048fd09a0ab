"""Dense features of convolutional towers."""

import pytest
import torch

from maft.clip import clip_from_config
from maft.clip.dense import attention_pool, dense_channels, dense_features, project_dense, project_pooled
from maft.errors import UserError

TEXT = {"context_length": 8, "vocab_size": 16, "width": 16, "heads": 2, "layers": 1}


@pytest.fixture(scope="module")
def resnet():
    vision = {"layers": [1, 1, 1, 1], "width": 8, "head_width": 16, "image_size": 64}
    return clip_from_config(
        "a small ResNet", {"embed_dim": 12, "vision_cfg": vision, "text_cfg": TEXT}, quick_gelu=True
    )


@pytest.fixture(scope="module")
def convnext():
    vision = {"timm_model_name": "convnext_atto", "timm_pool": "", "timm_proj": "mlp", "image_size": 64}
    return clip_from_config("a ConvNeXt", {"embed_dim": 12, "vision_cfg": vision, "text_cfg": TEXT}, quick_gelu=False)


@torch.no_grad()
@pytest.mark.parametrize("tower", ["resnet", "convnext"])
def test_maps_have_the_channels_and_strides_they_promise(tower, request):
    clip = request.getfixturevalue(tower)
    assert clip.kind == tower
    features = dense_features(clip.visual, torch.randn(1, 3, 64, 96))
    assert {name: value.shape[1] for name, value in features.items()} == dense_channels(clip.visual)
    for name, stride in zip(("res2", "res3", "res4", "res5", "dense"), (4, 8, 16, 32, 32), strict=True):
        assert features[name].shape[-2:] == (64 // stride, 96 // stride)
    assert project_dense(clip.visual, features["dense"]).shape == (1, clip.embed_dim, 2, 3)


@torch.no_grad()
@pytest.mark.parametrize("tower", ["resnet", "convnext"])
def test_every_pixel_is_projected_as_a_pooled_vector_would_be(tower, request):
    clip = request.getfixturevalue(tower)
    dense = torch.randn(2, dense_channels(clip.visual)["dense"], 3, 4)
    projected = project_dense(clip.visual, dense)
    torch.testing.assert_close(projected[1, :, 2, 1], project_pooled(clip.visual, dense[1, :, 2, 1]))


@torch.no_grad()
@pytest.mark.parametrize("tower", ["resnet", "convnext"])
def test_whole_images_agree_with_open_clip(tower, request):
    clip = request.getfixturevalue(tower)
    pixels = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(clip.encode_image(pixels), clip.model.encode_image(pixels), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_convnext_head_on_the_mean_feature_is_the_image_embedding(convnext):
    pixels = torch.randn(1, 3, 64, 96)
    pooled = dense_features(convnext.visual, pixels)["dense"].mean((-2, -1))
    torch.testing.assert_close(
        project_pooled(convnext.visual, pooled), convnext.encode_image(pixels), rtol=1e-4, atol=1e-5
    )


@torch.no_grad()
def test_memory_order_rows_mix_positions_and_channels(convnext):
    dense = torch.randn(1, dense_channels(convnext.visual)["dense"], 2, 3)
    rows = dense.flatten().view(6, -1)
    expected = project_pooled(convnext.visual, rows).T.reshape(1, -1, 2, 3)
    torch.testing.assert_close(project_dense(convnext.visual, dense, rows_in_memory_order=True), expected)


@torch.no_grad()
def test_masked_attention_pool_sees_only_its_mask(resnet):
    dense = torch.randn(1, dense_channels(resnet.visual)["dense"], 2, 3)
    visible = torch.zeros(1, 3, 2, 3, dtype=torch.bool)
    visible[0, 0, :, 0] = visible[0, 1] = True
    pooled = attention_pool(resnet.visual, dense, visible)
    assert pooled.shape == (1, 3, resnet.embed_dim)
    # A mask without any position sees the whole image instead of dividing by zero.
    torch.testing.assert_close(pooled[:, 2], pooled[:, 1])
    changed = dense.clone()
    # The query is the mean of the image, so the hidden pixels may only trade places.
    changed[..., 1:] = dense[..., 1:].flip(-1)
    again = attention_pool(resnet.visual, changed, visible)
    torch.testing.assert_close(again[:, 0], pooled[:, 0], rtol=1e-4, atol=1e-5)
    assert (again[:, 1] - pooled[:, 1]).abs().max() > 1e-4


def test_a_vit_has_no_dense_features(vit_clip):
    clip = vit_clip()
    for ask in (lambda: dense_features(clip.visual, torch.zeros(1, 3, 32, 32)), lambda: dense_channels(clip.visual)):
        with pytest.raises(UserError, match=r"convolutional tower.*VisionTransformer.*convnext_large_d_320"):
            ask()
