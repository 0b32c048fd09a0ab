"""Reads weights from any file without executing it, and writes safetensors atomically."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from maft.checkpoint.formats import format_of
from maft.checkpoint.torchscript import DAMAGE, read_torchscript
from maft.errors import UserError
from maft.files import atomic_path

# What NumPy's own arrays need to be rebuilt; none of them calls anything of the file's choosing.
_ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("_codecs", "encode"),
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}")
        if module == "numpy.core.multiarray":
            # NumPy 2 moved it; the old name works with a warning only.
            import numpy

            module = "numpy._core.multiarray" if int(numpy.__version__.split(".")[0]) >= 2 else module
        return super().find_class(module, name)


def load_plain_pickle(path: Path) -> Any:
    """Content of a pickle made of dicts, lists, strings, numbers and NumPy arrays.

    Raises:
        UserError: the file is damaged, or holds anything else.
    """
    try:
        with open(path, "rb") as file:
            return _PlainUnpickler(file).load()
    except (pickle.UnpicklingError, *DAMAGE) as error:
        raise UserError(f"{path} is not plain data ({error}): download it again from the official page.") from None


_WRAPPERS = ("model", "state_dict", "model_state_dict")
# What torch.compile and data-parallel training put before names, and Lightning and its like before all of them.
_COMPILED, _PARALLEL, _OWNER = "_orig_mod.", "module.", "model."
_DEEPEST = 4  # A damaged file may hold a wrapper that lies in itself.


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Tensors by name from a safetensors file, a torch checkpoint or a TorchScript archive, on the CPU.

    A folder stands for the ``model.safetensors`` in it; the format of a file is seen by its content. Torch files are
    loaded with ``weights_only=True``, and of a pickle (Detectron2's backbones) plain data alone is read; the usual
    wrappers (``model``, ``state_dict``) and prefixes (``module.``, ``_orig_mod.``, and ``model.`` where all names have
    it) are taken off; NumPy arrays become tensors.

    Raises:
        UserError: the file is missing, truncated, not a checkpoint, or needs code to be executed.
    """
    file = Path(path)
    if os.path.isdir(file):
        file = file / "model.safetensors"
    if not os.path.isfile(file):
        raise UserError(
            f"Checkpoint {file} does not exist: check the path where it is named (MODEL.WEIGHTS, MODEL.START_FROM or "
            "the command line)."
        )
    readers = {
        "safetensors": _read_safetensors,
        "torch": _read_torch,
        "torchscript": read_torchscript,
        "pickle": load_plain_pickle,
    }
    return _named(_unwrap(readers[format_of(file)](file), file), file)


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The string metadata of a safetensors file; empty when it has none."""
    with safe_open(str(path), framework="pt") as file:
        return dict(file.metadata() or {})


def write_safetensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None
) -> None:
    """Writes tensors atomically; metadata values that are not strings are stored as JSON."""
    text = {key: value if isinstance(value, str) else json.dumps(value) for key, value in (metadata or {}).items()}
    # safetensors refuses tensors that share memory, which tied weights and expanded buffers do
    flat = {name: tensor.detach().to("cpu").contiguous().clone() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(flat, str(temporary), metadata=text or None)


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except SafetensorError as error:
        raise UserError(f"{file} is not a readable safetensors file ({error}): download or copy it again.") from error


def _read_torch(file: Path) -> Any:
    try:
        # By its name, torch.load would take it for a safetensors file.
        with open(file, "rb") as stream:
            return torch.load(stream, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, *DAMAGE, OSError) as error:
        if isinstance(error, pickle.UnpicklingError):
            raise UserError(
                f"{file} is not a checkpoint, or holds more than tensors and would execute code when loaded, which is "
                "refused: convert it to safetensors where you trust it."
            ) from error
        raise UserError(f"{file} is truncated or not a checkpoint: download or copy it again.") from error


def _unwrap(content: Any, file: Path) -> dict[str, Tensor]:
    state = content if isinstance(content, Mapping) else {}
    for _ in range(_DEEPEST):
        state = next((state[key] for key in _WRAPPERS if isinstance(state.get(key), Mapping)), state)
    tensors = {str(name): _dense(value, str(name), file) for name, value in state.items() if _is_array(value)}
    if not tensors:
        raise UserError(f"{file} holds no named tensors: it is not a model checkpoint.")
    # Views of a few numbers may have any size.
    size, most = sum(value.numel() * value.element_size() for value in tensors.values()), file.stat().st_size
    if size > 16 * most + (1 << 20):
        raise UserError(f"{file} has {most} bytes and claims tensors of {size}: it would fill the memory with nothing.")
    return tensors


def _named(tensors: Mapping[str, Tensor], file: Path) -> dict[str, Tensor]:
    """The tensors without what wrappers of the model put before their names."""
    found: dict[str, Tensor] = {}
    for name, value in tensors.items():
        plain = name.replace(_COMPILED, "")
        while plain.startswith(_PARALLEL):
            plain = plain.removeprefix(_PARALLEL)
        if plain in found:
            raise UserError(
                f"{file} holds {plain} twice, with and without a prefix: save the model's state_dict alone."
            )
        found[plain] = value
    # A CLIP by itself is called model by us.
    if f"{_OWNER}logit_scale" in found or not all(name.startswith(_OWNER) for name in found):
        return found
    return _named({name.removeprefix(_OWNER): value for name, value in found.items()}, file)


def _dense(value: Any, name: str, file: Path) -> Tensor:
    try:
        tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise UserError(f"{file} holds no numbers under {name}: it is not a model checkpoint.") from None
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex() or tensor.is_meta:
        kind = "quantised" if tensor.is_quantized else "complex" if tensor.is_complex() else "sparse or empty"
        raise UserError(f"{file} holds a {kind} tensor under {name}: save it as a dense tensor of real numbers.")
    return tensor


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor) or type(value).__module__ == "numpy"
