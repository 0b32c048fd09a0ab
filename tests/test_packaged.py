"""Packaged configs are found by name and by path, from any folder, and never hide the user's own files."""

import pytest

from maft.config import load_config, start_from
from maft.config_files import read_config_file
from maft.errors import UserError
from maft.packaged import config_file, config_names, configs, located


def test_every_config_of_a_method_has_a_name():
    names = config_names()
    assert "quickstart/maft" in names and "maft/maft_vitb16_coco-stuff-171" in names
    assert not [name for name in names if name.startswith("_base_")]
    for name in names:
        assert config_file(name) == configs() / f"{name}.yaml"


@pytest.mark.parametrize("name", ["quickstart/maft", "quickstart/maft.yaml", "configs/quickstart/maft.yaml"])
def test_a_config_is_found_from_an_empty_folder(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    cfg = load_config(name)
    assert cfg.OUTPUT_DIR == "output/quickstart/maft"
    assert [rule.file for rule in start_from(cfg)] == [str(configs() / "quickstart" / "proposer.safetensors")]


def test_the_users_own_file_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "configs" / "quickstart" / "maft.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("VERSION: 2\nSEED: 77\n")
    assert load_config("configs/quickstart/maft.yaml").SEED == 77
    assert located("configs/quickstart/maft.yaml").read_text() == own.read_text()


@pytest.mark.parametrize("base", ["quickstart/maft", "configs/quickstart/maft.yaml"])
def test_a_config_elsewhere_may_build_on_a_packaged_one(tmp_path, base):
    (tmp_path / "mine.yaml").write_text(f"_BASE_: {base}\nSEED: 78\n")
    content = read_config_file(tmp_path / "mine.yaml")
    assert content["SEED"] == 78 and content["MODEL"]["CLASSIFIER"]["NAME"] == "IPCLIP"


def test_a_misspelt_name_is_answered_with_the_closest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="quickstart/mafft does not exist.*maft configs .*quickstart/maft\\?"):
        load_config("quickstart/mafft")


def test_a_name_does_not_leave_the_packaged_folder():
    with pytest.raises(UserError, match="does not exist"):
        config_file("../pyproject")
