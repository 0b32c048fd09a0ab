"""Outlines and surface of the things, in integer arithmetic (no trigonometry at run time)."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from maft.miniature.draws import Draws

Coordinates = NDArray[np.int64]
Mask = NDArray[np.bool_]

UNIT = 1000  # The nominal radius of an object in its own coordinates.
# cosines of 0, 6, ... 84 degrees in 1/4096: a table, because libm's last digit differs between machines
_COSINES = (4096, 4074, 4006, 3896, 3742, 3547, 3314, 3044, 2741, 2408, 2048, 1666, 1266, 852, 428)
COLOURS = {
    "red": (212, 36, 40),
    "orange": (244, 132, 22),
    "yellow": (246, 220, 40),
    "green": (24, 176, 60),
    "cyan": (40, 208, 220),
    "blue": (36, 62, 214),
    "purple": (132, 44, 170),
    "pink": (250, 130, 186),
    "black": (26, 24, 30),
}


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


def _circle(u: Coordinates, v: Coordinates) -> Mask:
    return u * u + v * v <= 940**2


def _square(u: Coordinates, v: Coordinates) -> Mask:
    return np.maximum(abs(u), abs(v)) <= 820


def _triangle(u: Coordinates, v: Coordinates) -> Mask:
    return _half_planes(u, v, (0, 20, 40), 580) == 3


def _star(u: Coordinates, v: Coordinates) -> Mask:
    # A pentagram is where at least four of the half-planes of its five lines meet.
    return _half_planes(u, v, (0, 12, 24, 36, 48), 370) >= 4


def _ring(u: Coordinates, v: Coordinates) -> Mask:
    distance = u * u + v * v
    return (distance <= 1000**2) & (distance >= 480**2)


def _cross(u: Coordinates, v: Coordinates) -> Mask:
    return (np.minimum(abs(u), abs(v)) <= 320) & (np.maximum(abs(u), abs(v)) <= 1000)


_OUTLINES: dict[str, Callable[[Coordinates, Coordinates], Mask]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "ring": _ring,
    "cross": _cross,
}


def local_coordinates(size: int, row: int, column: int, radius: int, step: int) -> tuple[Coordinates, Coordinates]:
    """Coordinates of every pixel of a (size, size) image in a rotated object's own frame.

    Args:
        row, column: centre of the object in pixels.
        radius: nominal radius in pixels; it becomes ``UNIT``.
        step: orientation in steps of 6 degrees.
    """
    cosine, sine = rotation(step)
    down = (np.arange(size, dtype=np.int64) - row)[:, None]
    right = (np.arange(size, dtype=np.int64) - column)[None, :]
    scale = 4096 * radius
    return (cosine * right + sine * down) * UNIT // scale, (cosine * down - sine * right) * UNIT // scale


def outline(shape: str, u: Coordinates, v: Coordinates) -> Mask:
    """Where a shape is, in its own coordinates."""
    return _OUTLINES[shape](u, v)


def surface(colour: str, pattern: str, u: Coordinates, draws: Draws) -> NDArray[np.int32]:
    """(size, size, 3) RGB of an object's surface: one slightly varied colour, with pale stripes along one axis."""
    base = np.asarray(COLOURS[colour], dtype=np.int32) + draws.array(-14, 14, (3,))
    if pattern == "solid":
        return np.broadcast_to(base, (*u.shape, 3))
    pale = (base + 3 * 245) // 4
    return np.where((u // 220 % 2 == 0)[:, :, None], base, pale)
