import json

import numpy as np
import pytest
import torch
from PIL import Image

from maft.data.pairs import read_pairs
from maft.errors import UserError
from maft.mining.folder import MiningFolder, Pair, best_masks, statistics, write_region


def regions(count, size=4):
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8), torch.rand(count, size, size) < 0.5


def test_every_noun_takes_its_most_similar_mask():
    scores, best = best_masks(torch.tensor([[0.2, 0.9, 0.1], [0.3, 0.1, 0.2]]))
    assert best.tolist() == [1, 0, 1]
    assert scores.tolist() == pytest.approx([0.3, 0.9, 0.2])


def test_a_region_and_its_mask_survive_the_file(tmp_path):
    pixels, masks = regions(1)
    write_region(tmp_path / "r.png", pixels[0], masks[0])
    with Image.open(tmp_path / "r.png") as image:
        values = np.array(image)
    assert image.mode == "RGBA"
    # The colour of the background is kept where alpha is 0.
    assert np.array_equal(values[..., :3], pixels[0].permute(1, 2, 0).numpy())
    assert np.array_equal(values[..., 3], masks[0].numpy() * 255)


def test_the_table_does_not_depend_on_the_order_of_the_shards(tmp_path):
    tables = []
    for order in ((0, 1, 2), (2, 0, 1)):
        torch.manual_seed(3)
        folder = MiningFolder(tmp_path / str(order[0]))
        contents = [regions(3) for _ in range(3)]
        for position in order:
            chosen = [(0, "dog", 0.123456), (2, "bed", 0.5), (0, "puppy", 0.25)] if position != 1 else []
            folder.save(position, f"image{position}", *contents[position], chosen)
        folder.collect(["image0", "image1", "image2"])
        tables.append((folder.root / "pairs.tsv").read_text())
    assert tables[0] == tables[1]
    header, first, *_ = tables[0].splitlines()
    assert header.split("\t") == ["filepath", "title", "image", "score"]
    assert first.split("\t") == ["regions/000/image0_000.png", "dog", "image0", "0.1235"]
    assert [row["title"] for row in read_pairs(tmp_path / "0/pairs.tsv")] == ["dog", "bed", "puppy"] * 2


def test_only_regions_with_a_noun_are_written_and_shared(tmp_path):
    folder = MiningFolder(tmp_path)
    folder.save(1234, "x", *regions(5), [(3, "dog", 0.1), (3, "animal", 0.2)])
    assert [file.name for file in (tmp_path / "regions/001").iterdir()] == ["x_003.png"]
    assert folder.done(1234, "x") and not folder.done(1235, "y")


def test_other_settings_need_another_folder(tmp_path):
    folder = MiningFolder(tmp_path)
    folder.claim({"clip": ["ViT", "openai"], "size": (1, 2)})
    folder.claim({"clip": ["ViT", "openai"], "size": (1, 2)})
    with pytest.raises(UserError, match=r"mined with other settings \(clip: \['ViT', 'openai'\], now \['RN50'"):
        folder.claim({"clip": ["RN50", "openai"], "size": (1, 2)})


@pytest.mark.parametrize("content", ["[]", "", "[" * 10**5, None])
def test_results_of_unknown_settings_are_not_taken_over(tmp_path, content):
    folder = MiningFolder(tmp_path)
    folder.save(0, "x", *regions(1), [(0, "dog", 0.1)])
    if content is not None:
        (tmp_path / "settings.json").write_text(content)
    with pytest.raises(
        UserError, match=r"settings\.json cannot be read .* mined with is unknown: choose another folder"
    ):
        folder.claim({"size": 1})


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace("0.1", '"abc"'),
        lambda text: text.replace('"dog"', "[1]"),
        lambda text: text.replace('"dog"', '"\\ud800"'),
        lambda text: text.replace('"score"', '"more": 1, "score"'),
        lambda text: "[" * 10**5,
        lambda text: "",
    ],
)
def test_a_damaged_shard_is_named(tmp_path, damage):
    folder = MiningFolder(tmp_path)
    folder.save(0, "x", *regions(1), [(0, "dog", 0.1)])
    file = tmp_path / "shards/000/x.json"
    file.write_text(damage(file.read_text()))
    with pytest.raises(UserError, match=r"shards/000/x\.json cannot be read .*: remove it and mine again"):
        folder.collect(["x"])


def test_statistics():
    pairs = [Pair("a.png", "dog", "1", 0.1), Pair("a.png", "cat", "1", 0.2), Pair("b.png", "dog", "2", None)]
    assert statistics(pairs, 4) == {
        "images": 4, "pairs": 3, "unique_nouns": 2, "regions": 2, "pairs_per_image": 0.75, "images_without_pair": 2,
    }  # fmt: skip
    assert json.loads(json.dumps(statistics([], 0)))["pairs"] == 0
