"""Ways in which a file goes wrong, as hypothesis strategies."""

from __future__ import annotations

import copy
import json

from hypothesis import strategies as st

# What people and programs leave where a number, a name or a list should stand.
ODD_VALUES = [
    None, True, False, 0, -1, 1, 3, 2**31, 2**63, -(2**63), 10**30, 0.5, -0.0, 1e-300, 1e308,
    float("nan"), float("inf"),
    "", " ", "a", "nan", "None", "../../etc/passwd", "/dev/null", "\x00", "é", "𓀀", "x" * 3000, "1", "[1]", "{}",
    [], [[]], [None], [1, 2], ["a", 1], [[1, 2], [3]], {}, {"": 1}, {"a": {"b": []}},
]  # fmt: skip


def odd_values():
    """One of them, a copy."""
    return st.sampled_from(range(len(ODD_VALUES))).map(lambda index: copy.deepcopy(ODD_VALUES[index]))


def places(value, path=()):
    """Paths of all values inside nested lists and mappings."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list):
        for index in range(len(value)):
            yield from places(value[index], (*path, index))


@st.composite
def mutated_json(draw, value):
    """The value with one to three of its parts replaced, removed or doubled."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        found = list(places(value))[1:]
        if not found:
            return draw(odd_values())
        *parents, last = draw(st.sampled_from(found))
        owner = value
        for key in parents:
            owner = owner[key]
        action = draw(st.sampled_from(["replace", "replace", "remove", "double", "rename"]))
        if action == "replace":
            owner[last] = draw(odd_values())
        elif action == "remove":
            del owner[last]
        elif action == "double" and isinstance(owner, list):
            owner.append(copy.deepcopy(owner[last]))
        elif action == "rename" and isinstance(owner, dict):
            owner[draw(st.sampled_from(["", "id", "ID", f"{last}s", f"{last}".upper()]))] = owner.pop(last)
    return value


@st.composite
def mutated_bytes(draw, content: bytes):
    """The content cut, flipped, filled, doubled or with bytes put in, once to three times."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, max(len(data) - 1, 0)))
        length = draw(st.integers(0, 40))
        action = draw(st.sampled_from(["cut", "flip", "zeros", "ones", "insert", "remove", "double", "random"]))
        if action == "cut":
            del data[start:]
        elif action == "flip" and data:
            data[start] ^= 1 << draw(st.integers(0, 7))
        elif action in ("zeros", "ones"):
            data[start : start + length] = (b"\0" if action == "zeros" else b"\xff") * len(data[start : start + length])
        elif action == "insert":
            data[start:start] = draw(st.binary(max_size=20))
        elif action == "remove":
            del data[start : start + length]
        elif action == "double":
            data[start:start] = data[start : start + length]
        elif action == "random":
            data[start : start + length] = draw(st.binary(min_size=length, max_size=length))
    return bytes(data)


@st.composite
def mutated_json_text(draw, value):
    """The text of a JSON file: a mutated value, or a mutated text."""
    if draw(st.booleans()):
        return draw(mutated_bytes(json.dumps(value).encode()))
    return json.dumps(draw(mutated_json(value))).encode()
