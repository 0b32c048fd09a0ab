"""One recorded case of an official release: its configuration, weights, inputs and outputs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from maft.checkpoint.official.released import RELEASES
from maft.errors import UserError


@dataclass
class GoldenCase:
    """A case as read from ``<name>.json`` and, when present, ``<name>.safetensors``.

    Attributes:
        folder: where the case lies.
        system: the official release ("maft", "ovseg", "maskadapter").
        name: file name without suffix.
        record: the whole json.
        tensors: every recorded tensor under its full name ("in/...", "out/...", "weights/...").
        device: where the case is run.
    """

    folder: Path
    system: str
    name: str
    record: dict[str, Any]
    tensors: dict[str, Tensor] = field(default_factory=dict)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def read(cls, file: Path, device: str = "cpu") -> GoldenCase:
        """Reads the json ``file`` and the tensors beside it."""
        record = json.loads(file.read_text())
        archive = file.with_suffix(".safetensors")
        tensors = load_file(str(archive), device=device) if archive.is_file() else {}
        system = record.get("system") or _system_of(file.parent)
        return cls(file.parent, system, file.stem, record, tensors, torch.device(device))

    @property
    def config(self) -> dict[str, Any]:
        return self.record.get("config", {})

    def group(self, prefix: str) -> dict[str, Tensor]:
        """Tensors below ``prefix/``, named without it."""
        start = prefix + "/"
        return {name[len(start) :]: value for name, value in self.tensors.items() if name.startswith(start)}

    @property
    def inputs(self) -> dict[str, Tensor]:
        return self.group("in")

    @property
    def outputs(self) -> dict[str, Tensor]:
        return self.group("out")

    @property
    def weights(self) -> dict[str, Tensor]:
        """Recorded weights under their official names, of this case or of the one ``weights_from`` names.

        A ``sparse/<name>/{index,rows}`` pair becomes a full table of ``rows`` at ``index`` and zeros elsewhere; the
        height of the table is the recorded vocabulary size.
        """
        case = self
        if "weights_from" in self.record:
            case = GoldenCase.read(self.folder / f"{self.record['weights_from']}.json", str(self.device))
        weights = case.group("weights")
        sparse = case.group("sparse") or {
            name.removeprefix("sparse/"): weights.pop(name) for name in list(weights) if name.startswith("sparse/")
        }
        for key in [key for key in sparse if key.endswith("/index")]:
            name = key.removesuffix("/index")
            index, rows = sparse[key].long(), sparse[f"{name}/rows"]
            height = max(case.find("vocab_size", 49408), int(index.max()) + 1)
            weights[name] = rows.new_zeros(height, *rows.shape[1:]).index_copy(0, index, rows)
        return weights

    def find(self, key: str, default: Any) -> Any:
        """The first value stored under ``key`` anywhere in the configuration."""

        def search(node: Any) -> Any:
            if isinstance(node, Mapping):
                if key in node:
                    return node[key]
                node = list(node.values())
            if isinstance(node, list):
                for item in node:
                    found = search(item)
                    if found is not None:
                        return found
            return None

        found = search(self.config)
        return default if found is None else found

    def tolerance(self, name: str) -> tuple[float, float]:
        """(relative, absolute) tolerance of the output ``name`` ("out/..."); a per-tensor one wins.

        Gradients and updated parameters may have a rule of their own, a sentence such as
        "max abs diff <= 1e-3 * max|expected gradient|" or "... <= 0.01 * out/lr".
        """
        own = self.record.get("per_tensor", {}).get(name, {})
        if not isinstance(own, Mapping):
            own = {"atol": own}
        if "atol" in own or "rtol" in own:
            return float(own.get("rtol", 0.0)), float(own.get("atol", 0.0))
        overall = self.record.get("tolerance", {})
        group = name.split("/")[1] if name.count("/") > 1 else ""
        rule = re.search(r"<= ([\d.e-]+) \* (out/\w+)?", str(overall.get(group, "")))
        if rule:
            factor, scale = float(rule[1]), rule[2]
            return (0.0, factor * float(self.tensors[scale].abs().max())) if scale else (factor, 0.0)
        return float(overall.get("rtol", 1e-4)), float(overall.get("atol", 1e-5))


def _system_of(folder: Path) -> str:
    """The system of a json that does not name it: that of the cases beside it, else the name of the folder."""
    for file in sorted(folder.glob("*.json")):
        record = json.loads(file.read_text())
        if isinstance(record, Mapping) and isinstance(record.get("system"), str):
            return record["system"]
    return folder.name


def official_name(name: str, release: str) -> str | None:
    """Our name of one parameter of a release; None when the map drops it."""
    return next(item for item in RELEASES if item.name == release).key_map.rename(name)


Outputs = Mapping[str, Tensor]
_ADAPTORS: dict[tuple[str, str], Callable[[GoldenCase], Outputs]] = {}


def golden_case(
    system: str, *names: str
) -> Callable[[Callable[[GoldenCase], Outputs]], Callable[[GoldenCase], Outputs]]:
    """Decorator: the function runs our code on these cases and returns our outputs, named without "out/"."""

    def add(function: Callable[[GoldenCase], Outputs]) -> Callable[[GoldenCase], Outputs]:
        for name in names:
            if (system, name) in _ADAPTORS:
                raise ValueError(f"golden case {system}/{name} has two adaptors")
            _ADAPTORS[system, name] = function
        return function

    return add


def adaptor(case: GoldenCase) -> Callable[[GoldenCase], Outputs] | None:
    """The function that runs a case, None when there is none."""
    return _ADAPTORS.get((case.system, case.name))


def supports(system: str) -> bool:
    """Whether any code of ours runs cases of a system."""
    return any(known == system for known, _ in _ADAPTORS)


def find_cases(folder: Path) -> list[Path]:
    """The json files of a folder of cases, sorted.

    Raises:
        UserError: the folder does not exist or holds no case.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: give a folder of golden cases (<case>.json, <case>.safetensors).")
    files = sorted(folder.glob("*.json"))
    if not files:
        raise UserError(f"{folder} holds no golden case: there is no <case>.json in it.")
    return files


def released_shapes(case: GoldenCase) -> Iterator[tuple[str, dict[str, torch.Size]]]:
    """Released files of a case of checkpoint keys with their shapes by name; a recorded list ends in a type."""
    for file, record in case.record.items():
        if "keys" in record:
            yield file, {name: torch.Size(entry[:-1]) for name, entry in record["keys"].items()}
