"""Weights and descriptions of other libraries, onto open_clip's names."""

import json

import open_clip
import pytest
import torch
import transformers
from safetensors.torch import save_file

from maft.clip import clip_from_config, load_clip
from maft.clip.conversion import as_encoder_state, config_from_transformers
from maft.clip.weights import inner_clip
from maft.errors import UserError

PARTS = {"num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 40, "num_hidden_layers": 2}


@pytest.fixture(params=["gelu", "quick_gelu"])
def published(request, tmp_path):
    """A CLIPModel of the transformers library as TinyCLIP is published, and the model."""
    act = {"hidden_act": request.param}
    text = {**PARTS, **act, "vocab_size": 49408, "max_position_embeddings": 77, "eos_token_id": 49407}
    vision = {**PARTS, **act, "image_size": 32, "patch_size": 8}
    config = transformers.CLIPConfig(projection_dim=8, text_config=text, vision_config=vision)
    torch.manual_seed(0)
    model = transformers.CLIPModel(config).eval()
    model.save_pretrained(tmp_path / "own")
    pixels = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.1]}
    (tmp_path / "own" / "preprocessor_config.json").write_text(json.dumps(pixels))
    return tmp_path / "own", model


def test_a_clip_of_the_transformers_library_gives_its_embeddings(published):
    folder, model = published
    clip = load_clip(str(folder))
    torch.testing.assert_close(clip.pixel_mean, torch.tensor([127.5, 102.0, 76.5]))
    tokens, pixels = clip.tokenize(["a cat", "the dog on the bus"]), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        texts, images = (model.text_model(tokens)[1], model.vision_model(pixels)[1])
        expected = model.text_projection(texts), model.visual_projection(images)
    torch.testing.assert_close(clip.encode_text(tokens), expected[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(clip.model.encode_image(pixels), expected[1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(clip.model.logit_scale, model.logit_scale)


def test_its_weights_fit_an_open_clip_architecture_of_its_sizes(published, tmp_path):
    """TinyCLIP's weights alone, without the folder."""
    folder, model = published
    config = config_from_transformers(json.loads((folder / "config.json").read_text()), "x")
    clip = clip_from_config("x", config, quick_gelu=False)
    state = as_encoder_state(clip.model, inner_clip(model.state_dict(), "The file"), "The file")
    clip.load_state_dict(state)
    assert torch.equal(clip.model.token_embedding.weight, model.text_model.embeddings.token_embedding.weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "siglip"}, "describes a 'siglip' model, not a CLIP"),
        ({"vision_config": {"hidden_act": "gelu"}}, "has the activations gelu, quick_gelu"),
        ({"text_config": {"hidden_size": "wide"}}, "is not a description of a CLIP"),
        ({"text_config": {"hidden_size": 0}}, "is not a description of a CLIP"),
        ({"text_config": 3}, "is not a description of a CLIP"),
    ],
)
def test_a_description_of_no_use_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        config_from_transformers({"model_type": "clip", **change}, "config.json")


def test_defaults_that_a_description_leaves_out_are_the_librarys():
    config = config_from_transformers({"model_type": "clip"}, "config.json")
    theirs = open_clip.get_model_config("ViT-B-32")
    assert config["vision_cfg"]["width"] == theirs["vision_cfg"]["width"] and config["quick_gelu"]
    assert config["vision_cfg"]["head_width"] == 64 and config["text_cfg"]["heads"] == theirs["text_cfg"]["heads"]
    assert config["embed_dim"] == theirs["embed_dim"]


CONFIG = {
    "embed_dim": 8,
    "vision_cfg": {"layers": 1, "width": 16, "head_width": 8, "patch_size": 8, "image_size": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 16, "width": 16, "heads": 2, "layers": 1},
}


def test_plain_names_serve_a_text_tower_of_its_own():
    """Some towers of their own were published under the names of a plain CLIP, and a scale as a vector of one."""
    plain = clip_from_config("x", CONFIG, quick_gelu=False)
    own = clip_from_config("x", {**CONFIG, "custom_text": True}, quick_gelu=False)
    state = {name.removeprefix("model."): value for name, value in plain.state_dict().items()}
    state["logit_scale"] = state["logit_scale"][None]
    own.load_state_dict(as_encoder_state(own.model, state, "The file"))
    tokens = torch.arange(8)[None]
    torch.testing.assert_close(own.encode_text(tokens), plain.encode_text(tokens))


def test_what_only_looks_like_mobileclip_is_refused():
    model = clip_from_config("x", {**CONFIG, "custom_text": True}, quick_gelu=False).model
    state = {"image_encoder.model.patch_emb.0.block.conv.weight": torch.zeros(1)}
    with pytest.raises(UserError, match="The file are no MobileCLIP weights for this tower"):
        as_encoder_state(model, state, "The file")


def test_a_transformers_checkpoint_is_found_below_a_prefix(published, tmp_path):
    _, model = published
    file = tmp_path / "outer.safetensors"
    save_file({f"clip.{name}": value.clone() for name, value in model.state_dict().items()}, file)
    found = inner_clip({f"clip.{name}": value for name, value in model.state_dict().items()}, str(file))
    assert set(found) == set(model.state_dict())
