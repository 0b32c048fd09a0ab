"""What goes to the hub is a whole model, says what it is, and keeps this machine to itself."""

import json

import pytest
import yaml
from huggingface_hub import ModelCard

from maft.building import build_model
from maft.checkpoint.io import write_safetensors
from maft.config import load_config, self_contained
from maft.errors import UserError
from maft.zoo import MINIATURE, pretrained
from maft.zoo.publishing import push_to_hub

RESULTS = {"dataset": "my_val", "results": {"sem_seg": {"mIoU": 51.25, "unseen_mIoU": None, "IoU-cat": 70.5}}}


@pytest.fixture
def checkpoint(tiny_configs, tmp_path):
    overrides = ["OUTPUT_DIR", str(tmp_path), "MODEL.VOCABULARY.CACHE_DIR", str(tmp_path / "texts")]
    cfg = load_config(tiny_configs / "maft.yaml", overrides)
    folder = tmp_path / "model_final"
    write_safetensors(folder / "model.safetensors", build_model(cfg).state_dict())
    (folder / "config.yaml").write_text(self_contained(cfg).dump())
    (tmp_path / "inference" / "my_val").mkdir(parents=True)
    (tmp_path / "inference" / "my_val" / "results.json").write_text(json.dumps(RESULTS))
    return folder


def test_what_is_published_can_be_fetched_and_describes_itself(hub_server, checkpoint, tmp_path):
    url = push_to_hub(checkpoint, "org/mine", licence="apache-2.0")
    assert url == f"{hub_server.url}/org/mine"
    files = hub_server.repositories["org/mine"]
    assert set(files) == {".gitattributes", "README.md", "config.yaml", "model.safetensors"}
    assert files["model.safetensors"] == (checkpoint / "model.safetensors").read_bytes()
    assert str(tmp_path) not in files["config.yaml"].decode()
    folder = pretrained("org/mine")
    assert load_config(folder / "config.yaml", trusted=False).MODEL.CLASSIFIER.NAME == "IPCLIP"
    card = ModelCard(files["README.md"].decode())
    assert card.data.license == "apache-2.0" and card.data.library_name == "maft"
    assert [(result.dataset_name, result.metric_type, result.metric_value) for result in card.data.eval_results] == [
        ("my_val", "mIoU", 51.25)
    ]
    assert "maft predict photo.jpg --model org/mine" in card.text
    assert "| my_val    | mIoU     | 51.25 | mean IoU over the classes in the ground truth |" in card.text


def test_a_calibration_goes_along_and_comes_back(hub_server, checkpoint):
    (checkpoint / "calibration.json").write_text("{}")
    push_to_hub(checkpoint, "org/mine")
    assert (pretrained("org/mine") / "calibration.json").read_text() == "{}"


def test_code_and_a_licence_that_nobody_gave_are_said_to_be_missing(hub_server, checkpoint, tmp_path):
    config = yaml.safe_load((checkpoint / "config.yaml").read_text())
    (checkpoint / "config.yaml").write_text(yaml.safe_dump({**config, "IMPORTS": [str(tmp_path / "parts.py")]}))
    push_to_hub(checkpoint, "org/mine")
    files = hub_server.repositories["org/mine"]
    card = files["README.md"].decode()
    assert "licence of the weights: none stated" in card and "needs: parts.py, which is not in this repository" in card
    assert yaml.safe_load(files["config.yaml"])["IMPORTS"] == ["parts.py"]


def test_a_converted_release_names_its_authors_file_and_licence(hub_server, checkpoint):
    origin = {"file": "MAFT.pt", "link": "https://example.org/1", "licence": "none stated"}
    (checkpoint / "origin.json").write_text(json.dumps(origin))
    push_to_hub(checkpoint, "org/mine")
    card = hub_server.repositories["org/mine"]["README.md"].decode()
    assert "converted from: MAFT.pt (https://example.org/1; licence: none stated)" in card


def test_what_is_to_be_private_is(hub_server, checkpoint):
    push_to_hub(checkpoint, "org/mine", private=True)
    assert hub_server.private == {"org/mine"}
    hub_server.repositories["org/open"] = {"README.md": b""}
    with pytest.raises(UserError, match="org/open exists and is public"):
        push_to_hub(checkpoint, "org/open", private=True)
    assert set(hub_server.repositories["org/open"]) == {"README.md"}


def test_mistakes(hub_server, checkpoint, tmp_path):
    with pytest.raises(UserError, match=r"is no checkpoint folder, it lacks model\.safetensors and config\.yaml"):
        push_to_hub(tmp_path, "org/mine")
    with pytest.raises(UserError, match="takes weights from other files"):
        push_to_hub(pretrained(MINIATURE), "org/mine")
    with pytest.raises(UserError, match="'a b' names no repository"):
        push_to_hub(checkpoint, "a b")
    hub_server.closed = True
    with pytest.raises(UserError, match=r"org/mine could not be published \(.*401.*\): log in with hf auth login"):
        push_to_hub(checkpoint, "org/mine")
    assert not hub_server.repositories
