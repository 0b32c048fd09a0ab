"""Reads one matrix of a MATLAB file of version 5 to 7, the format of Pascal Context's label maps.

SciPy's reader takes what such a file says of itself as true, and some damaged files end the process in it.
"""

from __future__ import annotations

import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maft.errors import shown

_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_INT32, _MATRIX, _COMPRESSED = 5, 14, 15
# Classes of matrices from double to uint64; the others are texts, cells, structures and sparse matrices.
_NUMERIC = range(6, 16)
_COMPLEX = 0x0800
# Enough for the header of a matrix, whose name has at most 63 letters.
_HEADER = 4096


def read_matrix(path: Path, name: str, most: int) -> NDArray[Any] | None:
    """The matrix called ``name``, (h, w) numbers; None when the file has none of that name.

    Args:
        most: elements that it may have; it is not unpacked when it says that it has more.

    Raises:
        OSError, ValueError, struct.error, zlib.error: the file is damaged, or the matrix of another kind.
    """
    content = path.read_bytes()
    if (mark := content[126:128]) not in (b"IM", b"MI"):
        raise ValueError("it is no MATLAB file of version 5 to 7")
    order = "<" if mark == b"IM" else ">"
    place = 128
    while place < len(content):
        start = place
        kind, data, place = _element(content, start, order)
        stream = zlib.decompressobj()
        body = stream.decompress(data, _HEADER) if kind == _COMPRESSED else content[start:place]
        if struct.unpack_from(order + "I", body)[0] != _MATRIX:
            continue
        # Behind the tag of the matrix: its flags, its size, its name, then its numbers column by column.
        _, flags, inner = _element(body, 8, order)
        size_kind, size, inner = _element(body, inner, order)
        _, called, inner = _element(body, inner, order)
        if called != name.encode():
            continue
        shape = np.frombuffer(size, order + _NUMBERS[_INT32]).tolist()
        if size_kind != _INT32 or len(shape) != 2 or min(shape) < 0 or math.prod(shape) > most:
            raise ValueError(f"its {name} has the size {shown(shape)}")
        state = struct.unpack_from(order + "I", flags)[0]
        if state & 0xFF not in _NUMERIC or state & _COMPLEX:
            raise ValueError(f"its {name} holds other than real numbers")
        if kind == _COMPRESSED:
            body += stream.decompress(stream.unconsumed_tail, 8 * math.prod(shape) + _HEADER)
            if not stream.eof:
                raise ValueError("it is truncated")
        number, values, _ = _element(body, inner, order)
        if number not in _NUMBERS:
            raise ValueError(f"its {name} holds numbers of the unknown kind {number}")
        return np.frombuffer(values, order + _NUMBERS[number]).reshape(shape, order="F")
    return None


def _element(content: bytes, place: int, order: str) -> tuple[int, bytes, int]:
    """What stands at a place: the kind of its values, their bytes, and the place of the next element."""
    kind, size = struct.unpack_from(order + "II", content, place)
    if kind >> 16:
        # Up to four bytes stand in the tag itself.
        return kind & 0xFFFF, content[place + 4 : place + 4 + min(kind >> 16, 4)], place + 8
    end = place + 8 + size
    if end > len(content):
        raise ValueError("it is truncated")
    return kind, content[place + 8 : end], end if kind == _COMPRESSED else end + -size % 8
