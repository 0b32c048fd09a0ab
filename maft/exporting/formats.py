"""Files that an exported program is written to, and how each is run again."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.export import ExportedProgram

from maft.errors import UserError
from maft.exporting.parts import Part

OPSET = 20
Run = Callable[..., Sequence[Tensor]]


class Format(NamedTuple):
    """One kind of file.

    Attributes:
        suffix: of the file.
        packages: what must be installed to write and check it.
        write: writes a program to a path.
        load: makes a function of tensors, in the order of the part's inputs, of a written file.
    """

    suffix: str
    packages: tuple[str, ...]
    write: Callable[[ExportedProgram, Part, Path], None]
    load: Callable[[Path, Part], Run]


def _write_program(program: ExportedProgram, part: Part, path: Path) -> None:
    torch.export.save(program, path)


def _load_program(path: Path, part: Part) -> Run:
    return torch.export.load(path).module()


def _write_onnx(program: ExportedProgram, part: Part, path: Path) -> None:
    names: dict[str, Any] = {
        "input_names": [port.name for port in part.inputs],
        "output_names": [port.name for port in part.outputs],
    }
    written: Any = torch.onnx.export(program, dynamo=True, opset_version=OPSET, verbose=False, **names)
    written.save(path)


def _load_onnx(path: Path, part: Part) -> Run:
    session = importlib.import_module("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])
    # What a graph does not read, it has no input for.
    read = {port.name for port in session.get_inputs()}

    def run(*inputs: Tensor) -> list[Tensor]:
        given = {port.name: one.numpy() for port, one in zip(part.inputs, inputs, strict=True) if port.name in read}
        return [torch.from_numpy(value) for value in session.run(None, given)]

    return run


FORMATS = {
    "pt2": Format(".pt2", (), _write_program, _load_program),
    "onnx": Format(".onnx", ("onnx", "onnxscript", "onnxruntime"), _write_onnx, _load_onnx),
}


def check_format(name: str) -> Format:
    """A format by its name.

    Raises:
        UserError: there is none of it, or what it needs is not installed.
    """
    if name not in FORMATS:
        raise UserError(f"There is no format {name!r}: choose one of {', '.join(FORMATS)}.")
    for package in FORMATS[name].packages:
        try:
            importlib.import_module(package)
        except ImportError:
            raise UserError(f'{name} needs {package}: run pip install "maft[export]".') from None
    return FORMATS[name]
