"""Exporting from a model to files that were checked, with a description beside them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from maft import __version__
from maft.checkpoint.fingerprint import fingerprint
from maft.errors import UserError
from maft.exporting.checking import CHECKED, TOLERANCE, largest_difference
from maft.exporting.formats import OPSET, check_format
from maft.exporting.parts import ImageTower, Part, Port, TextTower, WholeModel
from maft.exporting.refusals import check_exportable
from maft.exporting.tracing import traced
from maft.files import remove_unfinished, unfinished_path, write_json_atomic, writing
from maft.proposals.criterion import SetPredictionProposer
from maft.segmentor import OpenVocabSegmentor
from maft.structures import Vocabulary

PARTS = ("model", "image-tower", "text-tower")


def export(
    model: OpenVocabSegmentor,
    vocabulary: Vocabulary,
    folder: Path,
    *,
    part: str = "model",
    format: str = "onnx",
    semantic: bool = False,
    facts: Mapping[str, Any] | None = None,
) -> tuple[Path, float]:
    """Writes a part of a model for another runtime, and ``NAME.json``, which says how to run it without maft.

    Args:
        model: in evaluation mode, on the CPU.
        vocabulary: the classes of the part ``model``; the others know none.
        folder: where ``PART.onnx`` or ``PART.pt2`` is written, and its description.
        part: ``model`` (`WholeModel`), ``image-tower`` or ``text-tower``.
        format: ``onnx`` or ``pt2`` (an ExportedProgram).
        semantic: of the part ``model``, semantic scores as well.
        facts: what else the description shall say.

    Returns:
        the file, and the largest difference to the model, see `maft.exporting.checking.largest_difference`.

    Raises:
        UserError: it cannot be exported, or computes something else than the model. What was written then stays, and
            its description says so.
    """
    kind = check_format(format)
    if part == "model" and format == "pt2":
        raise UserError("An ExportedProgram of a whole model may refuse a single image: export it as onnx.")
    with torch.no_grad():
        made = _part(model, vocabulary, part, semantic).eval()
        program = traced(made)
        target = Path(folder)
        remove_unfinished(target)
        unfinished = unfinished_path(target)
        with writing(target):
            _make_folder(unfinished)
            try:
                file = unfinished / (part + kind.suffix)
                with _sentence(f"{format} cannot hold this {part}"):
                    kind.write(program, made, file)
                    difference, place = largest_difference(made, kind.load(file, made))
                target.mkdir(parents=True, exist_ok=True)
                written = sorted(unfinished.iterdir())
                for one in written:
                    os.replace(one, target / one.name)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
        passed = difference <= TOLERANCE
        description = {
            **_description(model, made, part, format, vocabulary),
            "files": {"main": file.name, "beside": [one.name for one in written if one.name != file.name]},
            "check": {"passed": passed, "largest_difference": difference, "output": place, "tolerance": TOLERANCE},
            **(facts or {}),
        }
        description["check"]["inputs"] = [[list(one.shape) for one in made.example(*sizes)] for sizes in CHECKED]
        write_json_atomic(target / f"{file.name}.json", description)
    if not passed:
        raise UserError(
            f"{target / file.name} computes something else than the model: {place} differs by {difference:.1e}, more "
            f"than {TOLERANCE:.0e}; it was left there, and its description says so. Do not use it."
        )
    return target / file.name, difference


def _part(model: OpenVocabSegmentor, vocabulary: Vocabulary, part: str, semantic: bool) -> Part:
    towers: dict[str, Callable[..., Part]] = {"image-tower": ImageTower, "text-tower": TextTower}
    if part not in PARTS:
        raise UserError(f"There is no part {part!r}: choose one of {', '.join(PARTS)}.")
    if semantic and part != "model":
        raise UserError(f"Semantic scores belong to the part model: leave out --semantic with --part {part}.")
    if part in towers:
        return towers[part](model.clip)
    check_exportable(model, vocabulary, semantic=semantic)
    return WholeModel(model, vocabulary, semantic=semantic)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"cannot write to {folder.parent}: {error.strerror}; choose another --output") from error


@contextmanager
def _sentence(beginning: str) -> Iterator[None]:
    """Turns what a runtime raises into one sentence."""
    try:
        yield
    except (UserError, OSError):
        raise
    except Exception as error:
        said = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(f"{beginning} ({type(error).__name__}: {said}): choose another format.") from error


def _description(
    model: OpenVocabSegmentor, part: Part, name: str, format: str, vocabulary: Vocabulary
) -> dict[str, Any]:
    says: dict[str, Any] = {
        "part": name,
        "format": format,
        "inputs": [_port(port) for port in part.inputs],
        "outputs": [_port(port) for port in part.outputs],
        "model": {"clip": model.clip.name, "sha256": fingerprint(part, {})},
        "versions": {package: _version(package) for package in ("torch", "onnx", "onnxruntime")},
    }
    says["versions"] = {"maft": __version__, **{key: value for key, value in says["versions"].items() if value}}
    if format == "onnx":
        says["versions"]["opset"] = OPSET
    if name == "model":
        says["model"]["proposer"] = type(model.proposer).__name__
        says["model"]["classifier"] = None if model.classifier is None else type(model.classifier).__name__
    if name == "model":
        says["classes"] = list(vocabulary.names)
        says["void_is_last"] = part.outputs[0].shape[-1] == len(vocabulary) + 1
    if part.multiple_of:
        says["preprocessing"] = {
            "channels": "RGB",
            "range": [0, 255],
            "multiple_of": part.multiple_of,
            "smallest": 2 * part.multiple_of,
            "padding": "none: resize so that both sides are such multiples",
            "normalised_by_the_graph": _normalisations(model, name),
        }
    return says


def _port(port: Port) -> dict[str, Any]:
    return {"name": port.name, "shape": list(port.shape), "dtype": port.dtype, "values": port.values}


def _normalisations(model: OpenVocabSegmentor, part: str) -> dict[str, Any]:
    """Mean and standard deviation, in 0..255, that CLIP and a proposer with a backbone of its own take off pixels."""
    readers: dict[str, Any] = {"clip": model.clip}
    if part != "image-tower" and isinstance(model.proposer, SetPredictionProposer):
        readers["proposer"] = model.proposer
    return {
        name: {"mean": reader.pixel_mean.tolist(), "std": reader.pixel_std.tolist()} for name, reader in readers.items()
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
