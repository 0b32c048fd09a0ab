"""Config files as plain data: YAML without tags, and the files that ``_BASE_`` names, merged."""

from __future__ import annotations

import os
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from maft.errors import UserError, first_line
from maft.packaged import packaged_config

_MOST_LEVELS = 20
_BASE_KEY = "_BASE_"
# Tags of files that other programs wrote -> what a plain file has instead.
_PYTHON_TAGS = {
    "python/tuple": "a list, [a, b]",
    "python/unicode": "the text alone",
    "python/name": "the name as a text",
}


class _PlainLoader(yaml.SafeLoader):
    """YAML of texts, numbers, flags, lists and mappings with texts as keys, each key once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        self.flatten_mapping(node)
        seen: set[str] = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if not isinstance(name, str):
                raise yaml.MarkedYAMLError(problem=f"the key {name!r} is no text", problem_mark=key.start_mark)
            if name in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {name} stands there twice", problem_mark=key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)

    def refuse_tag(self, node: yaml.Node) -> Any:
        tag = node.tag.replace("tag:yaml.org,2002:", "")
        kind = next((kind for kind in _PYTHON_TAGS if tag.startswith(kind)), None)
        advice = f"write {_PYTHON_TAGS[kind]}" if kind else "write plain YAML"
        problem = f"the tag !!{tag} would run code or make an object, which no config does: {advice}"
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


_PlainLoader.add_constructor(None, _PlainLoader.refuse_tag)  # type: ignore[type-var]
# As YAML 1.2 and Python have it; PyYAML would take 1e-4 for a text.
_PlainLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), [*"-+0123456789"]
)
# Dates are texts here: nothing in a config is one.
for _first, _resolvers in list(_PlainLoader.yaml_implicit_resolvers.items()):
    _PlainLoader.yaml_implicit_resolvers[_first] = [r for r in _resolvers if r[0] != "tag:yaml.org,2002:timestamp"]


def read_yaml(path: str | os.PathLike[str]) -> Any:
    """The content of a YAML file as plain data.

    Raises:
        UserError: the file cannot be read, is no YAML, holds tags, a key twice or one that is no text, or itself.
    """
    try:
        return parse_yaml(Path(path).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"Config {path}{_place(error)}.") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise UserError(f"Config {path} cannot be read ({reason}): check the path.") from None


def parse_yaml(text: str) -> Any:
    """Plain data from YAML text; raises yaml.YAMLError for anything else."""
    try:
        value = yaml.load(text, _PlainLoader)
        _check_depth(value, 0, set())
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        raise yaml.YAMLError(first_line(error)) from None
    return value


def _check_depth(value: Any, level: int, seen: set[tuple[int, int]]) -> None:
    """Raises YAMLError for data deeper than any config, which also finds an anchor that holds itself."""
    if level > _MOST_LEVELS:
        raise yaml.YAMLError(f"it is nested more than {_MOST_LEVELS} levels deep, or holds itself")
    if isinstance(value, int) and abs(value) >= 2**63:
        raise yaml.YAMLError(f"the number {value} is larger than any that is meant")
    # What an anchor shares is looked at once a level: aliases of aliases would be walked for ever.
    if not isinstance(value, (dict, list)) or (id(value), level) in seen:
        return
    seen.add((id(value), level))
    for part in value.values() if isinstance(value, dict) else value:
        _check_depth(part, level + 1, seen)


def _place(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        return f"{line}: {error.problem}"
    return f": {first_line(error)}"


def read_config_file(path: str | os.PathLike[str], _outer: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A config with what its ``_BASE_`` files hold, as nested mappings; later files win, the file itself most.

    A base is the path of a file, from the config's own folder, or the name of a packaged config.

    Raises:
        UserError: see `read_yaml`; or a base is no local file, is missing, or leads back to a file above it.
    """
    file = Path(path)
    if not os.path.isfile(file):
        if _outer:
            raise UserError(f"Config {_outer[-1]}: its {_BASE_KEY} {file} does not exist: correct the path.")
        raise UserError(f"Config file {file} does not exist: check --config-file.")
    chain = (*_outer, file.resolve())
    if chain[-1] in _outer:
        raise UserError(f"Config {file}: its {_BASE_KEY} leads back to itself: remove one of them.")
    content = {} if (content := read_yaml(file)) is None else content
    if not isinstance(content, dict):
        raise UserError(f"Config {file} holds a {type(content).__name__} and no keys with values: see configs/.")
    bases = content.pop(_BASE_KEY, [])
    merged: dict[str, Any] = {}
    for base in [bases] if isinstance(bases, str) else bases if isinstance(bases, list) else [bases]:
        if not isinstance(base, str) or "://" in base:
            raise UserError(f"Config {file}: {_BASE_KEY} is {base!r}, but it must be the path of a local file.")
        beside = file.parent / os.path.expanduser(base)
        packaged = None if os.path.isfile(beside) else packaged_config(base)
        _merge(merged, read_config_file(packaged or beside, chain))
    return _merge(merged, content)


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            _merge(below[key], value)
        else:
            below[key] = value
    return below
