"""Reading models of the transformers library, and the sentences for files that cannot be read."""

import builtins
import json

import pytest
import torch

from maft.errors import UserError
from maft.proposals.transformers_models import Family, Source, load_model

transformers = pytest.importorskip("transformers")

FAMILIES = {"vit": Family("ViTModel", "4.5"), "clip_text_model": Family("CLIPSpatialModel", "9.9")}
SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "image_size": 32}


def source(weights):
    return Source(str(weights), "MODEL.PROPOSER.X.PRETRAINED", "a plain ViT", "google/vit-base-patch16-224")


@pytest.fixture
def folder(tmp_path):
    transformers.ViTModel(transformers.ViTConfig(**SIZES)).save_pretrained(tmp_path)
    return tmp_path


def test_weights_of_a_folder_in_evaluation_mode(folder):
    expected = transformers.ViTModel.from_pretrained(folder).half()
    expected.save_pretrained(folder)
    model = load_model(source(folder), FAMILIES)
    assert not model.training
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, expected.state_dict()[name].float())


def test_a_type_that_the_config_names_rounds_nothing(folder):
    expected = transformers.ViTModel.from_pretrained(folder).state_dict()
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "dtype": "bfloat16", "torch_dtype": "bfloat16"}))
    for name, tensor in load_model(source(folder), FAMILIES).state_dict().items():
        assert torch.equal(tensor, expected[name])


def test_on_the_meta_device_it_has_names_and_shapes_alone(folder):
    (folder / "model.safetensors").unlink()
    with torch.device("meta"):
        model = load_model(source(folder), FAMILIES)
    assert all(parameter.is_meta for parameter in model.parameters())


def test_missing_files_are_named(tmp_path, folder):
    with pytest.raises(
        UserError, match="download config.json, model.safetensors and .* from https://huggingface.co/no/such into a fo"
    ):
        load_model(source("no/such"), FAMILIES)
    with pytest.raises(UserError, match="/no/such does not exist: give a folder or a hub id"):
        load_model(source(tmp_path / "no/such"), FAMILIES)
    with pytest.raises(UserError, match="is a file, but a plain ViT is read from a folder"):
        load_model(source(folder / "config.json"), FAMILIES)
    with pytest.raises(UserError, match="give a folder or a hub id, not an address"):
        load_model(source("https://huggingface.co/google/vit-base-patch16-224"), FAMILIES)
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    with pytest.raises(UserError, match=f"folder {folder} lacks a readable config.json or model.safetensors"):
        load_model(source(folder), FAMILIES)


def test_pickled_weights_are_not_read(folder):
    class Bomb:
        def __reduce__(self):
            return pytest.fail, ("the pickle was read",)

    (folder / "model.safetensors").unlink()
    torch.save({"layernorm.weight": Bomb()}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"lacks a readable config.json or model.safetensors"):
        load_model(source(folder), FAMILIES)


def test_code_beside_the_weights_is_not_run(folder):
    values = json.loads((folder / "config.json").read_text())
    values["auto_map"] = {"AutoConfig": "code.Config", "AutoModel": "code.Model"}
    (folder / "config.json").write_text(json.dumps(values))
    (folder / "code.py").write_text("raise SystemExit('the code was run')")
    assert type(load_model(source(folder), FAMILIES)) is transformers.ViTModel


def test_incomplete_and_damaged_weights_are_refused(folder):
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    tensors = load_file(file)
    save_file({name: value for name, value in tensors.items() if "cls_token" not in name}, file)
    with pytest.raises(UserError, match="is incomplete: it lacks embeddings.cls_token; download model.safetensors"):
        load_model(source(folder), FAMILIES)
    save_file({**tensors, "embeddings.cls_token": torch.full((1, 1, 8), torch.nan)}, file)
    with pytest.raises(UserError, match="is damaged: embeddings.cls_token is not finite; download model.safetensors"):
        load_model(source(folder), FAMILIES)
    save_file({**tensors, "embeddings.cls_token": torch.zeros(1, 1, 9)}, file)
    with pytest.raises(UserError, match=r"cannot be read as a plain ViT \(.*\): .* download config.json and model"):
        load_model(source(folder), FAMILIES)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match=r"cannot be read as a plain ViT \(.*\): .* download config.json and model"):
        load_model(source(folder), FAMILIES)


def test_what_a_config_asks_for_and_is_not_installed_is_told(folder):
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "_attn_implementation": "nonsense"}))
    with pytest.raises(UserError, match=r"cannot be read as a plain ViT \(.*nonsense.*\): correct its config.json"):
        load_model(source(folder), FAMILIES)


def test_another_model_and_one_that_is_too_new_are_told_apart(folder):
    with pytest.raises(UserError, match="holds a model of the type 'vit': give a plain ViT \\(bert\\)"):
        load_model(source(folder), {"bert": Family("BertModel", "2.0")})
    transformers.CLIPTextConfig().save_pretrained(folder)
    with pytest.raises(
        UserError, match=f"needs CLIPSpatialModel of transformers 9.9 or newer, and {transformers.__version__} is ins"
    ):
        load_model(source(folder), FAMILIES)


def test_says_how_to_install_transformers(monkeypatch, folder):
    original = builtins.__import__

    def without_transformers(name, *args, **kwargs):
        if name.split(".")[0] == "transformers":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_transformers)
    with pytest.raises(UserError, match=r"pip install 'maft\[sam\]'"):
        load_model(source(folder), FAMILIES)
