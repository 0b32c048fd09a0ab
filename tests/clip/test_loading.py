"""Where weights come from, what their origin implies, and what is said when they cannot be had."""

import json

import open_clip
import pytest
import torch
from open_clip.transformer import QuickGELU
from safetensors.torch import save_file

from maft.clip import CLIPEncoder, clip_from_config, load_clip
from maft.clip.tokenizers import BytePairTokenizer
from maft.clip.weights import has_quick_gelu, inner_clip
from maft.errors import UserError

CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"layers": 2, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32},
    "text_cfg": {"context_length": 16, "vocab_size": 32, "width": 16, "heads": 2, "layers": 2},
}


def folder_with(path, state, **extra):
    path.mkdir()
    described = {"model_cfg": {**CONFIG, **extra}, "preprocess_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.1]}}
    (path / "open_clip_config.json").write_text(json.dumps(described))
    if state is not None:
        save_file(state, path / "model.safetensors")
    return str(path)


@pytest.fixture
def state():
    clip = clip_from_config("x", CONFIG, quick_gelu=False)
    return {name.removeprefix("model."): value.clone() for name, value in clip.state_dict().items()}


def activation(clip: CLIPEncoder):
    return type(clip.model.transformer.resblocks[0].mlp.gelu), type(clip.visual.transformer.resblocks[0].mlp.gelu)


def test_a_folder_brings_its_weights_sizes_and_normalisation(tmp_path, state):
    clip = load_clip(folder_with(tmp_path / "own", state))
    torch.testing.assert_close(clip.model.visual.proj.data, state["visual.proj"])
    assert (clip.tower.kind, clip.embed_dim, clip.text_width, clip.image_size, clip.tower.stride) == (
        "class token",
        16,
        16,
        (32, 32),
        8,
    )
    torch.testing.assert_close(clip.pixel_mean, torch.tensor([127.5, 102.0, 76.5]))
    assert not any(name.startswith("pixel") for name in clip.state_dict())
    assert not any(parameter.requires_grad for parameter in clip.parameters())
    assert not clip.train().training


def test_half_precision_weights_are_used_in_float32(tmp_path, state):
    clip = load_clip(folder_with(tmp_path / "half", {name: value.half() for name, value in state.items()}))
    assert {parameter.dtype for parameter in clip.parameters()} == {torch.float32}
    torch.testing.assert_close(clip.model.visual.proj.data, state["visual.proj"].half().float())


@pytest.mark.parametrize("prefix", ["module.", "clip_adapter.clip_model.", "backbone.clip_model."])
def test_a_clip_inside_another_checkpoint_is_found(tmp_path, state, prefix):
    file = tmp_path / "checkpoint.pth"
    outer = {prefix + name: value for name, value in state.items()}
    if prefix != "module.":
        outer["sem_seg_head.weight"] = torch.zeros(3)
    torch.save({"model": outer, "iteration": 3}, file)
    clip = load_clip(folder_with(tmp_path / "own", None), str(file))
    torch.testing.assert_close(clip.model.visual.proj.data, state["visual.proj"])


def test_a_file_that_does_not_fit_lists_the_differences(tmp_path, state):
    folder = folder_with(tmp_path / "own", None, embed_dim=24)
    file = tmp_path / "other.safetensors"
    save_file(state, file)
    with pytest.raises(UserError, match=r"other.safetensors.*does not fit.*text_projection: \(16, 16\).*\(16, 24\)"):
        load_clip(folder, str(file))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ViT-B-61", "openai"), "Unknown CLIP 'ViT-B-61'.*Did you mean ViT-B-16"),
        (("ViT-B-16", "openia"), "neither a file nor a tag of ViT-B-16.*Did you mean openai"),
        (("ViT-B-16", ""), "PRETRAINED is empty"),
        (("ViT-B-16", "missing.pt"), "neither a file nor a tag"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        load_clip(*arguments)


def test_a_tag_left_over_beside_a_folder_is_named(tmp_path, state):
    with pytest.raises(UserError, match="PRETRAINED is 'openai', which is no file, and .* brings its own weights"):
        load_clip(folder_with(tmp_path / "own", state), "openai")


def test_a_file_without_text_tower_is_no_clip(tmp_path):
    file = tmp_path / "resnet.safetensors"
    save_file({"stem.conv1.weight": torch.zeros(2)}, file)
    with pytest.raises(UserError, match="holds no CLIP"):
        load_clip("ViT-B-16", str(file))


def test_an_impossible_download_says_what_to_fetch_and_where_to_put_it(tmp_path, monkeypatch):
    def unreachable(*_):
        raise OSError("no name")

    monkeypatch.setattr("socket.getaddrinfo", unreachable)
    monkeypatch.setattr("maft.clip.hub.try_to_load_from_cache", lambda *_: None)
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HF_ENDPOINT"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(UserError, match=r"fetch https://openaipublic.*ViT-B-16\.pt .*put it at .*/ViT-B-16\.pt"):
        load_clip("ViT-B-16", "openai")
    with pytest.raises(UserError, match=r"fetch https://huggingface.co/laion/.*and set MODEL.CLIP.PRETRAINED"):
        load_clip("convnext_large_d_320", "laion2b_s29b_b131k_ft_soup")


@pytest.mark.parametrize(
    ("name", "pretrained", "quick"),
    [
        ("ViT-B-16", "openai", True),
        ("ViT-B-16-quickgelu", "openai", True),
        ("ViT-L-14-336", "openai", True),
        ("RN50x4", "openai", True),
        ("ViT-B-16", "laion2b_s34b_b88k", False),
        ("ViT-B-16-quickgelu", "laion2b_s34b_b88k", False),
        ("convnext_base_w_320", "laion_aesthetic_s13b_b82k_augreg", False),
        ("ViT-B-16", "random", False),
    ],
)
def test_the_activation_follows_the_origin(name, pretrained, quick):
    clip = load_clip(name, pretrained, device="meta")
    assert (type(clip.model.transformer.resblocks[0].mlp.gelu) is QuickGELU) == quick
    assert clip.pixel_mean.is_meta and next(clip.parameters()).is_meta


def test_the_default_device_is_torchs():
    with torch.device("meta"):
        assert next(load_clip("ViT-B-16", "openai").parameters()).is_meta


def openai_like(state):
    """As OpenAI's archives: linear weights in float16, norms and embeddings in float32."""
    linear = ("in_proj", "out_proj", "c_fc", "c_proj", "conv1", "proj")
    return {name: value.half() if any(part in name for part in linear) else value for name, value in state.items()}


def test_weights_betray_their_origin(state):
    archive = openai_like(state)
    assert has_quick_gelu(archive)
    assert has_quick_gelu({name: value.float() for name, value in archive.items()})
    assert has_quick_gelu({**state, "input_resolution": torch.tensor(224)})
    # Fine-tuning changes the image tower and leaves the text tower.
    tuned = {name: value.float() for name, value in archive.items()}
    tuned.update({name: value + 1e-4 for name, value in tuned.items() if name.startswith("visual.")})
    assert has_quick_gelu(tuned)
    assert not has_quick_gelu(state)
    assert not has_quick_gelu({name: value.half() for name, value in state.items()})


def test_openai_torchscript_archive_is_loaded_with_quick_gelu(tmp_path, state, monkeypatch):
    """An archive is a scripted module whose parameters carry OpenAI's names, with three sizes as buffers."""
    # The real sizes would write hundreds of megabytes.
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-B-32", CONFIG)
    weights = openai_like(state)
    for name in ("input_resolution", "context_length", "vocab_size"):
        weights[name] = torch.tensor(7)

    root = torch.nn.Module()
    for name, value in weights.items():
        *path, leaf = name.split(".")
        node = root
        for part in path:
            if not hasattr(node, part):
                node.add_module(part, torch.nn.Module())
            node = getattr(node, part)
        node.register_buffer(leaf, value)
    file = tmp_path / "ViT-B-32.pt"
    torch.jit.save(torch.jit.script(root), str(file))
    loaded = load_clip("ViT-B-32", str(file))
    assert activation(loaded) == (QuickGELU, QuickGELU)
    assert activation(load_clip("ViT-B-32", "random")) == (torch.nn.GELU, torch.nn.GELU)
    torch.testing.assert_close(loaded.model.visual.proj.data, weights["visual.proj"].float())


def test_the_first_clip_of_several_is_taken(state):
    both = {f"backbone.clip_model.{name}": value for name, value in state.items()}
    both |= {f"teacher.clip_model.{name}": value + 1 for name, value in state.items()}
    found = inner_clip(both, "the file")
    assert torch.equal(found["visual.proj"], state["visual.proj"]) and set(found) == set(state)


def test_openai_special_tokens_are_single_tokens():
    tokenizer = BytePairTokenizer()
    assert tokenizer.encode("<|startoftext|> dog <|endoftext|>") == [49406, 1929, 49407]
