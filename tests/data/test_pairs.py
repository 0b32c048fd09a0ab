import numpy as np
import pytest
import torch
from PIL import Image

from maft.data.pairs import RegionPairMapper, read_pairs
from maft.errors import UserError
from maft.mining.folder import Pair, write_region, write_table

SIZE = 32


@pytest.fixture
def table(tmp_path):
    """One region: left half the background's grey, right half a red gradient."""
    region = torch.full((3, SIZE, SIZE), 120, dtype=torch.uint8)
    region[0, :, SIZE // 2 :] = torch.arange(SIZE, dtype=torch.uint8)[:, None] + 220
    mask = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    mask[:, SIZE // 2 :] = True
    write_region(tmp_path / "regions/0.png", region, mask)
    write_table(tmp_path / "pairs.tsv", [Pair("regions/0.png", "fire hydrant", "0", 0.5)])
    return tmp_path / "pairs.tsv"


def test_region_and_mask_are_cropped_alike(table):
    record = read_pairs(table)[0]
    for seed in range(5):
        torch.manual_seed(seed)
        sample = RegionPairMapper(24, template="a photo of a {}.")(record)
        assert sample["region"].shape == (3, 24, 24) and sample["region"].dtype == torch.uint8
        assert sample["mask"].shape == (1, 24, 24) and sample["mask"].dtype == torch.bool
        assert sample["text"] == "a photo of a fire hydrant."
        red = sample["region"][0].int() - sample["region"][1].int() > 60
        # The kernel blurs the edge by a pixel or two; a mask cropped by another box would differ by columns.
        assert (red != sample["mask"][0]).float().mean() < 2.5 / 24
        assert 0.3 < sample["mask"].float().mean() < 0.7


def test_the_background_keeps_its_colour(table):
    sample = RegionPairMapper(24)(read_pairs(table)[0])
    assert sample["region"][:, :, 0].eq(120).all()


def test_the_official_rule_finds_the_mask_by_colour(tmp_path):
    region = np.full((SIZE, SIZE, 3), (124, 116, 103), np.uint8)
    region[:, SIZE // 2 :] = 200
    Image.fromarray(region).save(tmp_path / "official.jpg.png")
    record = {"file_name": str(tmp_path / "official.jpg.png"), "title": "dog"}
    sample = RegionPairMapper(24, mask_source="colour")(record)
    assert not sample["mask"][0, :, :8].any() and sample["mask"][0, :, 16:].all()
    with pytest.raises(UserError, match="has no alpha channel and so no mask: .* set INPUT.REGIONS.MASK colour"):
        RegionPairMapper(24)(record)


def test_official_tables_are_read(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "official.csv").write_text(f"filepath\ttitle\n{tmp_path / 'a.png'}\ta dog\n")
    assert read_pairs(tmp_path / "official.csv") == [{"file_name": str(tmp_path / "a.png"), "title": "a dog"}]


def test_missing_regions_are_counted_and_named(table):
    (table.parent / "regions/0.png").unlink()
    with pytest.raises(UserError, match=r"1 regions that table .* names are missing, the first is .*regions/0.png"):
        read_pairs(table)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("filepath,title\n", "needs filepath and title"),
        ("filepath\ttitle\n", "holds no pair"),
        (None, "cannot be read"),
    ],
)
def test_unusable_tables(tmp_path, content, complaint):
    if content is not None:
        (tmp_path / "t.tsv").write_text(content)
    with pytest.raises(UserError, match=complaint):
        read_pairs(tmp_path / "t.tsv")


def test_a_broken_region_is_named(table):
    record = read_pairs(table)[0]
    with open(record["file_name"], "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\nbroken")
    with pytest.raises(UserError, match="0.png cannot be read"):
        RegionPairMapper(24)(record)


@pytest.mark.parametrize("options", [{"mask_source": "guess"}, {"template": "a photo"}])
def test_wrong_options(options):
    with pytest.raises(UserError, match="INPUT.REGIONS"):
        RegionPairMapper(24, **options)
