"""One graph of a part of a model for all batches and sizes, by torch.export."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.export import Dim, ExportedProgram

from maft.errors import UserError, first_line
from maft.exporting.parts import Part

# Batch, and height and width as multiples of what the part asks for; no two alike, and none that a layer could be for.
TRACED = (2, 3, 4)
_LARGEST = 1 << 14
# The least of the sizes that a caller chooses. PyTorch looks a single row up in another way than several.
_OPEN = {"batch": 1, "texts": 2}


def traced(part: Part) -> ExportedProgram:
    """The graph of a part, with open batch, height, width and number of texts.

    Raises:
        UserError: PyTorch is too old, or the part cannot be traced with open sizes.
    """
    if not hasattr(torch.compiler, "is_exporting"):
        raise UserError(f"maft export needs PyTorch 2.7 or newer, and this is {torch.__version__}: update torch.")
    sizes = {name: Dim(name, min=least, max=_LARGEST) for name, least in _OPEN.items()}
    # Of one cell, a map of features is of another kind for PyTorch.
    sides = {name: Dim(name, min=max(2, 2 * part.multiple_of), max=_LARGEST) for name in ("height", "width")}
    known = {**sizes, **sides}
    shapes = tuple(
        {axis: known[size] for axis, size in enumerate(port.shape) if isinstance(size, str)} for port in part.inputs
    )
    try:
        with torch.no_grad(), _every_size():
            return torch.export.export(part, part.example(*TRACED), dynamic_shapes=shapes, strict=False)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"torch.export cannot trace {described(part)} with open batch and sizes "
            f"({type(error).__name__}: {first_line(error)}): export another part, or choose other components."
        ) from error


def described(part: Part) -> str:
    """A part as messages call it."""
    clip: Any = getattr(part, "clip", None)
    if clip is not None:
        return f"the {type(part).__name__} of {clip.name}"
    model: Any = part.model
    classifier = "no classifier" if model.classifier is None else type(model.classifier).__name__
    return f"{type(model.proposer).__name__} with {classifier}"


@contextmanager
def _every_size() -> Iterator[None]:
    """Has PyTorch ask of no open size whether it is 0 or 1, and what is around the model say nothing that is not it."""
    import timm.layers.padding as padding
    from torch.fx.experimental import _config

    before = torch.autocast, padding.get_same_padding
    fused = torch.backends.mha.get_fastpath_enabled()
    # Blocks that turn autocast off are nodes of their own in a graph, which other runtimes do not know.
    torch.autocast = _Nothing  # type: ignore[misc, assignment]
    padding.get_same_padding = _same_padding  # type: ignore[assignment]
    # PyTorch's own fused transformer is one opaque operator.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with _config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        torch.autocast, padding.get_same_padding = before  # type: ignore[misc]


class _Nothing:
    """Stands for ``torch.autocast`` where nothing is cast anyway."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: Any) -> None:
        pass


def _same_padding(size: Any, kernel_size: int, stride: int, dilation: int) -> Any:
    """timm's, in whole numbers: its division cannot be written to a file."""
    reach = (kernel_size - 1) * dilation
    if stride == 1:
        return reach
    return torch.sym_max((-(-size // stride) - 1) * stride + reach + 1 - size, 0)
