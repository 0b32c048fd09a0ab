"""What the pages name in backticks exists: files, configs, config keys and options, commands and their flags."""

import importlib
import re
from functools import cache

import pytest
from documentation.pages import ROOT, pages

from maft.cli import COMMANDS
from maft.config import WeightsRule
from maft.config_checks import keys_of
from maft.config_keys import default_config
from maft.options import options_of
from maft.packaged import config_names
from maft.registry import CLASSIFIERS, ENSEMBLES, LOSSES, PROPOSERS

_FENCES = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
_KEY = re.compile(r"(?:[A-Z]\w*\.)+[A-Z][A-Z_]+\b|[A-Z]+_[A-Z_]+\b|[A-Z]{3,}(?=: )")
# Environment variables, and a file.
_NO_KEYS = re.compile(r"(DETECTRON2|MAFT|TRACKIO|HF|CUDA|OMP|PYTORCH|NCCL|WANDB|SLURM|MLFLOW|XDG)_\w+|MODEL_ZOO")
_FILE = re.compile(r"(?:\.\./)?(?:maft|configs|tools|tests|datasets)/[\w./*-]+\.(?:py|yaml|json|sbatch|safetensors)")


def spans(page):
    """Inline code of a page, each once."""
    text = _FENCES.sub("", (ROOT / page).read_text(encoding="utf-8"))
    return sorted({" ".join(found.split()) for found in re.findall(r"`([^`]+)`", text)})


@cache
def keys():
    registries = (PROPOSERS, CLASSIFIERS, ENSEMBLES, LOSSES)
    options = {f".{name}.{key}" for registry in registries for name in registry for key in registry.options(name)}
    of_files = {f".{key}" for key in options_of(WeightsRule)}
    return options | of_files | {f".{key}" for key in keys_of(default_config())}


def is_key(name):
    """Whether a key exists: whole, without the group before it, or below the component that MODEL.<KIND> names."""
    below = re.sub(r"^MODEL\.(PROPOSER|CLASSIFIER|ENSEMBLE|LOSSES)\.", "", name)
    return any(known.endswith(f".{part}") or f".{part}." in known for known in keys() for part in (name, below))


def wrong_words(words):
    """What is wrong with a command line of maft, as far as its words tell."""
    if len(words) < 2 or not re.fullmatch(r"[a-z]+", words[1]):
        return []
    if words[1] not in COMMANDS:
        return [f"maft {words[1]}"]
    flags = [word for word in words[2:] if word.startswith("--")]
    known = importlib.import_module(f"maft.cli.{words[1]}").parser()._option_string_actions if flags else {}
    return [f"maft {words[1]} {flag}" for flag in flags if flag not in known]


def wrong_names(page):
    folders = {name.split("/")[0] for name in config_names()}
    functions = re.findall(r"^(\w+)\(\)", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    for span in spans(page):
        for file in _FILE.findall(span):
            if not list(ROOT.glob(file.removeprefix("../"))) and not list(ROOT.glob(f"configs/{file}")):
                yield f"file {file}"
        first = span.split()[0]
        is_config = re.fullmatch(r"[\w-]+/[\w*-]+", first) and first.split("/")[0] in folders
        if is_config and not list(ROOT.glob(f"configs/{first}.yaml")) and not list(ROOT.glob(f"{first}*")):
            yield f"config {first}"
        named = [key for key in _KEY.findall(span) if not _NO_KEYS.match(key) and key not in functions]
        yield from (f"key {key}" for key in named if not is_key(key))
        if first == "maft":
            yield from (f"command {wrong}" for wrong in wrong_words(span.split()))


@pytest.mark.parametrize("page", pages())
def test_what_a_page_names_exists(page):
    assert list(wrong_names(page)) == []


def test_what_does_not_exist_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "`maft/nothing.py`, `quickstart/nothing`, `SOLVER.NOTHING 1`, `MODEL.CLASSIFIER.IPCLIP.NOTHING`, `maft "
        "nothing`, `maft train --nothing`; but `maft/errors.py`, `quickstart/maft`, `fcclip_*.yaml`, "
        "`SOLVER.BASE_LR 1e-5`, `MODEL.CLASSIFIER.IPCLIP.TRAIN`, `START_LAYER`, `HF_HUB_OFFLINE=1` and "
        "`maft train --resume` exist.\n"
    )
    assert sorted(wrong_names(page)) == [
        "command maft nothing",
        "command maft train --nothing",
        "config quickstart/nothing",
        "file maft/nothing.py",
        "key MODEL.CLASSIFIER.IPCLIP.NOTHING",
        "key SOLVER.NOTHING",
    ]
