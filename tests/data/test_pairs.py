import struct
import zlib

import numpy as np
import pytest
import torch
from golden.runner import run_case
from PIL import Image

from maft.data.pairs import OFFICIAL_BACKGROUND, RegionPairMapper, read_pairs
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
        mapped = RegionPairMapper(24, template="a photo of a {}.")(record)
        assert mapped["region"].shape == (3, 24, 24) and mapped["region"].dtype == torch.uint8
        assert mapped["mask"].shape == (1, 24, 24) and mapped["mask"].dtype == torch.bool
        assert mapped["text"] == "a photo of a fire hydrant."
        red = mapped["region"][0].int() - mapped["region"][1].int() > 60
        # The kernel blurs the edge by a pixel or two; a mask cropped by another box would differ by columns.
        assert (red != mapped["mask"][0]).float().mean() < 2.5 / 24
        assert 0.3 < mapped["mask"].float().mean() < 0.7


def test_the_background_keeps_its_colour(table):
    mapped = RegionPairMapper(24)(read_pairs(table)[0])
    assert mapped["region"][:, :, 0].eq(120).all()


def disc(height, width):
    """A bright disc on the official background, with its mask."""
    rows, columns = np.mgrid[:height, :width]
    inside = (rows - height / 2) ** 2 + (columns - width / 2) ** 2 < (0.3 * height) ** 2
    pixels = np.where(inside[..., None], [250, 200, 10], OFFICIAL_BACKGROUND).astype(np.uint8)
    return Image.fromarray(pixels), Image.fromarray(inside.astype(np.uint8) * 255)


def test_random_crops_keep_at_least_nine_tenths_of_the_area(tmp_path):
    region, mask = disc(100, 100)
    region.putalpha(mask)
    region.save(tmp_path / "disc.png")
    mapper, record = RegionPairMapper(100), {"file_name": str(tmp_path / "disc.png"), "title": "disc"}
    full = mapper.crop(*disc(100, 100), (0, 0, 100, 100))[1].float().mean()
    areas = torch.stack([mapper(record)["mask"].float().mean() for _ in range(20)])
    assert (areas / full).min() > 0.98 and (areas / full).max() < 1 / 0.9 + 0.03 and areas.unique().numel() > 3


def test_the_colour_rule_finds_the_region_that_the_mask_shows():
    region, mask = disc(60, 80)
    found, shown = (RegionPairMapper(48).crop(region, given, (0, 10, 60, 60))[1].float() for given in (None, mask))
    # Bicubic ringing makes pixels next to the region count as region.
    assert (found >= shown).float().mean() > 0.99 and (found == shown).float().mean() > 0.9


def test_crops_agree_with_the_recording(golden_dir):
    result = run_case(golden_dir / "ovseg" / "clip_mask_transform.json")
    assert result.status == "pass", result.detail


def test_the_official_rule_finds_the_mask_by_colour(tmp_path):
    region = np.full((SIZE, SIZE, 3), (124, 116, 103), np.uint8)
    region[:, SIZE // 2 :] = 200
    Image.fromarray(region).save(tmp_path / "official.jpg.png")
    record = {"file_name": str(tmp_path / "official.jpg.png"), "title": "dog"}
    mapped = RegionPairMapper(24, mask_source="colour")(record)
    assert not mapped["mask"][0, :, :8].any() and mapped["mask"][0, :, 16:].all()
    with pytest.raises(
        UserError, match=r"^Region \S+: it has no alpha channel and so no mask: .* set INPUT.REGIONS.MASK colour"
    ):
        RegionPairMapper(24)(record)


def test_official_tables_are_read(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "official.csv").write_text(f"filepath\ttitle\n{tmp_path / 'a.png'}\ta dog\n")
    assert read_pairs(tmp_path / "official.csv") == [{"file_name": str(tmp_path / "a.png"), "title": "a dog"}]


def test_quotes_have_no_meaning(table):
    lines = [f'regions/0.png\t"big" dog {number}\t0\t0.5\n' for number in range(58)]
    lines[3] = 'regions/0.png\t"a stray quote\t0\t0.5\n'
    table.write_text("filepath\ttitle\timage\tscore\n" + "".join(lines))
    titles = [record["title"] for record in read_pairs(table)]
    assert len(titles) == 58 and titles[3] == '"a stray quote' and titles[4] == '"big" dog 4'


def test_missing_regions_are_counted_and_named(table):
    (table.parent / "regions/0.png").unlink()
    with pytest.raises(UserError, match=r"1 regions that table .* names are missing, the first is .*regions/0.png"):
        read_pairs(table)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("filepath,title\n", "needs one filepath and one title"),
        ("filepath\ttitle\n", "holds no pair"),
        ("", "has columns none"),
        (None, "cannot be read"),
        ("filepath\ttitle\na.png\tdog\na.p", r"Line 3 of table .*t\.tsv holds \['a\.p'\] where filepath, title"),
        ("filepath\ttitle\na.png\t \n", "Line 2 of table .* where filepath, title should stand"),
        ("filepath\ttitle\na.png\tdog\tcat\n", "Line 2 of table"),
        ("filepath\ttitle\na.png\t\u200b\n", "Line 2 of table .* where filepath, title should stand"),
        ("filepath\ttitle\na.png\t,\n", "Line 2 of table .* where filepath, title should stand"),
        ("filepath\ttitle\ttitle\na.png\tdog\tcat\n", "columns filepath, title, title and needs one filepath and one"),
        ("filepath\ttitle\n../a.png\tdog\n", r"t\.tsv names the file '\.\./a\.png', which does not lie below"),
        ("filepath\ttitle\n/etc/passwd\tdog\n", "names the file '/etc/passwd', which does not lie below"),
    ],
)
def test_unusable_tables(tmp_path, content, complaint):
    if content is not None:
        (tmp_path / "t.tsv").write_text(content)
    with pytest.raises(UserError, match=complaint):
        read_pairs(tmp_path / "t.tsv")


@pytest.mark.parametrize("path", ["a\0b.tsv", "~nosuch/x.tsv"])
def test_paths_that_no_table_can_have(path):
    with pytest.raises(UserError, match="cannot be read"):
        read_pairs(path)


def test_a_broken_region_is_named(table):
    record = read_pairs(table)[0]
    with open(record["file_name"], "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\nbroken")
    with pytest.raises(UserError, match="0.png cannot be read"):
        RegionPairMapper(24)(record)


def test_a_region_without_a_pixel_is_refused(tmp_path):
    Image.fromarray(np.zeros((8, 8, 4), np.uint8)).save(tmp_path / "r.png")
    with pytest.raises(UserError, match=r"Region .*r\.png is transparent everywhere"):
        RegionPairMapper(24)({"file_name": str(tmp_path / "r.png"), "title": "dog"})


def test_an_alpha_channel_of_16_bits_is_refused(tmp_path):
    rows = np.full((8, 8 * 4), 255, ">u2")
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    parts = ((b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, 6, 0, 0, 0)), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(part)) + kind + part + struct.pack(">I", zlib.crc32(kind + part)) for kind, part in parts
    )
    (tmp_path / "r.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    with pytest.raises(UserError, match=r"r\.png cannot be read .*no whole numbers of 8 bits"):
        RegionPairMapper(24)({"file_name": str(tmp_path / "r.png"), "title": "dog"})


@pytest.mark.parametrize("options", [{"template": "a photo"}, {"template": "{} and {}"}])
def test_wrong_options(options):
    with pytest.raises(UserError, match="INPUT.REGIONS"):
        RegionPairMapper(24, **options)


def test_a_grey_region_with_alpha_has_its_mask_too(tmp_path):
    grey = np.full((SIZE, SIZE, 2), 200, np.uint8)
    grey[:, : SIZE // 2, 1] = 0
    Image.fromarray(grey, "LA").save(tmp_path / "grey.png")
    mapped = RegionPairMapper(24)({"file_name": str(tmp_path / "grey.png"), "title": "dog"})
    assert mapped["region"].shape == (3, 24, 24) and mapped["mask"].any() and not mapped["mask"].all()
