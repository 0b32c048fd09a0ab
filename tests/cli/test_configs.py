"""The list of packaged configs: each in one line, with the numbers that it stands for."""

from pathlib import Path

import pytest

from maft.cli import configs
from maft.errors import UserError
from maft.packaged import config_names


def listed(capsys, *words):
    configs.main(list(words))
    return capsys.readouterr().out.splitlines()


def test_every_config_has_its_line(capsys):
    lines = listed(capsys)
    assert lines[::2] == config_names()
    assert all(line.startswith("    ") and line.endswith(".") and len(line) > 20 for line in lines[1::2])
    assert not [line for line in lines if line.endswith((":.", ",.", ";."))], "cut in the middle of a sentence"


def test_published_numbers_are_those_of_the_config(capsys):
    lines = listed(capsys, "maft")
    line = lines[lines.index("maft/maft_vitb16_coco-stuff-171") + 1]
    assert line.startswith("    Stage 2, MAFT ViT-B/16. Reproduces MAFT README")
    assert "ade20k_150_val 29.1492 mIoU_or_predicted" in line and "fwIoU" not in line
    assert all(name.startswith("maft/") for name in lines[::2])


def test_a_name_gives_its_file(capsys):
    (line,) = listed(capsys, "quickstart/maft")
    assert Path(line).read_text().startswith("# Stage 2")


def test_a_misspelt_name(capsys):
    with pytest.raises(UserError, match="No packaged config is called 'quikstart'.*Did you mean quickstart"):
        configs.main(["quikstart"])
