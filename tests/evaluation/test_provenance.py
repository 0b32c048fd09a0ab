"""Hashes of what numbers were made of: alike for the same, another one for whatever changes them."""

import subprocess

import pytest
import torch

from maft.evaluation import provenance
from maft.evaluation.provenance import DataDigests, annotation_digest, code, config_digest, data_digest
from maft.files import sha256


@pytest.fixture
def record(tmp_path):
    (tmp_path / "image.jpg").write_bytes(b"image")
    (tmp_path / "labels.png").write_bytes(b"labels")
    names = {"file_name": str(tmp_path / "image.jpg"), "sem_seg_file_name": str(tmp_path / "labels.png")}
    return {**names, "segments_info": [{"id": 1, "category_id": 3}]}


def test_a_config_is_the_same_wherever_it_runs_and_another_when_it_computes_something_else(plain_cfg):
    before = config_digest(plain_cfg)
    plain_cfg.OUTPUT_DIR, plain_cfg.MODEL.DEVICE, plain_cfg.DATALOADER.NUM_WORKERS = "elsewhere", "cuda", 7
    plain_cfg.TEST.RESUME, plain_cfg.MODEL.WEIGHTS, plain_cfg.MODEL.VOCABULARY.CACHE_DIR = True, "somewhere", "texts"
    assert config_digest(plain_cfg) == before
    plain_cfg.INPUT.MIN_SIZE_TEST += 1
    assert config_digest(plain_cfg) != before


def test_data_are_files_and_what_annotations_list_of_them(record, tmp_path):
    digests = DataDigests([record])
    digests.process([{"file_name": record["file_name"], "image": torch.zeros(3, 1, 1)}], [{}])
    taken = digests.gathered()
    assert bytes(taken["picture"][0].tolist()).hex() == sha256(record["file_name"])
    assert bytes(taken["annotation"][0].tolist()).hex() == annotation_digest(record)
    whole = data_digest(["image"], taken["picture"], taken["annotation"])
    assert whole != data_digest(["other"], taken["picture"], taken["annotation"])
    assert whole != data_digest(["image"], taken["annotation"], taken["picture"])
    before = annotation_digest(record)
    assert annotation_digest({**record, "segments_info": []}) != before
    (tmp_path / "labels.png").write_bytes(b"others")
    assert annotation_digest(record) != before


def test_code_is_this_package_its_libraries_and_the_commit_of_a_clone(tmp_path, monkeypatch):
    found = code()
    assert found == code() and len(found["sha256"]) == 64
    assert {"python", "torch", "timm", "numpy", "open_clip_torch"} <= set(found["libraries"])
    package = tmp_path / "maft"
    package.mkdir()
    (package / "a.py").write_text("a = 1\n")
    monkeypatch.setattr(provenance, "_PACKAGE", package)
    first = code()
    assert first["commit"] is None and first["sha256"] != found["sha256"]
    (package / "a.py").write_text("a = 2\n")
    assert code()["sha256"] != first["sha256"]
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    assert code()["commit"] is None  # there is none yet
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    assert len(code()["commit"]) == 40
    monkeypatch.setenv("PATH", "")
    assert code()["commit"] is None
