"""One loader for tags, folders, the hub and files; pixel statistics are the tower's own, or must be told."""

import json
import shutil

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from maft.clip import clip_from_config, load_clip
from maft.errors import UserError
from maft.miniature.towers import tiny_clip_folder

CONFIG = {
    "embed_dim": 8,
    "vision_cfg": {"layers": 1, "width": 16, "head_width": 8, "patch_size": 8, "image_size": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 16, "width": 16, "heads": 2, "layers": 1},
}
HALF = torch.tensor([127.5, 127.5, 127.5])


@pytest.fixture
def state():
    clip = clip_from_config("x", CONFIG, quick_gelu=False)
    return {name.removeprefix("model."): value.clone() for name, value in clip.state_dict().items()}


@pytest.fixture
def file(tmp_path, state, monkeypatch):
    """A bare weights file, and small sizes for every architecture it is used with."""
    for name in ("ViT-L-14", "ViT-B-16", "MobileCLIP-B", "ViT-e-14", "ViT-B-16-SigLIP", "ViT-L-14-CLIPA"):
        monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, name, CONFIG)
    save_file(state, tmp_path / "bare=1.safetensors")
    return str(tmp_path / "bare=1.safetensors")


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("ViT-B-16-SigLIP", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ("MobileCLIP-B", (0, 0, 0), (1, 1, 1)),
        ("ViT-L-14-CLIPA", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("ViT-B-16", (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    ],
)
def test_a_bare_file_gets_the_statistics_of_its_family(file, name, mean, std):
    clip = load_clip(name, file)
    torch.testing.assert_close(clip.pixel_mean, 255 * torch.tensor(mean).float())
    torch.testing.assert_close(clip.pixel_std, 255 * torch.tensor(std).float())


def test_a_family_of_several_statistics_must_be_told_which(file, state):
    with pytest.raises(UserError, match="different pixel statistics.*laion2b_s32b_b82k=FILE or .*=FILE"):
        load_clip("ViT-L-14", file)
    torch.testing.assert_close(load_clip("ViT-L-14", f"laion2b_s32b_b82k={file}").pixel_mean, HALF)
    openai = load_clip("ViT-L-14", f"openai={file}")
    assert openai.pixel_mean[0] < 123
    # What descends from OpenAI's weights tells so itself; a checkpoint's own weights are a file's, too.
    linear = ("in_proj_weight", "out_proj.weight", "c_fc.weight", "c_proj.weight")
    traced = {name: value.half().float() if name.endswith(linear) else value for name, value in state.items()}
    given = {f"model.{name}": value for name, value in traced.items()}
    assert load_clip("ViT-L-14", "gone.pt", weights=given).pixel_mean[0] < 123
    given = {f"model.{name}": value for name, value in state.items()}
    assert torch.equal(load_clip("ViT-L-14", "laion2b_s32b_b82k=gone.pt", weights=given).pixel_mean, HALF)
    # Untrained weights know no statistics.
    load_clip("ViT-L-14", "random")


def test_a_tag_tells_the_activation_of_a_file_too(file):
    for tag, expected in (("metaclip_fullcc", open_clip.transformer.QuickGELU), ("laion2b_s34b_b88k", torch.nn.GELU)):
        clip = load_clip("ViT-B-16", f"{tag}={file}")
        assert type(clip.visual.transformer.resblocks[0].mlp.gelu) is expected


def test_a_family_without_published_weights_says_what_it_is_given(file, caplog):
    caplog.set_level("INFO")
    assert load_clip("ViT-e-14", file).pixel_mean[0] < 123
    assert "lists no weights of ViT-e-14" in caplog.text


@pytest.mark.parametrize("pretrained", ["openai=missing.pt", "laion=missing.pt"])
def test_a_missing_file_behind_a_tag_is_named(pretrained):
    with pytest.raises(UserError, match=r"missing\.pt' is neither a file nor a tag of ViT-B-16"):
        load_clip("ViT-B-16", pretrained)


def snapshot(folder, state, files=("open_clip_model.safetensors",), **described):
    folder.mkdir(parents=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG, **described}))
    for file in files:
        save_file(state, folder / file)
    return folder


def test_a_repository_of_the_hub_is_read_from_its_cache(tmp_path, state, monkeypatch):
    folder = snapshot(tmp_path / "snapshots" / "1", state, preprocess_cfg={"mean": [0.5] * 3, "std": [0.5] * 3})
    monkeypatch.setattr(
        "maft.clip.hub.try_to_load_from_cache",
        lambda repository, file: str(folder / file) if repository == "org/own" and (folder / file).is_file() else None,
    )
    clip = load_clip("hf-hub:org/own")
    torch.testing.assert_close(clip.model.visual.proj.data, state["visual.proj"])
    torch.testing.assert_close(clip.pixel_mean, HALF)
    assert load_clip("hf-hub:org/own", device="meta").embed_dim == 8
    with pytest.raises(
        UserError, match=r"description of CLIP hf-hub:org/other \(open_clip_config\.json\) is not at hand"
    ):
        load_clip("hf-hub:org/other")


def test_a_download_is_announced_and_the_first_file_there_is_taken(tmp_path, state, monkeypatch, caplog):
    """No network here: the hub's client is replaced by a folder."""
    from huggingface_hub.errors import EntryNotFoundError

    caplog.set_level("INFO")
    folder = snapshot(tmp_path / "snapshots" / "1", state, files=["model.safetensors"])
    monkeypatch.setattr("maft.clip.hub.try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr("maft.clip.hub.check_reachable", lambda _: None)
    monkeypatch.setattr("maft.clip.hub.constants.HF_HUB_OFFLINE", False)
    asked = []

    def download(repository, file):
        asked.append(file)
        if not (folder / file).is_file():
            raise EntryNotFoundError(file)
        return str(folder / file)

    monkeypatch.setattr("maft.clip.hub.hf_hub_download", download)
    load_clip("hf-hub:org/own")
    assert asked[0] == "open_clip_config.json" and asked[-1] == "model.safetensors"
    assert caplog.text.count("Fetching the ") == 2 and "from org/own" in caplog.text


def test_open_clips_own_weights_come_first(tmp_path, state):
    """Snapshots hold the transformers library's beside them."""
    folder = snapshot(tmp_path / "own", {"other": torch.zeros(1)}, files=["model.safetensors"])
    save_file(state, folder / "open_clip_model.safetensors")
    load_clip(str(folder))


@pytest.mark.parametrize(
    ("described", "message"),
    [
        ({"preprocess_cfg": {"mean": [0.5, 0.5]}}, "has the pixel mean .*three numbers"),
        ({"preprocess_cfg": {"std": [0.5, 0.5, 0]}}, "has the pixel std .*three numbers"),
        ({"preprocess_cfg": {"std": 0.5}}, "is not an open_clip model description"),
        ({"model_cfg": {"embed_dim": 8}}, "is not an open_clip model description"),
    ],
)
def test_a_broken_description_is_named(tmp_path, state, described, message):
    with pytest.raises(UserError, match=message):
        load_clip(str(snapshot(tmp_path / "own", state, **described)))


def test_a_folder_without_description_is_named(tmp_path):
    with pytest.raises(UserError, match="has no open_clip_config.json"):
        load_clip(str(tmp_path))


@pytest.mark.parametrize("name", ["hf-hub:", "hf-hub:a/b/c", "hf-hub:../folder"])
def test_a_name_that_no_repository_can_have_is_refused(name):
    with pytest.raises(UserError, match="names no repository of the Hugging Face hub"):
        load_clip(name)


@pytest.mark.parametrize(
    ("vision", "message"),
    [
        ({"timm_model_name": "hf-hub:org/tower"}, "must be named as timm lists it"),
        ({"layers": 1, "width": 16, "head_width": 0}, r"cannot be built from its open_clip_config\.json"),
        ({"hidden": 3}, r"cannot be built from its open_clip_config\.json"),
    ],
)
def test_a_tower_that_cannot_be_built_or_would_be_fetched_is_refused(tmp_path, state, vision, message):
    described = {"model_cfg": {**CONFIG, "vision_cfg": vision}}
    with pytest.raises(UserError, match=message):
        load_clip(str(snapshot(tmp_path / "own", state, **described)))


@pytest.mark.parametrize(
    ("name", "message"),
    [("", "Unknown CLIP ''"), ("x" * 3000, "Unknown CLIP"), ("vit-b-16", r"Did you mean ViT-B-16\?")],
)
def test_a_name_of_nothing_is_unknown(name, message):
    with pytest.raises(UserError, match=message):
        load_clip(name, "openai")


def test_a_folder_without_weights_says_where_it_was_named(tmp_path, state):
    folder = snapshot(tmp_path / "own", state)
    (folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"own of MODEL\.CLIP\.NAME holds no weights: put one of .*safetensors"):
        load_clip(str(folder))


def test_a_description_nested_without_end_is_named(tmp_path):
    (tmp_path / "open_clip_config.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="is not an open_clip model description"):
        load_clip(str(tmp_path))


@pytest.fixture
def sized(tmp_path):
    """A copy of a tower for 96 pixels that is described for images of another size."""

    def sized(size):
        shutil.copytree(tiny_clip_folder("tiny_siglip"), tmp_path / "own")
        file = tmp_path / "own/open_clip_config.json"
        described = json.loads(file.read_text())
        described["model_cfg"]["vision_cfg"]["image_size"] = size
        file.write_text(json.dumps(described))
        return load_clip(str(tmp_path / "own"))

    return sized


@pytest.mark.parametrize("size", [0, -5, [96, 0]])
def test_a_native_size_of_nothing_is_refused(sized, size):
    with pytest.raises(UserError, match=r"vision_cfg\.image_size of CLIP .* must be positive"):
        sized(size)


@pytest.mark.parametrize("size", [33, [96, 48]])
def test_the_native_size_is_that_of_the_position_embedding(sized, size, caplog):
    assert sized(size).image_size == (96, 96)
    assert "but made for (96, 96)" in caplog.text
