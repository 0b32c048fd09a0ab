"""What scenes are drawn with, in integer arithmetic without trigonometry: random draws, objects, stuff textures."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from maft.miniature.classes import miniature_classes

Coordinates = NDArray[np.int64]
Mask = NDArray[np.bool_]
Canvas = NDArray[np.int32]

IMAGE_SIZE = 96
UNIT = 1000  # The nominal radius of an object in its own coordinates.
# cosines of 0, 6, ... 84 degrees in 1/4096: a table, because libm's last digit differs between machines
_COSINES = (4096, 4074, 4006, 3896, 3742, 3547, 3314, 3044, 2741, 2408, 2048, 1666, 1266, 852, 428)
COLOURS = miniature_classes().colours


class Draws:
    """A stream of random integers that are the same on every machine, Python and NumPy version.

    Built on the raw output of PCG64, which NumPy promises never to change; the methods of ``numpy.random.Generator``
    carry no such promise. The bias of the modulo is at most 256 in 65536.

    Args:
        key: non-negative integers that name the stream.
    """

    def __init__(self, *key: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(list(key)))

    def integer(self, low: int, high: int) -> int:
        """One integer in ``[low, high]``."""
        return low + int(self._bits.random_raw()) % (high - low + 1)

    def array(self, low: int, high: int, shape: tuple[int, ...]) -> NDArray[np.int32]:
        """Integers in ``[low, high]``; the range may hold at most 256 values."""
        count = int(np.prod(shape))
        words = self._bits.random_raw(-(-count // 4)).astype("<u8").view("<u2")[:count]
        return (words % np.uint16(high - low + 1)).astype(np.int32).reshape(shape) + low

    def choose(self, population: int, count: int) -> list[int]:
        """``count`` distinct integers below ``population``, in random order."""
        left = list(range(population))
        return [left.pop(self.integer(0, len(left) - 1)) for _ in range(count)]


def rotation(step: int) -> tuple[int, int]:
    """Cosine and sine, in 1/4096, of ``6 * step`` degrees for step in 0..59."""
    turn, part = divmod(step, 15)
    cosine, sine = _COSINES[part], (0 if part == 0 else _COSINES[15 - part])
    for _ in range(turn):
        cosine, sine = -sine, cosine
    return cosine, sine


def _half_planes(u: Coordinates, v: Coordinates, steps: tuple[int, ...], distance: int) -> Coordinates:
    """How many of the half-planes with the given normal directions hold each point."""
    count = np.zeros(u.shape, dtype=np.int64)
    for step in steps:
        cosine, sine = rotation(step)
        count += cosine * u + sine * v <= distance * 4096
    return count


# Where a shape is, from its own coordinates.
OUTLINES: dict[str, Callable[[Coordinates, Coordinates], Mask]] = {
    "circle": lambda u, v: u * u + v * v <= 940**2,
    "square": lambda u, v: np.maximum(abs(u), abs(v)) <= 820,
    "triangle": lambda u, v: _half_planes(u, v, (0, 20, 40), 580) == 3,
    # A pentagram is where at least four of the half-planes of its five lines meet.
    "star": lambda u, v: _half_planes(u, v, (0, 12, 24, 36, 48), 370) >= 4,
    "ring": lambda u, v: (u * u + v * v <= 1000**2) & (u * u + v * v >= 480**2),
    "cross": lambda u, v: (np.minimum(abs(u), abs(v)) <= 320) & (np.maximum(abs(u), abs(v)) <= 1000),
}


def local_coordinates(row: int, column: int, radius: int, step: int) -> tuple[Coordinates, Coordinates]:
    """Coordinates of every pixel of an image in a rotated object's own frame, two (96, 96) arrays.

    Args:
        row, column: centre of the object in pixels.
        radius: nominal radius in pixels; it becomes ``UNIT``.
        step: orientation in steps of 6 degrees.
    """
    cosine, sine = rotation(step)
    down = (np.arange(IMAGE_SIZE, dtype=np.int64) - row)[:, None]
    right = (np.arange(IMAGE_SIZE, dtype=np.int64) - column)[None, :]
    scale = 4096 * radius
    return (cosine * right + sine * down) * UNIT // scale, (cosine * down - sine * right) * UNIT // scale


def surface(colour: str, pattern: str, u: Coordinates, draws: Draws) -> NDArray[np.int32]:
    """(96, 96, 3) RGB of an object's surface: one slightly varied colour, with pale stripes along one axis."""
    base = np.asarray(COLOURS[colour], dtype=np.int32) + draws.array(-14, 14, (3,))
    if pattern == "solid":
        return np.broadcast_to(base, (*u.shape, 3))
    pale = (base + 3 * 245) // 4
    return np.where((u // 220 % 2 == 0)[:, :, None], base, pale)


def _shade(colour: tuple[int, int, int], lightness: Canvas) -> Canvas:
    return np.asarray(colour, dtype=np.int32) + lightness[:, :, None]


def _cells(draws: Draws, height: int, width: int, low: int, high: int) -> Canvas:
    """Random values constant over cells of height x width pixels."""
    grid = draws.array(low, high, (-(-IMAGE_SIZE // height), -(-IMAGE_SIZE // width)))
    return grid.repeat(height, axis=0).repeat(width, axis=1)[:IMAGE_SIZE, :IMAGE_SIZE]


def _ramp(position: Canvas, period: int) -> Canvas:
    """Triangle wave of a given period, from 0 up to period // 2."""
    phase = position % period
    return np.minimum(phase, period - phase)


def _water(draws: Draws) -> Canvas:
    rows, columns = np.indices((IMAGE_SIZE, IMAGE_SIZE), dtype=np.int32)
    period = draws.integer(7, 11)
    swell = _ramp(columns + draws.integer(0, 255), 24) // 4
    crests = _ramp(rows + swell + draws.integer(0, 255), period)
    return _shade((54, 104, 150), crests * 60 // (period // 2) - 26)


def _brick(draws: Draws) -> Canvas:
    rows, columns = np.indices((IMAGE_SIZE, IMAGE_SIZE), dtype=np.int32)
    rows, columns = rows + draws.integer(0, 255), columns + draws.integer(0, 255)
    courses = rows // 8
    shifted = columns + courses % 2 * 8
    mortar = (rows % 8 < 2) | (shifted % 16 < 2)
    tones = draws.array(-14, 14, (64,))[(courses * 7 + shifted // 16 * 3) % 64]
    return np.where(mortar[:, :, None], np.asarray((190, 178, 166), dtype=np.int32), _shade((150, 72, 54), tones))


def _cloud(draws: Draws) -> Canvas:
    knots = draws.array(-34, 26, (8, 8))
    low, part = np.divmod(np.arange(IMAGE_SIZE), 16)
    along = knots[low] * (16 - part)[:, None] + knots[low + 1] * part[:, None]
    puffs = (along[:, low] * (16 - part) + along[:, low + 1] * part) // 256
    return _shade((206, 218, 232), puffs.astype(np.int32))


def _gravel(draws: Draws) -> Canvas:
    stones = _cells(draws, 5, 5, -48, 40)
    rows, columns = np.indices((IMAGE_SIZE, IMAGE_SIZE), dtype=np.int32)
    # Corners darker than centres make the cells read as pebbles, not as a mosaic.
    edge = abs(rows % 5 * 2 - 4) + abs(columns % 5 * 2 - 4)
    return _shade((128, 124, 120), stones - np.maximum(edge - 5, 0) * 12)


# (96, 96, 3) RGB of each stuff class; values may leave 0..255 a little.
TEXTURES: dict[str, Callable[[Draws], Canvas]] = {
    "grass": lambda draws: _shade((84, 140, 58), _cells(draws, 6, 1, -34, 34)),
    "sand": lambda draws: _shade((214, 190, 140), _cells(draws, 1, 1, -16, 16)),
    "water": _water,
    "brick": _brick,
    "cloud": _cloud,
    "gravel": _gravel,
}
