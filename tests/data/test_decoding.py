"""Picture files of strangers: what opens them, and how much of them."""

import io
import struct

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, TiffImagePlugin

from maft.data.decoding import FORMATS, is_one_of_several, opened
from maft.data.headers import check_headers
from maft.data.pixels import pixels_of
from maft.data.reading import inspect_mask, read_image, read_labels, read_panoptic_ids
from maft.errors import UserError

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\n%%EOF\n"


def test_no_file_starts_another_program(tmp_path, monkeypatch):
    """Pillow would have Ghostscript draw it, for as long as that takes."""
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_: pytest.fail("Ghostscript was started"))
    (file := tmp_path / "a.png").write_bytes(EPS)
    record = {"file_name": str(file)}
    for read in (
        lambda: read_image(file), lambda: read_labels(file), lambda: read_panoptic_ids(file),
        lambda: check_headers("some", [record]), lambda: pixels_of(file), lambda: pixels_of(EPS),
    ):  # fmt: skip
        with pytest.raises(UserError, match=r"cannot be read \(it is no picture of the formats JPEG, PNG, BMP, .*\): "):
            read()
    problem = inspect_mask(str(file), 3, 255, binary_is_meant=True).problem
    assert problem and "it is no picture of the formats" in problem.text


@pytest.mark.parametrize("kind", [*FORMATS, "MPO"])
def test_the_formats_of_photographs_and_label_maps_are_opened(kind):
    stream = io.BytesIO()
    try:
        Image.new("RGB", (8, 6)).save(stream, kind)
    except (OSError, KeyError):
        pytest.skip(f"this Pillow writes no {kind}")
    assert pixels_of(stream.getvalue()).shape == (6, 8, 3)


def test_an_older_pillow_is_not_asked_for_what_it_lacks(monkeypatch):
    Image.init()
    monkeypatch.setattr(Image, "OPEN", {key: value for key, value in Image.OPEN.items() if key != "AVIF"})
    with pytest.raises(Image.UnidentifiedImageError, match="GIF, JPEG2000$"):
        opened(io.BytesIO(EPS))


def test_of_very_many_pages_the_number_is_not_asked_for(monkeypatch):
    tags = [(256, 4, 1), (257, 4, 1), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1), (279, 4, 1)]
    entries = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", key, kind, 1, n) for key, kind, n in tags)
    starts = [16 + (len(entries) + 4) * page for page in range(3000)]
    pages = b"".join(entries + struct.pack("<I", following) for following in [*starts[1:], 0])
    content = b"II*\0" + struct.pack("<I", 16) + b"\x07" + bytes(7) + pages
    counted = property(lambda _: pytest.fail("pages were counted"))
    monkeypatch.setattr(TiffImagePlugin.TiffImageFile, "n_frames", counted)
    image = opened(io.BytesIO(content))
    assert is_one_of_several(image)
    np.testing.assert_array_equal(pixels_of(image), np.full((1, 1, 3), 7))
