"""Official recipes beside ours, value by value, and what is wrong with a config that differs without saying so."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from maft.config_files import read_yaml
from maft.data.catalog import dataset
from recipes.facts import fact

OFFICIAL = Path(__file__).with_name("official.yaml")
# What every official recipe has to say, if only that it is not published.
REQUIRED = (
    "batch", "iterations", "rate", "backbone rate", "schedule", "decay", "training sizes", "crop", "test size",
    "templates", "training classes",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One value of a config beside the official one.

    Attributes:
        official: None where none is published.
        source: where the official value stands.
        reason: why the config differs, in its own words.
    """

    fact: str
    official: Any
    ours: Any
    source: str
    reason: str = ""

    @property
    def differs(self) -> bool:
        return self.official is not None and not same(self.official, self.ours)

    @property
    def verdict(self) -> str:
        """Equal, not compared (no official value), deliberate (with the reason) or different."""
        if self.official is None:
            return "not compared"
        return ("deliberate: " + self.reason if self.reason else "DIFFERENT") if self.differs else "equal"


@dataclass
class Audit:
    """A config beside its official recipe.

    Attributes:
        none: why there is no official recipe.
        problems: sentences; empty where every difference is declared.
    """

    config: str
    none: str = ""
    rows: list[Row] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def audit(config: str, cfg: CfgNode, recipes: Mapping[str, Any]) -> Audit:
    """Compares a config with its official recipe.

    Args:
        config: its path below ``configs/`` without the suffix.
        recipes: the content of ``official.yaml``.

    Raises:
        UserError: the official recipe names a fact that does not exist.
    """
    result = Audit(config)
    blocks = [block for block in recipes["RECIPES"] if any(fnmatchcase(config, name) for name in block["CONFIGS"])]
    declared = dict(cfg.TEST.DEVIATIONS)
    if not blocks:
        result.problems.append("official.yaml has no recipe for it")
    elif none := next((block["NONE"] for block in blocks if "NONE" in block), ""):
        result.none = none
        if "recipe" not in declared:
            result.problems.append("it follows no official recipe and does not say so (TEST.DEVIATIONS, recipe)")
    else:
        result.rows, lacking = _rows(cfg, blocks, declared, recipes)
        different = {row.fact for row in result.rows if row.differs}
        result.problems += [f"the official recipe does not say: {name}" for name in lacking]
        result.problems += [
            f"{row.fact}: {text(row.official)} in {row.source}, but {text(row.ours)} here"
            for row in result.rows
            if row.differs and not row.reason
        ]
        result.problems += [f"TEST.DEVIATIONS: {name} does not differ" for name in declared if name not in different]
    return result


def unmatched(configs: Sequence[str], recipes: Mapping[str, Any]) -> list[str]:
    """Patterns of the official recipes that no config matches."""
    patterns = (name for block in recipes["RECIPES"] for name in block["CONFIGS"])
    return [name for name in patterns if not any(fnmatchcase(config, name) for config in configs)]


def read_official() -> dict[str, Any]:
    """The official recipes, with templates written out and datasets under our names."""
    content: dict[str, Any] = read_yaml(OFFICIAL)
    content["LABEL_SETS"] = _by_our_name(content["LABEL_SETS"])
    return content


def _rows(
    cfg: CfgNode, blocks: Sequence[Any], declared: Mapping[str, str], recipes: Mapping[str, Any]
) -> tuple[list[Row], list[str]]:
    values = {name: (value, block["SOURCE"]) for block in blocks for name, value in block["VALUES"].items()}
    ours = fact(cfg, "test classes")
    known = recipes["LABEL_SETS"]
    values["test classes"] = {name: known.get(name) for name in ours}, "LABEL_SETS of official.yaml"
    lacking = [name for name in REQUIRED if name not in values]
    names = sorted(values, key=lambda name: (name not in REQUIRED, name in REQUIRED and REQUIRED.index(name)))
    rows = []
    for name in names:
        value, source = values[name]
        rows.append(Row(name, _official(name, value, recipes), fact(cfg, name), source, declared.get(name, "")))
    return rows, lacking


def _official(name: str, value: Any, recipes: Mapping[str, Any]) -> Any:
    if name.endswith("templates") and isinstance(value, str):
        return recipes["TEMPLATES"].get(value, [value])
    return _by_our_name(value) if name == "training classes" and value else value


def _by_our_name(classes: Mapping[str, int]) -> dict[str, int]:
    return {dataset(name).name: count for name, count in classes.items()}


def same(first: Any, second: Any) -> bool:
    """Equality of plain data: lists and tuples alike, numbers up to rounding."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return first.keys() == second.keys() and all(same(value, second[key]) for key, value in first.items())
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, float) and isinstance(second, (int, float)):
        return math.isclose(first, second, rel_tol=1e-9)
    return bool(first == second)


def text(value: Any) -> str:
    """A value for a table: long lists by their ends and their length."""
    if value is None:
        return "-"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {text(part)}" for name, part in value.items())
    if isinstance(value, (list, tuple)):
        parts = [text(part) for part in value]
        return ", ".join(parts) if len(parts) <= 3 else f"{parts[0]} ... {parts[-1]} ({len(parts)})"
    return f"{value:g}" if isinstance(value, float) else str(value)
