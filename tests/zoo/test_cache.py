"""A released model is fetched once, becomes a checkpoint of ours, and stays what it was at first."""

import errno
import hashlib
import json
import threading

import numpy as np
import pytest
import torch

from maft.building import build_model
from maft.config import load_config
from maft.errors import UserError
from maft.files import writing
from maft.predictor import Predictor
from maft.zoo.cache import converted, folder_of, is_here
from maft.zoo.table import Entry


@pytest.fixture(scope="module")
def official(tiny_configs, official_state, tmp_path_factory):
    """Bytes of a small file with the official names, as torch.save wrote it."""
    model = build_model(load_config(tiny_configs / "maft.yaml"))
    torch.save({"model": official_state(model, "MAFT")}, file := tmp_path_factory.mktemp("official") / "MAFT.pt")
    return file.read_bytes()


@pytest.fixture
def row(file_server, official, tiny_configs, tmp_path, monkeypatch):
    monkeypatch.setenv("MAFT_CACHE", str(tmp_path))
    monkeypatch.setattr("maft.downloads._RETRIES", 0)
    file_server.files["/MAFT.pt"] = official
    return Entry(
        "small", (f"{file_server.url}/MAFT.pt",), "a README", "none stated", "MAFT.pt", str(tiny_configs / "maft.yaml")
    )


def checksum(content):
    return hashlib.sha256(content).hexdigest()


def test_it_is_fetched_once_and_predicts_alone(row, file_server, official, caplog, tmp_path):
    folder = converted(row)
    assert folder == tmp_path / "models" / "small" and is_here(row)
    assert "Licence of the weights: none stated (a README)" in caplog.text
    assert "No checksum is published: this file's is kept" in caplog.text
    origin = json.loads((folder / "origin.json").read_text())
    assert origin["sha256"] == checksum(official) and origin["link"] == row.links[0]
    # What is converted needs no second copy.
    assert not (folder / "MAFT.pt").exists()
    image = np.zeros((40, 60, 3), np.uint8)
    assert Predictor.from_pretrained(folder)(image, ["cat", "dog"]).labels.shape == (40, 60)
    caplog.clear()
    assert converted(row, checksum(official)) == folder
    assert len(file_server.asked) == 1 and not caplog.text


def test_threads_fetch_it_once(row, file_server):
    threads = [threading.Thread(target=converted, args=(row,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(file_server.asked) == 1 and is_here(row)


def test_a_cut_download_leaves_nothing_that_counts_and_is_continued(row, file_server):
    file_server.cuts = [1 << 19]
    with pytest.raises(
        UserError, match=r"cannot be downloaded .*: download MAFT\.pt by hand and put it into .*/small\."
    ):
        converted(row)
    assert not is_here(row)
    converted(row)
    assert file_server.asked[-1][1] == f"bytes={1 << 19}-"


def test_a_file_that_was_put_there_is_taken_and_kept(row, file_server, official):
    folder = folder_of(row)
    folder.mkdir(parents=True)
    (folder / "MAFT.pt").write_bytes(official)
    assert converted(row) == folder
    assert not file_server.asked and (folder / "MAFT.pt").is_file()


def test_a_later_file_has_to_be_the_first_one(row, file_server, official):
    folder = converted(row)
    (folder / "model.safetensors").unlink()
    file_server.files["/MAFT.pt"] = official + b" "
    with pytest.raises(UserError, match=rf"not {checksum(official)}, unlike the one of 20.* is removed; ask .*origin"):
        converted(row)
    assert not is_here(row) and not (folder / "MAFT.pt").exists()
    file_server.files["/MAFT.pt"] = official
    assert converted(row) == folder


def test_a_checksum_that_is_given_is_enforced(row, file_server, official):
    with pytest.raises(UserError, match=f"has the SHA-256 {checksum(official)}, not {'0' * 64}: it is damaged"):
        converted(row, "0" * 64)
    assert not is_here(row)
    converted(row)
    with pytest.raises(UserError, match="was made from a file with the SHA-256"):
        converted(row, "0" * 64)


def test_a_model_that_was_changed_is_not_used(row):
    weights = converted(row) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=r"model\.safetensors is not what was written there: remove it"):
        converted(row)


def test_an_answer_that_is_no_checkpoint_is_fetched_again(row, file_server, official):
    file_server.files["/MAFT.pt"] = b'{"error": "quota"}'
    with pytest.raises(UserError, match=r"it came from .*/MAFT\.pt and is removed, and the next call"):
        converted(row)
    assert not (folder_of(row) / "MAFT.pt").exists()
    file_server.files["/MAFT.pt"] = official
    assert converted(row) == folder_of(row)


def test_a_full_disk_and_a_file_put_there_by_hand_remove_nothing(row, official, monkeypatch):
    def full(*rest):
        with writing("model.safetensors"):
            raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patched, pytest.raises(UserError, match="free some space"):
        patched.setattr("maft.zoo.conversion.convert", full)
        converted(row)
    file = folder_of(row) / "MAFT.pt"
    assert file.read_bytes() == official
    file.write_bytes(b"mine")
    with pytest.raises(UserError):
        converted(row)
    assert file.read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("noted", "sentence"), [("{", "cannot be read .*remove the folder"), ("[]", "is not what was")]
)
def test_a_note_that_somebody_changed_is_no_proof(row, noted, sentence):
    (converted(row) / "origin.json").write_text(noted)
    with pytest.raises(UserError, match=sentence):
        converted(row)


def test_a_file_of_another_model_is_not_kept_as_this_one(row, file_server, official_state, tiny_configs, tmp_path):
    small = build_model(load_config(tiny_configs / "maft.yaml", ["MODEL.PROPOSER.FreeSeg.NUM_QUERIES", "3"]))
    torch.save(official_state(small, "MAFT"), tmp_path / "other.pt")
    file_server.files["/MAFT.pt"] = (tmp_path / "other.pt").read_bytes()
    with pytest.raises(UserError, match="it has 3 queries, not 6"):
        converted(row)
    assert not is_here(row)
