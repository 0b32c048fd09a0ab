"""The table of released models: links of a known kind, and configs that exist and fit."""

import json

import pytest
import torch

from maft.building import model_shapes
from maft.checkpoint.loading import unfit
from maft.checkpoint.official.released import convert_released, recognise
from maft.config import load_config
from maft.errors import UserError
from maft.zoo import MINIATURE, names, pretrained
from maft.zoo.conversion import _ALIKE, _UNRELEASED
from maft.zoo.table import entries


@pytest.fixture(scope="module")
def recorded(golden_dir):
    """Names and shapes of the official models, which the released files hold."""
    files = [golden_dir / system / "checkpoint_keys.json" for system in ("maft", "maskadapter", "ovseg", "san")]
    return {
        name: {key: torch.Size(entry[:-1]) for key, entry in record["keys"].items()}
        for file in files
        for name, record in json.loads(file.read_text()).items()
        if "keys" in record
    }


def test_names_are_those_that_can_be_fetched():
    assert {MINIATURE, "maft-vitb16", "fcclip-r50x64", "ovseg-r101c-vitb16"} < set(names())
    assert "zegformer" in entries() and "zegformer" not in names()
    assert all(link.startswith("https://") for row in entries().values() for link in row.links)
    assert all(bool(row.file) == bool(row.config) for row in entries().values())
    # Of the file itself: a page of several is none that can be downloaded.
    fetched = [row for row in entries().values() if row.file]
    assert all("/file/d/" in row.links[0] or row.links[0].endswith(f"/resolve/main/{row.file}") for row in fetched)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("maft-vitb", r"no released model 'maft-vitb': .* maft models lists, .* Did you mean maft-vitb16\?"),
        ("maft-vitb16#sha256=12", r"checksum of maft-vitb16#sha256=12 is none: write #sha256= and 64"),
        ("maft-vitb16#md5=12", r"checksum of maft-vitb16#md5=12 is none"),
        (f"org/name#sha256={'0' * 64}", r"org/name is no released file, .* of the hub, give a revision"),
        ("zegformer", r"zegformer cannot be fetched automatically.*/folders/\S+ and run maft convert"),
    ],
)
def test_what_is_not_in_it(name, sentence):
    with pytest.raises(UserError, match=sentence):
        pretrained(name)


def test_a_released_model_has_no_revisions():
    with pytest.raises(UserError, match="maft-vitb16 has no revisions"):
        pretrained("maft-vitb16", revision="v1")


@pytest.mark.parametrize("row", [row for row in entries().values() if row.file], ids=lambda row: row.name)
def test_every_released_file_fits_the_full_size_model_of_its_config(recorded, row):
    shapes = recorded[row.file]
    state = convert_released(shapes, recognise(shapes), row.file)
    assert unfit(model_shapes(load_config(row.config, row.overrides)), state) == []


def test_configs_that_a_file_alone_tells_exist():
    assert set(_ALIKE.values()) <= set(names())
    for name in _UNRELEASED.values():
        load_config(name)
