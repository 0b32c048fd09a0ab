"""Images in every form, and what is said of other things."""

import io
import os

import numpy as np
import pytest
import torch
from PIL import Image

from maft.data import pixels
from maft.data.pixels import pictures_in, pixels_of
from maft.errors import UserError

COLOURS = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def encoded() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(COLOURS).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.filterwarnings("ignore:the matrix")
def test_every_form_gives_the_same(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded())
    colours = torch.from_numpy(COLOURS).permute(2, 0, 1)
    opaque = np.dstack([COLOURS, np.arange(48, dtype=np.uint8).reshape(6, 8)])
    for image in (
        COLOURS, COLOURS.astype(np.uint16) * 257, COLOURS / 255, COLOURS.astype(np.float32) / 255, opaque,
        colours, colours / 255, (colours / 255).double(), colours.to(torch.uint16) * 257,
        torch.from_numpy(opaque).permute(2, 0, 1), Image.fromarray(COLOURS), Image.fromarray(opaque),
        tmp_path / "a.png", str(tmp_path / "a.png"), encoded(), bytearray(encoded()),
    ):  # fmt: skip
        np.testing.assert_array_equal(pixels_of(image), COLOURS)
    grey = COLOURS[..., 0]
    for image in (
        grey, grey[..., None], np.matrix(grey), grey / 255, Image.fromarray(grey), torch.from_numpy(grey.copy()),
        torch.from_numpy(grey.copy())[None],
    ):  # fmt: skip
        np.testing.assert_array_equal(pixels_of(image), np.dstack([grey] * 3))


def test_what_half_precision_keeps_of_a_picture_is_read():
    for dtype in (torch.float16, torch.bfloat16):
        found = pixels_of((torch.from_numpy(COLOURS).permute(2, 0, 1) / 255).to(dtype))
        assert np.abs(found.astype(int) - COLOURS).max() <= 1


def test_an_address_is_fetched(monkeypatch):
    monkeypatch.setattr(pixels, "fetched", {"https://example.org/a": encoded(), "https://example.org/b": b"text"}.get)
    np.testing.assert_array_equal(pixels_of("https://example.org/a"), COLOURS)
    with pytest.raises(
        UserError, match=r"example.org/b cannot be read \(it is no picture of the formats JPEG, PNG, .*\): g"
    ):
        pixels_of("https://example.org/b")


def test_pixels_are_no_longer_the_callers():
    """A video's next frame may be written where the last one was."""
    frame = COLOURS.copy()
    found = [pixels_of(frame), pixels_of(torch.from_numpy(frame).permute(2, 0, 1))]
    frame[:] = 0
    assert all(np.array_equal(pixels, COLOURS) for pixels in found)


@pytest.mark.filterwarnings("ignore:.*(nested tensors|quantize)")
@pytest.mark.parametrize("make", [
    lambda: torch.nested.nested_tensor([torch.zeros(3, 4)]),
    lambda: torch.nested.nested_tensor([torch.zeros(3, 4)], layout=torch.jagged),
    lambda: torch.quantize_per_tensor(torch.zeros(3, 4, 4), 0.1, 0, torch.quint8),
    lambda: torch.zeros(4, 4).to_sparse_csr(), lambda: torch.zeros(3, 4, 4, device="meta"),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_tensors_without_an_array_inside_are_refused(make):
    with pytest.raises(UserError, match="must be dense and of real numbers"):
        pixels_of(make())


def test_a_tensor_that_is_kept_negated_is_read():
    negated = torch.view_as_complex(torch.stack([torch.zeros(6, 8), -torch.ones(6, 8)], -1)).conj().imag
    assert negated.is_neg() and (pixels_of(negated) == 255).all()


def test_an_animation_is_read_where_it_stands(caplog):
    stream = io.BytesIO()
    frames = [Image.new("L", (4, 3), value) for value in (0, 80, 160)]
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    image = Image.open(stream)
    for frame in (1, 2):
        image.seek(frame)
        assert (pixels_of(image) == 80 * frame).all() and image.tell() == frame
    assert not caplog.text
    image.seek(0)
    assert not pixels_of(image).any() and not pixels_of(stream.getvalue()).any()


@pytest.mark.parametrize("image", [None, 3, [[1]], {}, io.BytesIO(), np.ma.array([1])])
def test_other_things_are_no_images(image):
    with pytest.raises(UserError, match="An image is a path, .* or a tensor, not <class"):
        pixels_of(image)


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (np.zeros((4, 4, 2), np.uint8), r"\(height, width, 1, 3 or 4\), not \(4, 4, 2\)"),
        (np.zeros((2, 4, 4, 3), np.uint8), "give several images as a list"),
        (np.zeros(3, np.uint8), r"not \(3,\)"),
        (np.zeros((4, 4, 3), np.int64), r"not int64: convert it, as with astype\('uint8'\)"),
        (np.zeros((4, 4, 3), bool), "not bool: convert it"),
        (COLOURS.astype(np.float64), "holds 0 to 1, and this one [0-9]+ to 2[0-9]+"),
        (np.full((4, 4), -0.1), "and this one -0.1 to -0.1"),
        (np.full((4, 4), np.nan), "and this one what is not a number"),
        (torch.zeros(6, 5, 3), r"channels first, .*\(6, 5, 3\) \(permute\(2, 0, 1\) puts them there\)"),
        (torch.zeros(1, 3, 4, 4), "give several images as a list"),
        (torch.zeros(3, 4, 4).to_sparse(), "must be dense"),
        (torch.full((3, 4, 4), 255.0), "holds 0 to 1, and this one 255 to 255"),
        (b"GIF89a", "The picture of 6 bytes cannot be read"),
        (b"", "it is no picture"),
    ],
)
def test_arrays_tensors_and_bytes_of_another_kind(image, sentence):
    with pytest.raises(UserError, match=sentence):
        pixels_of(image)


def test_larger_pictures_than_the_memory_holds_are_refused_unread(tmp_path):
    # 200 million pixels, 300 million, and 70 million of three kinds.
    for size in ((20_000, 10_000), (20_000, 15_000)):
        Image.new("1", size).save(tmp_path / "large.png")
        with pytest.raises(UserError, match="million pixels, .* make it smaller") as caught:
            pixels_of(tmp_path / "large.png")
        assert str(tmp_path / "large.png") in str(caught.value)
    (stream := io.BytesIO(), Image.new("1", (10_000, 7_000)).save(stream, "PNG"))
    for image in (stream.getvalue(), np.broadcast_to(np.uint8(0), (7_000, 10_000)), Image.new("1", (10_000, 7_000))):
        with pytest.raises(UserError, match="10000x7000 = 70 million pixels, and 64 million are the most"):
            pixels_of(image)


def test_the_pictures_of_a_folder(tmp_path):
    for name in ("b.JPG", "a.png", ".hidden.png", "notes.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in pictures_in(tmp_path)] == ["a.png", "b.JPG"]
    with pytest.raises(UserError, match="cannot be read"):
        pictures_in(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no picture"):
        pictures_in(tmp_path / "empty")


@pytest.mark.parametrize("image", [np.zeros((0, 4, 3), np.uint8), Image.new("RGB", (0, 0)), Image.new("L", (0, 3))])
def test_an_image_needs_pixels(image):
    with pytest.raises(UserError, match="needs pixels"):
        pixels_of(image)


def test_pillow_images_that_are_damaged_or_closed():
    with pytest.raises(UserError, match=r"of mode RGB cannot be read as RGB \(.*truncated"):
        pixels_of(Image.open(io.BytesIO(encoded()[:100])))
    image = Image.open(io.BytesIO(encoded()))
    image.close()
    with pytest.raises(UserError, match=r"cannot be read as RGB \("):
        pixels_of(image)


def test_folders_and_devices_are_no_pictures(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo"):
        with pytest.raises(UserError, match="is a folder or device: give the path of a picture"):
            pixels_of(path)
    for path in ("a\0b", "x" * 5000, tmp_path / "none.png"):
        with pytest.raises(UserError, match="does not exist"):
            pixels_of(path)
