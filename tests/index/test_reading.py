"""An index that is not whole, damaged or of another version is refused with one sentence."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from maft.errors import UserError
from maft.index.format import METADATA
from maft.index.reading import StoredIndex


@pytest.fixture
def folder(index_folder, tmp_path):
    """A copy of an index, to be damaged."""
    return shutil.copytree(index_folder, tmp_path / "index")


def use(folder):
    index = StoredIndex(folder)
    for shard in index.shards():
        shard.image(0)
        _ = shard.embeddings, shard.valid, shard.areas, shard.runs(0)
    return index


def changed_manifest(folder, change):
    file = folder / "index.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def rewritten(path, change):
    """Writes a shard again after its tensors and its header were changed."""
    with safe_open(str(path), "pt") as file:
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - it is no dictionary
        header = json.loads(file.metadata()[METADATA])
    change(tensors, header)
    save_file(tensors, str(path), {METADATA: json.dumps(header, ensure_ascii=False)})


def test_an_untouched_copy_is_read(folder):
    assert len(use(folder)) == 10


def test_what_is_no_index_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"is no index \(it has no index.json\): give a folder that maft index wrote"):
        StoredIndex(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", "\0", '{"version": 1, "settings": 3}', "[" * 100_000, "[1]"])
def test_a_list_that_is_none_is_refused(folder, text):
    (folder / "index.json").write_text(text)
    with pytest.raises(UserError, match="index.json is no list of an index .*: index the images again"):
        StoredIndex(folder)


def test_another_version_is_refused(folder):
    changed_manifest(folder, lambda content: content.update(version=2))
    with pytest.raises(UserError, match="of version 1, which is read here, but of 2: index the images again, or use"):
        StoredIndex(folder)


@pytest.mark.parametrize("version", [None, True, "1", 1.0])
def test_no_version_is_refused(folder, version):
    changed_manifest(folder, lambda content: content.update(version=version))
    with pytest.raises(UserError, match="index.json is no list of an index .it names no version.: index the images"):
        StoredIndex(folder)


def _set(*keys, to):
    def change(content):
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = to

    return change


@pytest.mark.parametrize(
    "change",
    [
        _set("contents", "shards", 0, "images", to=5),
        _set("contents", "shards", 0, "images", to=50),
        _set("contents", "shards", 0, "images", to=-1),
        _set("contents", "shards", 0, "masks", to=7),
        _set("contents", "shards", 0, "masks", to=700),
        _set("contents", "images", to=50),
        _set("contents", "images", to=0),
        _set("contents", "masks", to=10**9),
        _set("contents", "bound", to=True),
        _set("settings", "images_per_shard", to=0),
        _set("settings", "images_per_shard", to=-64),
        _set("settings", "images", to=0),
        _set("settings", "images", to=11),
        _set("contents", "bytes", to={}),
        lambda content: content["contents"]["bytes"].pop("queries"),
        lambda content: content["contents"].update(shards=[], images=0, masks=0, bytes={}),
    ],
)
def test_numbers_that_cannot_stand_together_are_refused(folder, change):
    changed_manifest(folder, change)
    with pytest.raises(UserError, match="index.json is (damaged|no list of an index)"):
        StoredIndex(folder)


def test_numbers_of_a_shard_that_is_another_one_are_refused(folder):
    def change(content):
        for facts in (content["contents"], content["contents"]["shards"][0]):
            facts["masks"] += 1

    changed_manifest(folder, change)
    with pytest.raises(UserError, match="is not the one that the index was made with"):
        StoredIndex(folder).shard(0)


@pytest.mark.parametrize(("name", "part"), [("config.yaml", "config_file"), ("text.safetensors", "weights")])
def test_a_model_that_is_another_one_is_refused(folder, name, part):
    def used():
        found = getattr(StoredIndex(folder), part)
        return found() if callable(found) else found

    used()
    file = folder / "model" / name
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=rf"{name} is damaged, or of another index: run the same maft index command"):
        used()
    file.unlink()
    with pytest.raises(
        UserError, match=rf"{name}, which the index needs, cannot be read \(No such file.*: run the same"
    ):
        used()


def test_an_index_that_says_nothing_of_its_model_is_refused(folder):
    changed_manifest(folder, lambda content: content["contents"].pop("files"))
    with pytest.raises(UserError, match="text.safetensors is damaged, or of another index"):
        StoredIndex(folder).weights()


@pytest.mark.parametrize("image", [-1, 10, 99])
def test_an_image_that_is_not_there_is_said(folder, image):
    with pytest.raises(UserError, match=f"There is no image {image}: the index holds 10, numbered from 0"):
        StoredIndex(folder).image(image)


def test_a_list_of_other_shards_is_refused(folder):
    changed_manifest(folder, lambda content: content["contents"].update(shards=[]))
    with pytest.raises(UserError, match="index.json is damaged: run the same maft index command again"):
        StoredIndex(folder)


def test_a_missing_shard_is_named(folder):
    (folder / "shards/00000.safetensors").unlink()
    with pytest.raises(UserError, match="Shard .*00000.safetensors is missing: run the same maft index command again"):
        use(folder)


@pytest.mark.parametrize("length", [0, 5, 3000, 400_000])
def test_a_truncated_shard_is_named(folder, length):
    file = folder / "shards/00000.safetensors"
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(UserError, match="Shard .*00000.safetensors is damaged .*: delete it and run the same"):
        use(folder)


def test_a_shard_of_another_index_is_named(folder, made, predictor, scenes, tmp_path):
    other = made(predictor, scenes[:4], tmp_path / "other")
    shutil.copy(other / "shards/00000.safetensors", folder / "shards/00000.safetensors")
    with pytest.raises(UserError, match="Shard .*00000.safetensors is of another index: delete it"):
        use(folder)


def test_a_changed_header_is_named(folder):
    rewritten(folder / "shards/00000.safetensors", lambda tensors, header: header["images"][0].update(file="x.png"))
    with pytest.raises(UserError, match="Shard .*00000.safetensors is not the one that the index was made with"):
        use(folder)


@pytest.mark.parametrize("part", ["embeddings", "areas", "runs", "run_ends", "queries", "proposed.valid"])
def test_a_changed_part_is_named(folder, part):
    def change(tensors, header):
        flat = tensors[part].view(-1)
        flat[3] = ~flat[3] if flat.dtype == torch.bool else flat[3] + 1

    rewritten(folder / "shards/00000.safetensors", change)
    with pytest.raises(UserError, match=rf"Shard .*00000.safetensors is damaged \(its {part}\): delete it and run"):
        use(folder)


@pytest.mark.parametrize("part", ["embeddings", "areas", "runs", "values"])
def test_a_part_that_is_gone_is_named(folder, part):
    rewritten(folder / "shards/00000.safetensors", lambda tensors, header: tensors.pop(part))
    with pytest.raises(UserError, match=rf"Shard .*00000.safetensors is damaged \(its {part}\)"):
        use(folder)


def test_changed_values_are_named(folder):
    rewritten(folder / "shards/00000.safetensors", lambda tensors, header: tensors["values"][100:200].zero_())
    with pytest.raises(UserError, match="in shard .*00000.safetensors is damaged: delete this shard and run the same"):
        use(folder)


def test_random_bytes_in_a_shard_never_end_in_a_traceback(folder):
    file = folder / "shards/00000.safetensors"
    whole, random = file.read_bytes(), np.random.default_rng(0)
    for _ in range(30):
        content = bytearray(whole)
        for place in random.integers(0, len(content), 20):
            content[place] = random.integers(256)
        # Half of the damage into what is read as text.
        for place in random.integers(0, 5000, 20):
            content[place] = random.integers(256)
        file.write_bytes(content)
        with pytest.raises(UserError, match="00000.safetensors"):
            use(folder)
