"""The page on the zero-shot baselines names config keys, options and components that exist."""

import re
from pathlib import Path

import pytest

from maft.config_checks import keys_of
from maft.config_keys import default_config
from maft.registry import CLASSIFIERS, ENSEMBLES, LOSSES, PROPOSERS

TEXT = (Path(__file__).resolve().parent.parent / "docs/zero_shot.md").read_text(encoding="utf-8")
KEYS = set(re.findall(r"`((?:[A-Z][\w]*\.)*[A-Z][A-Z_]+)\b[^`]*`", TEXT))


@pytest.fixture(scope="module")
def known():
    registries = (PROPOSERS, CLASSIFIERS, ENSEMBLES, LOSSES)
    options = {f".{name}.{key}" for registry in registries for name in registry for key in registry.options(name)}
    return options | {f".{key}" for key in keys_of(default_config())}


def test_the_page_names_keys():
    assert len(KEYS) > 15


@pytest.mark.parametrize("key", sorted(KEYS))
def test_a_key(key, known):
    # Without the group, or below the component that MODEL.<KIND> names.
    part = re.sub(r"^MODEL\.(PROPOSER|CLASSIFIER|ENSEMBLE|LOSSES)(?=\.[A-Z][a-z])", "", key)
    assert any(name.endswith(f".{part.lstrip('.')}") for name in known), key
