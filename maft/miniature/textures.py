"""The six stuff textures, in integer arithmetic. All sizes are given for a 96-pixel image and scale with it."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from maft.miniature.draws import Draws

Canvas = NDArray[np.int32]


def _shade(colour: tuple[int, int, int], lightness: Canvas) -> Canvas:
    return np.asarray(colour, dtype=np.int32) + lightness[:, :, None]


def _cells(draws: Draws, size: int, height: int, width: int, low: int, high: int) -> Canvas:
    """Random values constant over cells of height x width pixels."""
    grid = draws.array(low, high, (-(-size // height), -(-size // width)))
    return grid.repeat(height, axis=0).repeat(width, axis=1)[:size, :size]


def _ramp(position: Canvas, period: int) -> Canvas:
    """Triangle wave of a given period, from 0 up to period // 2."""
    phase = position % period
    return np.minimum(phase, period - phase)


def _grass(draws: Draws, size: int, unit: int) -> Canvas:
    blades = _cells(draws, size, 6 * unit, unit, -34, 34)
    return _shade((84, 140, 58), blades)


def _sand(draws: Draws, size: int, unit: int) -> Canvas:
    return _shade((214, 190, 140), _cells(draws, size, unit, unit, -16, 16))


def _water(draws: Draws, size: int, unit: int) -> Canvas:
    rows, columns = np.indices((size, size), dtype=np.int32)
    period = draws.integer(7, 11) * unit
    swell = _ramp(columns + draws.integer(0, 255), 24 * unit) // 4
    crests = _ramp(rows + swell + draws.integer(0, 255), period)
    return _shade((54, 104, 150), crests * 60 // (period // 2) - 26)


def _brick(draws: Draws, size: int, unit: int) -> Canvas:
    rows, columns = np.indices((size, size), dtype=np.int32)
    rows, columns = rows + draws.integer(0, 255), columns + draws.integer(0, 255)
    height, width = 8 * unit, 16 * unit
    courses = rows // height
    shifted = columns + courses % 2 * (width // 2)
    mortar = (rows % height < 2 * unit) | (shifted % width < 2 * unit)
    tones = draws.array(-14, 14, (64,))[(courses * 7 + shifted // width * 3) % 64]
    return np.where(mortar[:, :, None], np.asarray((190, 178, 166), dtype=np.int32), _shade((150, 72, 54), tones))


def _cloud(draws: Draws, size: int, unit: int) -> Canvas:
    cell = 16 * unit
    knots = draws.array(-34, 26, (size // cell + 2, size // cell + 2))
    low, part = np.divmod(np.arange(size), cell)
    along = knots[low] * (cell - part)[:, None] + knots[low + 1] * part[:, None]
    puffs = (along[:, low] * (cell - part) + along[:, low + 1] * part) // cell**2
    return _shade((206, 218, 232), puffs.astype(np.int32))


def _gravel(draws: Draws, size: int, unit: int) -> Canvas:
    cell = 5 * unit
    stones = _cells(draws, size, cell, cell, -48, 40)
    rows, columns = np.indices((size, size), dtype=np.int32)
    # Corners darker than centres make the cells read as pebbles, not as a mosaic.
    edge = abs(rows % cell * 2 - cell + 1) + abs(columns % cell * 2 - cell + 1)
    return _shade((128, 124, 120), stones - np.maximum(edge - cell, 0) * 12 // unit)


_TEXTURES: dict[str, Callable[[Draws, int, int], Canvas]] = {
    "grass": _grass,
    "sand": _sand,
    "water": _water,
    "brick": _brick,
    "cloud": _cloud,
    "gravel": _gravel,
}


def draw_texture(name: str, draws: Draws, size: int) -> Canvas:
    """A (size, size, 3) RGB canvas of one stuff class; values may leave 0..255 a little."""
    return _TEXTURES[name](draws, size, max(1, size // 96))
