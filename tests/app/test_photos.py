"""Pictures of visitors: limits before decoding, every kind that cameras and editors write, and what is none."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from maft.app.photos import (
    LEAST_SHOWN,
    MOST_SHOWN,
    Limits,
    as_shown,
    drawn_examples,
    encoded,
    folder_examples,
    read_photo,
    shown_size,
)
from maft.errors import UserError

LIMITS = Limits(megabytes=1, megapixels=1)


def picture(mode="RGB", size=(60, 40), **options):
    image = Image.new(mode, size, options.pop("colour", None) or 0)
    return encoded(image, options.pop("kind", "PNG"), **options)


def png_header(width, height):
    """A PNG that claims its size and has hardly a pixel of it."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "is empty"),
        (b"hello, this is a text", "is no picture, whatever its name says"),
        (png_header(20_000, 10_000), "far more than 1 megapixels"),
        (png_header(2_000, 1_000), "2000x1000 pixels, 2.0 megapixels, and this app takes 1"),
        (b"\xff" * (2**20 + 1), "more than 1 MB"),
        (encoded(Image.effect_noise((300, 300), 90), "JPEG")[:2000], "cannot be read"),
    ],
)
def test_what_cannot_be_taken_is_said_in_one_sentence(data, sentence):
    with pytest.raises(UserError, match=sentence):
        read_photo(data, LIMITS)


def test_limits_come_before_the_pixels(monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("decoded"))
    with pytest.raises(UserError, match="megapixels"):
        read_photo(png_header(2_000, 1_000), LIMITS)


def test_formats_whose_readers_start_other_programs_are_refused():
    with pytest.raises(UserError, match="is no picture"):
        read_photo(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n%%EOF\n", LIMITS)


def test_pictures_of_a_file_are_not_counted(monkeypatch):
    monkeypatch.setattr(TiffImageFile, "n_frames", property(lambda _: pytest.fail("counted")))
    pages = [Image.new("L", (3, 2), value) for value in (9, 200)]
    photo = read_photo(encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:]), LIMITS)
    assert photo.remark and photo.pixels().max() == 9


def test_cmyk_grey_and_sixteen_bits_are_taken():
    assert read_photo(picture("CMYK", kind="JPEG"), LIMITS).pixels().shape == (40, 60, 3)
    assert read_photo(picture("L"), LIMITS).pixels().shape == (40, 60, 3)
    deep = encoded(Image.fromarray(np.full((40, 60), 32768, np.uint16)), "PNG")
    assert np.abs(read_photo(deep, LIMITS).pixels().astype(int) - 128).max() <= 1


def test_rotated_photos_stand_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = read_photo(encoded(Image.new("RGB", (60, 40)), "JPEG", exif=exif), LIMITS)
    assert (photo.width, photo.height) == (40, 60)
    assert photo.pixels().shape == (60, 40, 3)
    with Image.open(io.BytesIO(photo.preview)) as shown:
        assert shown.size == shown_size(40, 60)


def test_of_an_animation_the_first_picture_is_used_and_that_is_said():
    frames = [Image.new("RGB", (30, 30), colour) for colour in ("red", "blue")]
    photo = read_photo(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), LIMITS)
    assert "more than one picture: the first is used" in photo.remark
    assert photo.pixels()[0, 0, 0] > 200 > photo.pixels()[0, 0, 2]


def test_shown_sizes_and_the_nearest_values():
    assert shown_size(4000, 2000) == (MOST_SHOWN, MOST_SHOWN // 2)
    assert shown_size(96, 48) == (96 * 7, 48 * 7) and LEAST_SHOWN <= 96 * 7
    assert shown_size(3000, 1) == (MOST_SHOWN, 1)
    values = np.arange(96 * 48).reshape(48, 96)
    np.testing.assert_array_equal(as_shown(values), values.repeat(7, 0).repeat(7, 1))
    large = np.arange(3200)[None].repeat(1600, 0)
    np.testing.assert_array_equal(as_shown(large), np.arange(0, 3200, 2)[None].repeat(800, 0))


def test_examples_are_drawn_or_come_from_a_folder(tmp_path):
    (caption, file), *_ = drawn_examples(2)
    assert caption and read_photo(file(), Limits()).pixels().shape == (96, 96, 3)
    (tmp_path / "b.png").write_bytes(picture())
    (tmp_path / "a.JPG").write_bytes(picture(kind="JPEG"))
    (tmp_path / "notes.txt").write_text("no picture")
    assert [name for name, _ in folder_examples(tmp_path)] == ["a.JPG", "b.png"]
    with pytest.raises(UserError, match="is no folder"):
        folder_examples(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no picture"):
        folder_examples(tmp_path / "empty")
