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
        folder = MiningFolder(tmp_path / str(order[0]), {"a": 1})
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
    folder = MiningFolder(tmp_path, {})
    folder.save(1234, "x", *regions(5), [(3, "dog", 0.1), (3, "animal", 0.2)])
    assert [file.name for file in (tmp_path / "regions/001").iterdir()] == ["x_003.png"]
    assert folder.done(1234, "x") and not folder.done(1235, "y")


def test_other_settings_need_another_folder(tmp_path):
    MiningFolder(tmp_path, {"clip": ["ViT", "openai"], "size": (1, 2)}).claim()
    MiningFolder(tmp_path, {"clip": ["ViT", "openai"], "size": (1, 2)}).claim()
    with pytest.raises(UserError, match=r'mined with other settings \(clip: \["ViT", "openai"\], now \["RN50"'):
        MiningFolder(tmp_path, {"clip": ["RN50", "openai"], "size": (1, 2)}).claim()


def test_statistics():
    pairs = [Pair("a.png", "dog", "1", 0.1), Pair("a.png", "cat", "1", 0.2), Pair("b.png", "dog", "2", None)]
    assert statistics(pairs, 4) == {
        "images": 4, "pairs": 3, "unique_nouns": 2, "regions": 2, "pairs_per_image": 0.75, "images_without_pair": 2,
    }  # fmt: skip
    assert json.loads(json.dumps(statistics([], 0)))["pairs"] == 0
