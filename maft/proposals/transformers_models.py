"""Models of the transformers library: reading them from safetensors alone, and sentences for what is missing."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from maft.errors import UserError, first_line, shown

_FILES = ("config.json", "model.safetensors")


@dataclass(frozen=True)
class Family:
    """How the transformers library names the models of one kind.

    Attributes:
        model: their class.
        since: the first release that has it; by default the least that this package takes.
        renamed: patterns of names in the files and what they become, where the library's own renaming does not do.
    """

    model: str
    since: str = "4.56"
    renamed: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Source:
    """Where a component's weights are to be found, for the messages.

    Attributes:
        weights: a folder with ``config.json`` and ``model.safetensors``, or a Hugging Face hub id.
        node: config key that says so.
        kind: what is wanted, in words: "a SAM model".
        example: a hub id of that kind.
    """

    weights: str
    node: str
    kind: str
    example: str


def load_model(source: Source, families: Mapping[str, Family]) -> Any:
    """A model in float32 and in evaluation mode, by the class that its ``model_type`` has in ``families``.

    Code that a repository brings along is never run, and weights are read from safetensors only. On the meta device
    the model has names and shapes alone.

    Raises:
        UserError: transformers is missing or too old, or the weights are missing, of another kind or incomplete.
    """
    kind = model_type(source)
    if kind not in families:
        known = ", ".join(sorted(families))
        raise UserError(
            f"{source.node} {source.weights} holds a model of the type {shown(kind)}: give {source.kind} ({known})."
        )
    model_class = transformers_class(families[kind].model, families[kind].since, source)
    with quietly(), _readable(source):
        if torch.get_default_device().type == "meta":
            # transformers refuses to read weights then.
            return model_class(model_class.config_class.from_pretrained(source.weights)).eval()
        model, loading = model_class.from_pretrained(
            source.weights,
            # By default the library rounds to the type that config.json names.
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
            key_mapping=families[kind].renamed,
        )
    if missing := sorted(loading["missing_keys"]):
        raise UserError(
            f"{source.node} {source.weights} is incomplete: it lacks {', '.join(missing[:3])}; download "
            "model.safetensors again."
        )
    refuse_infinite(source, model.named_parameters())
    return model.eval()


def refuse_infinite(source: Source, tensors: Iterable[tuple[str, Tensor]], file: str = "model.safetensors") -> None:
    """Raises `UserError` for the first of the named tensors that is not finite."""
    if name := next((name for name, value in tensors if not value.isfinite().all()), None):
        raise UserError(f"{source.node} {source.weights} is damaged: {name} is not finite; download {file} again.")


def model_type(source: Source) -> str:
    """``model_type`` of a folder's or repository's ``config.json``; raises `UserError` where there is none."""
    _check_place(source)
    transformers = _library(source)
    with quietly(), _readable(source):
        values, _ = transformers.PretrainedConfig.get_config_dict(source.weights)
        # Of a folder without the file the library makes an empty one.
        if "model_type" not in values:
            raise OSError("no config.json")
    return str(values["model_type"])


def transformers_class(name: str, since: str, source: Source) -> Any:
    """A class of the transformers library; raises `UserError` where the installed release is too old for it."""
    transformers = _library(source)
    if (found := getattr(transformers, name, None)) is None:
        raise UserError(
            f"{source.node} {source.weights} needs {name} of transformers {since} or newer, and "
            f"{transformers.__version__} is installed: pip install --upgrade transformers."
        )
    return found


@contextmanager
def quietly() -> Iterator[None]:
    """transformers prints errors only for the length of a with block: a checkpoint may hold more than is read of it."""
    import transformers

    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(verbosity)


def _library(source: Source) -> Any:
    try:
        import transformers
    except ImportError as error:
        raise UserError(
            f"{source.node} needs the transformers package, 4.56 or newer: pip install 'maft[sam]'."
        ) from error
    return transformers


def _check_place(source: Source) -> None:
    if os.path.isfile(source.weights):
        raise UserError(
            f"{source.node} {source.weights} is a file, but {source.kind} is read from a folder with config.json and "
            f"model.safetensors, as on https://huggingface.co/{source.example}/tree/main."
        )
    # A hub id has one slash at most, and no folder of its own before it.
    looks_like_a_path = source.weights.startswith((".", "~", os.sep)) or source.weights.count("/") > 1
    if looks_like_a_path and "://" not in source.weights and not os.path.isdir(source.weights):
        raise UserError(f"{source.node} {source.weights} does not exist: give a folder or a hub id.")
    if "://" in source.weights:
        raise UserError(f"{source.node} is {shown(source.weights)}: give a folder or a hub id, not an address.")


@contextmanager
def _readable(source: Source) -> Iterator[None]:
    """Turns what the library raises over missing or broken files into one sentence."""
    place = f"{source.node} {source.weights}"
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        # Configs are checked, and weights read, by code that raises whatever it meets.
        is_whole = all(os.path.isfile(os.path.join(source.weights, file)) for file in _FILES)
        if is_whole or not isinstance(error, (OSError, ValueError)):
            raise UserError(
                f"{place} cannot be read as {source.kind} ({first_line(error)[:200]}): correct its config.json, or "
                "download config.json and model.safetensors again."
            ) from error
        if os.path.exists(source.weights):
            raise UserError(
                f"{source.node} folder {source.weights} lacks a readable config.json or model.safetensors: download "
                f"both from https://huggingface.co/{source.example} (or another of {source.kind}) into it."
            ) from error
        raise UserError(
            f"{place} is neither a folder nor in the Hugging Face cache, and cannot be downloaded here: download "
            "config.json, model.safetensors and the other .json and .txt files (processor, tokenizer) from "
            f"https://huggingface.co/{source.weights} into a folder and set {source.node} to that folder."
        ) from error
