"""Where the weights of a model came from, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence


def origins(
    names: Iterable[str], given: Mapping[str, str], *, clip: str, brought: Sequence[str], started: Sequence[str]
) -> str:
    """One line that says for each part of a model where its tensors came from.

    Args:
        names: of all tensors of the model.
        given: name -> the file that gave the tensor.
        clip: what the weights of a CLIP that no file gives are.
        brought: parts that came with weights of their own.
        started: those, the parts that start as copies of CLIP's, and what came with weights of its own below a part.
    """
    counts: dict[str, Counter[str]] = {}
    for name in names:
        part = name.partition(".")[0]
        if name in given:
            origin = f"from {given[name]}"
        elif part == "clip":
            origin = clip
        elif part in started and part not in brought:
            origin = "copied from CLIP"
        elif name.startswith(tuple(f"{one}." for one in started)):
            origin = "pretrained, as MODEL." + part.upper() + " names them"
        else:
            origin = "untrained"
        counts.setdefault(part, Counter())[origin] += 1
    parts = (
        f"{part}: " + ", ".join(f"{count} {_tensors(count)} {origin}" for origin, count in found.items())
        for part, found in counts.items()
    )
    return f"Weights: {'; '.join(parts)}."


def _tensors(count: int) -> str:
    return "tensor" if count == 1 else "tensors"
