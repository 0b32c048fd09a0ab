"""Reading a config: files, overrides, components of one's own, and every check before anything is built."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from detectron2.config import CfgNode
from pydantic import Field

from maft.addresses import check_address
from maft.config_checks import check_not_ignored, one_sentence, refuse_removed
from maft.config_files import parse_yaml, read_config_file
from maft.config_keys import default_config
from maft.config_values import check_together, check_values
from maft.errors import UserError, closest, shown
from maft.options import check_options, options_of
from maft.packaged import config_file, located
from maft.registry import CLASSIFIERS, ENSEMBLES, LOSSES, PROPOSERS, Registry, import_components

# Paths and addresses that do not stay beside the config.
_OUTSIDE = re.compile(r"^(\w+:)?[/~]|(^|[/:])\.\.(/|$)|://|^hf-hub:")

logger = logging.getLogger(__name__)


def load_config(
    file: str | os.PathLike[str], overrides: Sequence[str] | None = None, *, trusted: bool = True
) -> CfgNode:
    """Reads a YAML config, its ``_BASE_`` files and command-line overrides, and checks keys and options.

    Nothing in the files is executed, but for what ``IMPORTS`` names.

    Args:
        file: a path, or the name of a packaged config, such as ``quickstart/maft``.
        trusted: False for a config that came with a checkpoint: its ``IMPORTS`` are refused unless ``overrides`` name
            them as well, its folder for text embeddings is left out and the other paths that it names are logged.

    Raises:
        UserError: a file is missing or no plain YAML, or a key or value does not exist or fit.
    """
    path, overrides = config_file(file), list(overrides or [])
    content = read_config_file(path)
    defaults = default_config()
    cfg = defaults.clone()
    if content.get("VERSION", cfg.VERSION) != cfg.VERSION:
        raise UserError(f"{path}: VERSION is {shown(content['VERSION'])}, but {cfg.VERSION} is the only one here.")
    where = f"Config {path}"
    try:
        cfg.merge_from_other_cfg(CfgNode(_with_floats(content, cfg)))
        foreign = cfg.IMPORTS
        # A merged node forgets that new keys are allowed in it; overrides may name options the file leaves out.
        for node in (cfg.MODEL.PROPOSER, cfg.MODEL.CLASSIFIER, cfg.MODEL.ENSEMBLE, cfg.MODEL.LOSSES):
            node.set_new_allowed(True)
        where = "Overrides"
        changed = _nested(overrides)
        _forget_options(cfg.MODEL, changed.get("MODEL", {}))
        cfg.merge_from_other_cfg(CfgNode(_with_floats(changed, cfg)))
    except (KeyError, ValueError, AssertionError, yaml.YAMLError) as error:
        raise UserError(f"{where}: {one_sentence(error, defaults)}") from error
    if cfg.VERSION != defaults.VERSION:
        raise UserError(f"VERSION is {shown(cfg.VERSION)}, but {defaults.VERSION} is the only one here.")
    check_values(cfg, defaults)
    check_together(cfg)
    if not trusted:
        _distrust(cfg, content, path, changed)
    if foreign and not trusted and "IMPORTS" not in overrides[::2]:
        raise UserError(
            f"Config {path} came with a checkpoint and asks to run {', '.join(map(str, foreign))}: if you trust that "
            f"code, say so with IMPORTS '{list(cfg.IMPORTS)}'."
        )
    cfg.IMPORTS = [_located(name, path.parent) for name in cfg.IMPORTS]
    import_components(cfg.IMPORTS)
    check_not_ignored(cfg)
    check_components(cfg)
    check_address(cfg.MODEL.WEIGHTS, "MODEL.WEIGHTS")
    start_from(cfg)
    return cfg


def _distrust(cfg: CfgNode, content: Mapping[str, Any], path: Path, changed: Mapping[str, Any]) -> None:
    """Leaves out where a config that came with a checkpoint would write, and says what it would read elsewhere."""
    cache = cfg.MODEL.VOCABULARY.CACHE_DIR
    if cache and "CACHE_DIR" not in changed.get("MODEL", {}).get("VOCABULARY", {}):
        cfg.MODEL.VOCABULARY.CACHE_DIR = ""
        logger.warning("Config %s came with a checkpoint: its MODEL.VOCABULARY.CACHE_DIR %s is not used.", path, cache)
    elsewhere = [f"{key} {value}" for key, value in _texts_of(content) if _OUTSIDE.search(value)]
    named = [text for text in elsewhere if not text.startswith(("OUTPUT_DIR", "IMPORTS", "MODEL.VOCABULARY.CACHE_DIR"))]
    if named:
        logger.warning("Config %s came with a checkpoint and names places elsewhere: %s.", path, ", ".join(named))


def _texts_of(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for name, part in value.items():
            yield from _texts_of(part, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for part in value:
            yield from _texts_of(part, key)


def _forget_options(model: CfgNode, changed: Any) -> None:
    """Drops options of components that overrides set, whose type the component knows and not the former value."""
    for node in ("PROPOSER", "CLASSIFIER", "ENSEMBLE", "LOSSES"):
        given = changed.get(node) if isinstance(changed, Mapping) else None
        for name, options in given.items() if isinstance(given, Mapping) else ():
            if isinstance(options, Mapping) and isinstance(model[node].get(name), CfgNode):
                for key in options:
                    model[node][name].pop(key, None)


def _with_floats(given: Mapping[str, Any], known: CfgNode) -> dict[str, Any]:
    """Whole numbers as the floats that they stand for, which yacs would refuse."""
    changed = dict(given)
    for name, value in given.items():
        current = known.get(name)
        if isinstance(value, Mapping) and isinstance(current, CfgNode):
            changed[name] = _with_floats(value, current)
        elif type(value) is int and isinstance(current, float) and abs(value) < 2**53:
            changed[name] = float(value)
    return changed


def _located(name: str, folder: Path) -> str:
    """The absolute path of a .py file that lies in the working folder or beside the config; modules stay names."""
    if not name.endswith(".py"):
        return name
    here = Path(os.path.expanduser(name))
    beside = folder / here
    return str((beside if os.path.isfile(beside) and not os.path.isfile(here) else here).absolute())


def self_contained(cfg: CfgNode) -> CfgNode:
    """The config that belongs beside a checkpoint of the whole model: it names no other weights."""
    own = cfg.clone()
    own.defrost()
    own.MODEL.WEIGHTS = ""
    own.MODEL.START_FROM = []
    return own


def _found(file: str) -> str:
    # Only a path of ours is put together anew: an address would lose a slash.
    return str(located(file)) if file.startswith("configs/") else file


class WeightsRule:
    """One entry of ``MODEL.START_FROM``.

    Args:
        file: a checkpoint of ours (file or folder) or an official release, or an address with a checksum; what a path
            ``configs/...`` names may also be packaged.
        take: parts of it, under our names (``proposer``, ``classifier.head``); none takes all that the model has.
        into: where they go; the part of the same name by default.
        may_lack: what the file need not have of them, under our names.
    """

    def __init__(
        self,
        *,
        file: Annotated[str, Field(min_length=1)],
        take: str | tuple[str, ...] = (),
        into: str = "",
        may_lack: tuple[str, ...] = (),
    ) -> None:
        self.file, self.into, self.may_lack = (
            _found(file),
            into.rstrip("."),
            tuple(part.rstrip(".") for part in may_lack),
        )
        self.take = tuple(part.rstrip(".") for part in ((take,) if isinstance(take, str) else take) if part)


def start_from(cfg: CfgNode) -> list[WeightsRule]:
    """The entries of ``MODEL.START_FROM``.

    Raises:
        UserError: an entry is misspelt or of another form.
    """
    rules = []
    for number, entry in enumerate(cfg.MODEL.START_FROM):
        node = f"MODEL.START_FROM[{number}]"
        if not isinstance(entry, Mapping):
            raise UserError(f"{node} is {entry!r}, but it must be of the form {{FILE: ..., TAKE: ..., INTO: ...}}.")
        rule = WeightsRule(**check_options(entry, options_of(WeightsRule), f"An entry of {node[:-3]}", node))
        check_address(rule.file, f"{node}.FILE")
        if len(rule.take) > 1 and rule.into:
            raise UserError(f"{node} takes {len(rule.take)} parts INTO one, {rule.into}: write an entry for each.")
        rules.append(rule)
    return rules


def check_components(cfg: CfgNode) -> None:
    """Checks component names and options before anything is built.

    Raises:
        UserError: an unknown component, or an option that it does not have or that does not fit.
    """
    model = cfg.MODEL
    for registry, node in ((PROPOSERS, model.PROPOSER), (CLASSIFIERS, model.CLASSIFIER), (ENSEMBLES, model.ENSEMBLE)):
        for name in chosen(registry, node):
            registry.arguments(name, component_options(registry, node))
        for name in (key for key in node if key in registry and key != node.NAME):
            registry.arguments(name, _group(registry, name, node[name]), complete=False)
    for name, options in model.LOSSES.items():
        LOSSES.arguments(name, _group(LOSSES, name, options))


def _group(registry: Registry[Any], name: str, options: Any) -> CfgNode:
    if not isinstance(options, CfgNode):
        raise UserError(
            f"{registry.node}.{name} is {shown(options)}, but it must be a group of options: write {{}} for defaults."
        )
    return options


def chosen(registry: Registry[Any], node: CfgNode) -> list[str]:
    """The name of the component that a node chooses; nothing for a classifier ``none``."""
    return [] if registry is CLASSIFIERS and node.NAME == "none" else [node.NAME]


def component_options(registry: Registry[Any], node: CfgNode) -> CfgNode:
    """The options under the component's own name in its node, an empty node when there are none.

    Options of other registered components may stand beside them (a ``_BASE_`` file's); anything else is refused.
    """
    shared = ("NAME", "FROZEN", "DROPOUT_WHEN_FROZEN", "LOGIT_SCALE")
    for key in node:
        if key not in shared and key not in registry:
            refuse_removed(f"{registry.node}.{key}")
            raise UserError(
                f"{registry.node}.{key} is neither a shared key nor a {registry.kind}; known are: "
                f"{', '.join(registry)}.{closest(key, [*shared, *registry])}"
            )
    return _group(registry, node.NAME, node.get(node.NAME, CfgNode()))


def _nested(overrides: list[str]) -> CfgNode:
    if len(overrides) % 2:
        raise UserError(f"Overrides come in pairs KEY VALUE; {overrides[-1]!r} has no value.")
    root = CfgNode()
    for key, value in zip(overrides[::2], overrides[1::2], strict=True):
        *parents, last = key.split(".")
        node = root
        for parent in parents:
            node = node.setdefault(parent, CfgNode())
            if not isinstance(node, CfgNode):
                raise UserError(f"Override {key}: {parent} is a value, set by another override, and has no keys.")
        if isinstance(node.get(last), CfgNode):
            raise UserError(f"Override {key} replaces what another override sets below it: write its keys one by one.")
        node[last] = _decoded(value)
    return root


def _decoded(text: str) -> Any:
    """The value of an override: a Python literal, as in Detectron2, or a list as a YAML file has it."""
    value = CfgNode._decode_cfg_value(text)
    return parse_yaml(text) if value == text and text.startswith("[") else value
