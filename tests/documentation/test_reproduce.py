"""The page on reproduction: its numbers are the zoo's, and each of its commands finds what an earlier one has made."""

import re
import shlex
from pathlib import PurePath

import pytest
from documentation.pages import ROOT, blocks

from maft.config import load_config, start_from

PAGE = "docs/reproduce.md"


def table_numbers(file):
    rows = [line for line in (ROOT / file).read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    return {float(number) for row in rows for number in re.findall(r"\d+\.\d+", row)}


def test_the_numbers_are_those_of_the_zoo():
    numbers = table_numbers(PAGE)
    assert len(numbers) > 30 and numbers <= table_numbers("MODEL_ZOO.md")


def commands():
    """(command, config, words) of every training, evaluation and mining, in the order of the page."""
    for block in blocks(PAGE):
        for line in block.text.replace("\\\n", "").splitlines() if block.language == "bash" else ():
            words = shlex.split(line, comments=True)
            if words[:1] == ["maft"] and words[1] in ("train", "evaluate", "mine"):
                yield words[1], words[2], words


@pytest.fixture(scope="module")
def found():
    """What is asked for and not made by an earlier command, with the command that asks."""
    made, missing = set(), []
    for command, name, words in commands():
        cfg = load_config(name)
        asked = [] if "MODEL.WEIGHTS" in words else [rule.file for rule in start_from(cfg)]
        if "MODEL.WEIGHTS" in words:
            asked.append(words[words.index("MODEL.WEIGHTS") + 1])
        if command == "train":
            asked += [table.removeprefix("pairs:") for table in cfg.DATASETS.TRAIN if table.startswith("pairs:")]
        lacking = [file for file in asked if file.startswith("output/") and str(PurePath(file).parent) not in made]
        missing += [(file, name) for file in lacking]
        made.add(words[words.index("--output") + 1] if command == "mine" else cfg.OUTPUT_DIR)
    return made, missing


def test_every_stage_finds_the_one_before_it(found):
    made, missing = found
    assert len(made) > 15
    assert missing == []
