"""Random integers that are the same on every machine, Python and NumPy version."""

import numpy as np
from numpy.typing import NDArray


class Draws:
    """A stream of random integers.

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
