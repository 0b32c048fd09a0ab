"""From an official file to a folder that predicts, and what is refused on the way."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from maft.building import build_model
from maft.cli.convert import main
from maft.config import load_config
from maft.errors import UserError
from maft.predictor import Predictor


def convert(*arguments):
    main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def maft(tiny_configs):
    return build_model(load_config(tiny_configs / "maft.yaml"))


@pytest.fixture(scope="module")
def official(maft, official_state):
    return {**official_state(maft, "MAFT"), "T.proj": torch.zeros(3)}


@pytest.fixture
def file(official, tmp_path):
    torch.save({"model": official}, tmp_path / "MAFT.pt")
    return tmp_path / "MAFT.pt"


def labels(predictor):
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    return predictor(image, ["cat", "dog"]).labels


@pytest.mark.parametrize("output", ["out", "out/MAFT.safetensors"])
def test_what_is_written_predicts_like_the_original_and_needs_nothing_else(
    tiny_configs, file, maft, tmp_path, output, capsys
):
    stage_one = "MODEL.START_FROM", "[{'FILE': '/some/stage_one'}]"
    convert(file, tmp_path / output, "--from", "maft", "--config-file", tiny_configs / "maft.yaml", *stage_one)
    assert f"{len(maft.state_dict())} tensors of MAFT" in capsys.readouterr().out
    written = next((tmp_path / "out").glob("*.safetensors"))
    tensors = load_file(written)
    assert tensors.keys() == maft.state_dict().keys()
    assert torch.equal(tensors["classifier.visual.proj"], maft.classifier.visual.proj)
    reference = Predictor.from_config(tiny_configs / "maft.yaml", ["MODEL.WEIGHTS", str(file)])
    for source in (tmp_path / "out", written):
        # The weights of this CLIP do not exist: those in the checkpoint are used.
        predictor = Predictor.from_pretrained(source, ["MODEL.CLIP.PRETRAINED", "nowhere.pt"])
        assert predictor.cfg.MODEL.START_FROM == []
        np.testing.assert_array_equal(labels(predictor), labels(reference))


def test_a_pruned_file_says_so_and_its_config_allows_the_gap(tiny_configs, official, tmp_path, caplog):
    kept = {name: value for name, value in official.items() if not name.startswith("clip_adapter.clip_model.")}
    torch.save(kept, tmp_path / "pruned.pt")
    convert(tmp_path / "pruned.pt", tmp_path / "out", "--config-file", tiny_configs / "maft.yaml")
    assert "pruned.pt lacks clip.model.*: the model takes it from MODEL.CLIP" in caplog.text
    assert labels(Predictor.from_pretrained(tmp_path / "out")).shape == (40, 60)


def test_every_difference_is_listed_and_nothing_is_written(tiny_configs, official, tmp_path, caplog):
    lacking = ("sem_seg_head.interaction.gamma", "IPCLIP.proj")
    official = {name: value for name, value in official.items() if name not in lacking}
    torch.save(official, tmp_path / "MAFT.pt")
    with pytest.raises(UserError, match="differs from the model in the 2 points above"):
        convert(tmp_path / "MAFT.pt", tmp_path / "out", "--config-file", tiny_configs / "maft.yaml")
    assert caplog.messages[-1].splitlines() == [
        "missing: proposer.interaction.gamma (32,)",
        "missing: classifier.visual.proj (128, 128)",
    ]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--from", "ovsge"], r"There is no release 'ovsge'; known are .*Did you mean ovseg\?"),
        (["--from", "freeseg"], r"MAFT\.pt is a MAFT checkpoint, not FreeSeg: leave out --from"),
        ([], "No config is known for MAFT with embedding width 128: .* --config-file"),
        (["--config-file", "{maft}", "MODEL.PROPOSER.FreeSeg.NUM_QUERIES", "9"], "has 6 queries, not 9"),
        (["--config-file", "{freeseg}"], "unexpected|points above"),
    ],
)
def test_mistakes(tiny_configs, file, tmp_path, arguments, sentence):
    configs = {"maft": tiny_configs / "maft.yaml", "freeseg": tiny_configs / "freeseg.yaml"}
    with pytest.raises(UserError, match=sentence):
        convert(file, tmp_path / "out", *(argument.format(**configs) for argument in arguments))
    assert not (tmp_path / "out").exists()


def test_a_file_is_known_by_its_official_name_and_checked(official, tmp_path):
    torch.save(official, tmp_path / "fcclip_cocopan_r50.pth")
    with pytest.raises(UserError, match=r"fcclip_cocopan_r50\.pth differs from the model .* another architecture"):
        convert(tmp_path / "fcclip_cocopan_r50.pth", tmp_path / "out")
    assert not (tmp_path / "out").exists()
