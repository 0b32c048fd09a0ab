"""Weights come from where the user says, and are what the user says."""

import hashlib

import pytest
import torch

from maft.addresses import check_address, downloaded
from maft.checkpoint.io import write_safetensors
from maft.checkpoint.loading import read_weights
from maft.config import load_config
from maft.errors import UserError

FILE = "https://example.org/weights/model.safetensors"


@pytest.fixture
def host(file_server, tmp_path, monkeypatch):
    """Serves one file under two names and as the catalogue's; its bytes."""
    monkeypatch.setenv("MAFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("maft.addresses.check_address", lambda *_: None)
    monkeypatch.setattr("maft.addresses._CATALOGUE_FILES", f"{file_server.url}/")
    write_safetensors(tmp_path / "served.safetensors", {"a": torch.ones(2)})
    content = (tmp_path / "served.safetensors").read_bytes()
    file_server.files = dict.fromkeys(("/one/model.safetensors", "/two/model.safetensors", "/DeepLab/R.pkl"), content)
    return content


def checksum(content):
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("http://example.org/w-01234567.pth", "give a local file or an https:// address with its checksum"),
        ("ftp://example.org/w-01234567.pth", "give a local file or an https"),
        ("file:///etc/passwd", "give a local file or an https"),
        (FILE, "an address without a checksum: append #sha256="),
        (f"{FILE}#sha256=12", "whose checksum is none"),
        (f"{FILE}#md5=0123", "whose checksum is none"),
        (f"https://example.org/../../.bashrc#sha256={'0' * 64}", "no plain address"),
        ("detectron2://../../.bashrc", "no plain address"),
        (f"https://example.org/w?f=/x#sha256={'0' * 64}", "no plain address"),
    ],
)
def test_addresses_that_are_not_trusted_are_refused_when_the_config_is_read(tiny_configs, address, sentence):
    for overrides, key in (
        (["MODEL.WEIGHTS", address], "MODEL.WEIGHTS"),
        (["MODEL.START_FROM", f"[{{'FILE': {address!r}}}]"], r"MODEL.START_FROM\[0\].FILE"),
    ):
        with pytest.raises(UserError, match=f"{key} is .*{sentence}"):
            load_config(tiny_configs / "maft.yaml", overrides)


@pytest.mark.parametrize(
    "path",
    ["", "a/../b.pth", "detectron2://DeepLab/R-103.pkl", "https://h.org/r50-0123abcd.pth", f"{FILE}#sha256={'0' * 64}"],
)
def test_files_catalogues_and_checksums_pass(path):
    check_address(path, "MODEL.WEIGHTS")


def test_a_download_is_what_its_checksum_says_each_time(file_server, host):
    address = f"{file_server.url}/one/model.safetensors#sha256={checksum(host).upper()}"
    assert read_weights(address)["a"].tolist() == [1, 1]
    file = downloaded(address)
    assert len(file_server.asked) == 1
    file.write_bytes(b"another one")
    with pytest.raises(UserError, match="it was damaged or replaced, and is removed"):
        read_weights(address)
    assert not file.exists()


def test_two_addresses_do_not_share_a_place_on_disk(file_server, host):
    files = {downloaded(f"{file_server.url}/{at}/model.safetensors#sha256={checksum(host)}") for at in ("one", "two")}
    assert len(files) == 2 == len(file_server.asked)


def test_a_file_of_the_catalogue_is_logged_with_its_checksum(host, caplog):
    caplog.set_level("INFO")
    assert downloaded("detectron2://DeepLab/R.pkl").read_bytes() == host
    assert f"#sha256={checksum(host)}" in caplog.text
