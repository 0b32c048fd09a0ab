"""The list of released models, and one as the argument of another command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from maft.cli.models import main
from maft.errors import UserError
from maft.zoo import MINIATURE, names, pretrained


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("MAFT_CACHE", str(tmp_path / "cache"))


def test_the_list_names_every_model_its_licence_and_whether_it_is_here(capsys):
    main([])
    listed = capsys.readouterr().out
    lines = {line.split()[0]: line for line in listed.splitlines() if line.strip()}
    assert set(names()) < set(lines)
    assert lines[MINIATURE].endswith("yes") and not lines["maft-vitb16"].endswith("yes")
    assert "none stated" in lines["maft-vitb16"] and "CC BY-NC 4.0" in lines["ovseg-r101c-vitb16"]
    assert "knows 24 drawn things and nothing of photographs" in listed
    assert max(map(len, listed.splitlines())) < 140


def test_json_has_what_a_program_needs(capsys):
    main(["--json"])
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["maft-vitl14"]["config"] == "maft/maft_vitl14_coco-stuff-171"
    assert rows["maft-vitl14"]["overrides"] == ["MODEL.CLASSIFIER.IPCLIP.START_LAYER", "8"]
    assert rows["ovseg-swinb-vitl14-prompts-only"]["reproduces"].endswith("prompts only, ADE20K")
    assert rows["zegformer"]["automatic"] is False and rows["zegformer"]["links"]


def test_one_model_is_its_folder_alone(capsys):
    main([MINIATURE])
    printed = capsys.readouterr()
    assert printed.out == f"{pretrained(MINIATURE)}\n"
    assert printed.err == "miniature is ready: maft predict IMG --model miniature\n"


def test_without_a_connection_the_sentence_says_from_where_and_to_where(monkeypatch, tmp_path):
    def unreachable(_):
        raise OSError("no connection to drive.google.com")

    monkeypatch.setattr("maft.downloads.check_reachable", unreachable)
    place = tmp_path / "cache" / "models" / "maft-vitb16"
    with pytest.raises(
        UserError,
        match=r"^https://drive.google.com/file/d/\w+/view cannot be downloaded \(no connection to drive.google.com\): "
        rf"download MAFT_Vitb\.pt by hand and put it into {place}\.$",
    ):
        main(["maft-vitb16"])
    assert place.is_dir()


def test_a_model_goes_to_the_hub_of_the_environment_and_comes_back(hub_server, tiny_configs, tmp_path):
    """By the commands as a shell runs them: ``HF_ENDPOINT`` alone leads them to this machine."""
    from maft.building import build_model
    from maft.checkpoint.io import write_safetensors
    from maft.config import load_config, self_contained

    cfg = load_config(tiny_configs / "maft.yaml")
    write_safetensors(tmp_path / "run" / "model.safetensors", build_model(cfg).state_dict())
    (tmp_path / "run" / "config.yaml").write_text(self_contained(cfg).dump())

    def maft(*words):
        command = [sys.executable, "-m", "maft", *words]
        answer = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=os.environ)
        assert answer.returncode == 0, answer.stderr
        # No progress where nobody watches.
        assert "%|" not in answer.stderr
        return answer.stdout.strip()

    assert maft("push", "run", "org/mine", "--licence", "mit") == f"{hub_server.url}/org/mine"
    folder = Path(maft("models", "org/mine"))
    assert (folder / "model.safetensors").read_bytes() == (tmp_path / "run" / "model.safetensors").read_bytes()
