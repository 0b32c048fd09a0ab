"""What a predictor is made from: what lies on the disk comes first, when it is a model."""

import shutil

import pytest

from maft.errors import UserError
from maft.predictor.sources import checkpoint_of
from maft.zoo import MINIATURE, pretrained


def test_a_folder_without_a_model_does_not_hide_one_of_the_zoo(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / MINIATURE).mkdir()
    assert checkpoint_of(MINIATURE, None)[1] == pretrained(MINIATURE) / "model.safetensors"
    with pytest.raises(UserError, match="holds 0 .safetensors files"):
        checkpoint_of(f"./{MINIATURE}", None)
    for file in pretrained(MINIATURE).glob("*.*"):
        shutil.copy(file, MINIATURE)
    assert checkpoint_of(MINIATURE, None)[1].resolve() == tmp_path / MINIATURE / "model.safetensors"
