"""Config files are data: whatever else they hold is one sentence with file and line."""

from pathlib import Path

import pytest
import yaml

from maft.config import load_config
from maft.config_files import parse_yaml, read_config_file
from maft.errors import UserError

QUICKSTART = Path(__file__).resolve().parent.parent / "configs" / "quickstart"


# A billion laughs: nine levels of ten aliases of the level before.
ALIASES = "SOLVER:\n  A0: &a0 [x]\n" + "".join(
    f"  A{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 10)
)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('SEED: !!python/object/apply:os.system ["touch {marker}"]', "line 1: the tag !!python/object/apply:os.system"),
        ("SOLVER:\n  STEPS: !!python/tuple [1, 2]", "line 2: the tag !!python/tuple .* write a list"),
        ("SEED: !custom 3", "line 1: the tag !!!custom"),
        ("_BASE_: https://example.org/config.yaml", "must be the path of a local file"),
        ("_BASE_: [3]", "_BASE_ is 3, but it must be the path of a local file"),
        ("_BASE_: gone.yaml", "its _BASE_ .*gone.yaml does not exist"),
        ("_BASE_: config.yaml", "leads back to itself"),
        ("SEED: 1\nSEED: 2", "line 2: the key SEED stands there twice"),
        ("1: 2", "line 1: the key 1 is no text"),
        ("- SEED", "holds a list and no keys with values"),
        ("just text", "holds a str and no keys with values"),
        ("SEED: [1", "line 1: expected ',' or ']'"),
        ("SEED: &a [*a]", "deep, or holds itself"),
        (ALIASES, "SEED|SOLVER"),
        ("SEED: " + "[" * 4000 + "]" * 4000, "nested too deeply|levels deep"),
        ("SEED: 0x" + "f" * 3, "SEED|fit"),
        ("VERSION: 1", "VERSION is 1, but 2 is the only one here"),
        ("SOLVER: null", "SOLVER"),
        ("SOLVER: []", "SOLVER"),
        ("MODEL: {PROPOSER: [1]}", "MODEL.PROPOSER"),
        ("DATASETS: {TRAIN: 2024-01-01}", "DATASETS.TRAIN"),
    ],
)
def test_a_file_that_is_no_plain_config(tmp_path, text, sentence):
    marker = tmp_path / "marker"
    (tmp_path / "config.yaml").write_text(text.replace("{marker}", str(marker)))
    if "0xfff" in text:
        assert load_config(tmp_path / "config.yaml").SEED == 4095
        return
    with pytest.raises(UserError, match=sentence) as raised:
        load_config(tmp_path / "config.yaml")
    assert "\n" not in str(raised.value) and str(tmp_path / "config.yaml") in str(raised.value)
    assert not marker.exists()


def test_bytes_that_are_no_text_folders_and_missing_files(tmp_path):
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"bytes.yaml cannot be read \(it is no UTF-8 text\)"):
        load_config(tmp_path / "bytes.yaml")
    for missing in (tmp_path, tmp_path / "gone.yaml"):
        with pytest.raises(UserError, match="does not exist.*check --config-file"):
            load_config(missing)


def test_an_empty_file_is_the_defaults_and_bases_are_merged_in_order(tmp_path):
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert load_config(tmp_path / "empty.yaml").MODEL.PROPOSER.NAME == "Mask2Former"
    for name, text in (("a", "SEED: 1\nSOLVER: {BASE_LR: 1.0, MAX_ITER: 5}"), ("b", "SOLVER: {BASE_LR: 2.0}")):
        (tmp_path / f"{name}.yaml").write_text(text)
    (tmp_path / "c.yaml").write_text("_BASE_: [a.yaml, b.yaml]\nSOLVER: {GAMMA: 0.5}\n")
    assert read_config_file(tmp_path / "c.yaml") == {"SEED": 1, "SOLVER": {"BASE_LR": 2.0, "MAX_ITER": 5, "GAMMA": 0.5}}


def test_a_cycle_over_several_files_ends(tmp_path):
    for name, base in (("a", "b"), ("b", "c"), ("c", "a")):
        (tmp_path / f"{name}.yaml").write_text(f"_BASE_: {base}.yaml\n")
    with pytest.raises(UserError, match="leads back to itself"):
        load_config(tmp_path / "a.yaml")


def test_every_shipped_config_is_plain():
    for file in QUICKSTART.parent.rglob("*.yaml"):
        assert read_config_file(file)


def test_numbers_that_no_computer_counts_to_are_refused():
    with pytest.raises(yaml.YAMLError, match="the number 9223372036854775808 is larger"):
        parse_yaml("A: [1, 9223372036854775808]")
