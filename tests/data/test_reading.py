"""Pictures of every depth."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from maft.data.reading import (
    files_by_stem,
    inside,
    inspect_mask,
    read_annotation,
    read_image,
    read_labels,
    read_panoptic_ids,
    reading,
    value_counts,
)
from maft.errors import UserError


@pytest.mark.parametrize("name", ["sixteen.png", "sixteen.tif", "float.tif"])
def test_pictures_of_more_than_eight_bit_are_scaled_not_clipped(tmp_path, name):
    grey = np.linspace(0, 255, 96 * 96).astype(np.uint8).reshape(96, 96)
    values = grey.astype(np.float32) / 255 if name == "float.tif" else grey.astype(np.uint16) * 257
    Image.fromarray(values).save(tmp_path / name)
    assert np.array_equal(read_image(tmp_path / name), np.repeat(grey[..., None], 3, axis=2))


def test_numbers_that_are_no_brightness_are_refused_by_name(tmp_path):
    Image.fromarray(np.full((4, 4), 2.5, np.float32)).save(tmp_path / "height.tif")
    with pytest.raises(UserError, match=r"height\.tif.*must hold 0 to 1"):
        read_image(tmp_path / "height.tif")


def test_a_jpeg_under_another_name_is_no_label_map(tmp_path):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "map.jpg")
    (tmp_path / "map.jpg").rename(tmp_path / "map.png")
    with pytest.raises(UserError, match="it is a JPEG, which alters values"):
        read_labels(tmp_path / "map.png")


@pytest.mark.parametrize(
    "name, options",
    [
        ("map.tif", {"format": "TIFF", "compression": "jpeg"}),
        ("map.png", {"format": "JPEG2000", "irreversible": True}),
        ("map.png", {"format": "WEBP"}),
    ],
)
def test_a_lossy_file_of_any_kind_is_no_label_map(tmp_path, name, options):
    values = np.random.default_rng(0).integers(0, 150, (64, 64), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / name, **options)
    with pytest.raises(UserError, match=rf"map {tmp_path / name} .*alters values.*replace it"):
        read_labels(tmp_path / name)
    problem = inspect_mask(str(tmp_path / name), 150, 255, binary_is_meant=True).problem
    assert problem and problem.kind == "unreadable label"


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_label_map_that_is_to_be_turned_is_refused(tmp_path, suffix):
    exif = Image.Exif()
    for orientation in (1, 6):
        exif[0x0112] = orientation
        Image.new("L", (4, 3)).save(tmp_path / f"{orientation}.{suffix}", exif=exif)
    assert read_labels(tmp_path / f"1.{suffix}").shape == (3, 4)
    with pytest.raises(UserError, match=rf"6\.{suffix}.* EXIF orientation 6.*save it upright without the tag"):
        read_labels(tmp_path / f"6.{suffix}")
    problem = inspect_mask(str(tmp_path / f"6.{suffix}"), 3, 255, binary_is_meant=True).problem
    assert problem and "EXIF orientation 6" in problem.text


@pytest.mark.parametrize("name", ["pages.tif", "animated.png"])
def test_one_of_several_pictures_is_not_taken_in_silence(tmp_path, name, caplog):
    frames = [Image.new("L", (4, 3), value) for value in (0, 9)]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    with pytest.raises(UserError, match=rf"{name}: it holds several pictures, .* save that one"):
        read_labels(tmp_path / name)
    for _ in range(2):
        assert not read_image(tmp_path / name).any()
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / name} holds several pictures: only the first is used."
    ]


def test_linked_folders_are_followed_and_circles_end(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "disk/city").mkdir(parents=True)
    (tmp_path / "disk/city/1.png").touch()
    (tmp_path / "a/city").symlink_to(tmp_path / "disk/city")
    (tmp_path / "disk/city/up").symlink_to(tmp_path / "a")
    assert list(files_by_stem(tmp_path / "a", ".png")) == ["city/1"]


def test_a_folder_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "city").mkdir()
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    assert files_by_stem(tmp_path / "gone", ".png") == {}
    with pytest.raises(UserError, match="Folder .*circle cannot be read"):
        files_by_stem(tmp_path / "circle", ".png")


def test_what_any_decoder_raises_is_one_sentence(tmp_path):
    (tmp_path / "a.avif").touch()
    said = pytest.raises(UserError, match=r"a\.avif cannot be read \(Failed to decode\): replace it")
    with said, reading(tmp_path / "a.avif", "Image", "replace it"):
        raise RuntimeError("Failed to decode")


def write_png(path, values, bits, colour_type, palette=b""):
    """A PNG of any depth, which Pillow does not write; values (h, w) or (h, w, channels)."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, colour_type, 0, 0, 0))]
    if palette:
        chunks.append((b"PLTE", palette))
    digits = [[f"{value:0{bits}b}" for value in row.ravel().tolist()] for row in values]
    lines = ["".join(row) for row in digits]
    packed = b"".join(
        b"\0" + int(row, 2).to_bytes(len(row) // 8) for row in (f"{x}{'0' * (-len(x) % 8)}" for x in lines)
    )
    chunks += [(b"IDAT", zlib.compress(packed)), (b"IEND", b"")]
    parts = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("with_palette", [False, True])
def test_label_maps_of_any_depth_hold_what_is_stored(tmp_path, bits, with_palette):
    values = np.arange(5 * 7).reshape(5, 7) % 2**bits
    palette = bytes((255 - k) % 256 for k in range(3 * 2**bits)) if with_palette else b""
    write_png(tmp_path / "map.png", values, bits, 3 if with_palette else 0, palette)
    assert (read_labels(tmp_path / "map.png") == values).all()
    content = inspect_mask(str(tmp_path / "map.png"), 2**bits, 255, binary_is_meant=False)
    assert content.problem is None and content.counts.keys() == set(range(min(2**bits, 35)))


def test_values_that_reading_would_change_are_refused(tmp_path):
    write_png(tmp_path / "deep.png", np.full((2, 2, 3), 259), 16, 2)
    with pytest.raises(UserError, match=r"deep\.png cannot be read .*no whole numbers of 8 bits"):
        read_panoptic_ids(tmp_path / "deep.png")
    Image.fromarray(np.full((2, 2), 1.7, np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(UserError, match=r"float\.tif cannot be read .*no whole numbers"):
        read_labels(tmp_path / "float.tif")
    Image.fromarray(np.full((2, 2), 3, np.uint8)).save(tmp_path / "white.tif", tiffinfo={262: 0})
    with pytest.raises(UserError, match=r"white\.tif cannot be read .*stored inverted"):
        read_labels(tmp_path / "white.tif")


@pytest.mark.parametrize("name", ["a.png", "a/b.png", "a/..b/c..png", "ü 1.png", "linked/there.png"])
def test_names_below_a_root_are_found_there(tmp_path, name):
    (tmp_path / "root").mkdir()
    (tmp_path / "root/linked").symlink_to(tmp_path)
    assert inside(tmp_path / "root", name, "list.json") == tmp_path / "root" / name


UPWARDS = ["..", "../a.png", "a/../../b.png", "..\\a.png"]
ABSOLUTE = ["/etc/passwd", "C:\\a.png", "c:a.png", "\\\\host\\a\\b.png", "\\a.png"]
NO_NAMES = ["", ".", "a\0.png", "x" * 300, "\ud800.png", None, 7, ["a.png"]]


@pytest.mark.parametrize("name", [*UPWARDS, *ABSOLUTE, *NO_NAMES])
def test_names_that_leave_a_root_are_refused(tmp_path, name):
    with pytest.raises(UserError, match=r"^list\.json names the file .*, which does not lie below .*root: correct"):
        inside(tmp_path / "root", name, "list.json")


def test_annotations_that_cannot_be_read_are_named(tmp_path):
    file = tmp_path / "a.json"
    for content in (b"{", b"\xff", b"[" * 100_000, b"[]", b"{}"):
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"a\.json"):
            read_annotation(file, "images")
    with pytest.raises(UserError, match=r"a\.json cannot be read"):
        file.unlink()
        read_annotation(file)


@pytest.mark.parametrize("values", [[3, 0, 3, 255], [65535, 1], [-2, 7, 7], [70000, 2], []])
def test_numbers_are_counted_as_numpy_finds_them(values):
    array = np.array(values, dtype=np.int32).reshape(1, -1)
    for found, expected in zip(value_counts(array), np.unique(array, return_counts=True), strict=True):
        assert np.array_equal(found, expected)
