"""A vocabulary with its examples as one safetensors file that people can share.

The metadata have one entry, ``maft.vocabulary``, a JSON object of ``version``, 1, and ``classes``, a list with an entry
a class: ``name``, ``seen`` (true, false or null), ``words``, ``added`` and the number of its ``examples``. Numbered
from 0 over all classes, example i has the tensors

    example.i.image                     (n,) uint8, the bytes of a PNG file
    example.i.mask                      (H, ceil(W / 8)) uint8, the rows of the mask, eight pixels a byte
    example.i.embeddings.FINGERPRINT    (1 + K, D) float32, what a model saw of it, see `maft.examples`
    example.i.shares.FINGERPRINT        (1 + K,) float32
    example.i.context.FINGERPRINT.NAME  float32 of any shape

of which the last three are there for each model that has looked at it, with as many contexts as it has.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from maft.errors import UserError, first_line, shown
from maft.examples import MOST_EXAMPLES, MOST_PIXELS, Example, ExampleEmbeddings
from maft.files import atomic_path

# Of several entries, safetensors would leave the order to chance.
METADATA, VERSION = "maft.vocabulary", 1
# Five photographs of each of some dozen classes; a header that claims more would fill the memory.
_MOST_BYTES = 1 << 30
_EMBEDDINGS, _SHARES, _CONTEXT = "embeddings.", "shares.", "context."


def write_vocabulary(
    path: str | os.PathLike[str],
    names: Sequence[str],
    seen: Sequence[bool] | None,
    examples: Sequence[Sequence[Example]],
    words: Sequence[bool],
    added: Sequence[bool],
) -> None:
    """Writes the fields of a `maft.structures.Vocabulary`.

    Raises:
        UserError: the file cannot be written.
    """
    classes = [
        {
            "name": name,
            "seen": None if seen is None else bool(seen[index]),
            "words": bool(words[index]) if words else True,
            "added": bool(added[index]) if added else False,
            "examples": len(examples[index]) if examples else 0,
        }
        for index, name in enumerate(names)
    ]
    listed = [example for of_class in examples for example in of_class]
    tensors = {
        f"example.{number}.{name}": tensor
        for number, example in enumerate(listed)
        for name, tensor in _tensors_of(example)
    }
    metadata = {METADATA: json.dumps({"version": VERSION, "classes": classes}, ensure_ascii=False)}
    with atomic_path(path) as temporary:
        save_file(tensors, str(temporary), metadata=metadata)


def _tensors_of(example: Example) -> Iterator[tuple[str, Tensor]]:
    stream = io.BytesIO()
    Image.fromarray(example.image).save(stream, format="PNG")
    yield "image", torch.frombuffer(bytearray(stream.getvalue()), dtype=torch.uint8)
    yield "mask", torch.from_numpy(np.packbits(example.mask, axis=1))
    for fingerprint, look in example.looks:
        yield _EMBEDDINGS + fingerprint, look.embeddings.contiguous()
        yield _SHARES + fingerprint, look.shares.contiguous()
        for name, value in look.context.items():
            yield f"{_CONTEXT}{fingerprint}.{name}", value.contiguous()


def read_vocabulary(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The fields of a `maft.structures.Vocabulary`.

    Raises:
        UserError: the file cannot be read, is none of these or of a later version, or is damaged.
    """
    file = os.fspath(path)
    if not os.path.exists(file):
        raise UserError(f"The vocabulary file {file} does not exist: check its path.")
    if not os.path.isfile(file):
        kind = "a folder" if os.path.isdir(file) else "no regular file"
        raise UserError(f"{file} is {kind}: give the path of a vocabulary file.")
    if (size := os.path.getsize(file)) > _MOST_BYTES:
        raise UserError(f"{file} has {size} bytes, and a vocabulary file at most {_MOST_BYTES}: use fewer examples.")
    try:
        with safe_open(file, framework="pt") as content:
            header = _header(content.metadata() or {}, file)
            tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
        return _fields(header["classes"], tensors)
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{file} is no readable vocabulary file ({first_line(error)}): copy it again, or write it with "
            "Vocabulary.save."
        ) from error
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else first_line(error)
        raise UserError(f"The vocabulary file {file} is damaged ({reason}): copy it again.") from error


def _header(metadata: Mapping[str, str], file: str) -> dict[str, Any]:
    if METADATA not in metadata:
        raise UserError(f"{file} is a safetensors file, but no vocabulary: write one with Vocabulary.save.")
    try:
        header = json.loads(metadata[METADATA])
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(header, dict):
        raise ValueError("its metadata are no JSON object")
    if type(version := header["version"]) is not int or version != VERSION:
        raise UserError(
            f"{file} is a vocabulary file of version {shown(version)}, and this program reads version {VERSION}: "
            "update it."
        )
    return header


def _fields(classes: Any, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    if not isinstance(classes, list) or not all(isinstance(one, dict) for one in classes):
        raise ValueError("its classes are no list")
    counts = [one["examples"] for one in classes]
    if not all(type(count) is int and 0 <= count <= MOST_EXAMPLES for count in counts):
        raise ValueError(f"a class has no number of examples from 0 to {MOST_EXAMPLES}")
    flags = [one[key] for one in classes for key in ("words", "added")] + [one["seen"] for one in classes]
    if not all(flag is None or type(flag) is bool for flag in flags):
        raise ValueError("a flag is neither true nor false")
    numbers = iter(range(sum(counts)))
    examples = tuple(tuple(_example(next(numbers), tensors) for _ in range(count)) for count in counts)
    seen = tuple(one["seen"] for one in classes)
    return {
        "names": tuple(one["name"] for one in classes),
        "seen": None if None in seen else seen,
        "examples": examples,
        "words": tuple(bool(one["words"]) for one in classes),
        "added": tuple(bool(one["added"]) for one in classes),
    }


def _example(number: int, tensors: Mapping[str, Tensor]) -> Example:
    place = f"example.{number}."
    own = {name.removeprefix(place): tensor for name, tensor in tensors.items() if name.startswith(place)}
    image = _decoded(tensors[place + "image"], number)
    mask = tensors[place + "mask"]
    height, width = image.shape[:2]
    if mask.dtype != torch.uint8 or mask.shape != (height, -(-width // 8)):
        raise ValueError(f"the mask of example {number} is not of the size of its image")
    unpacked = np.unpackbits(mask.numpy(), axis=1, count=width).astype(bool)
    known = [name.removeprefix(_EMBEDDINGS) for name in own if name.startswith(_EMBEDDINGS)]
    return Example(image, unpacked, tuple((fingerprint, _look(fingerprint, own, number)) for fingerprint in known))


def _decoded(content: Tensor, number: int) -> NDArray[np.uint8]:
    if content.dtype != torch.uint8 or content.ndim != 1:
        raise ValueError(f"the image of example {number} is no list of bytes")
    try:
        with Image.open(io.BytesIO(content.numpy().tobytes()), formats=["PNG"]) as image:
            if image.width * image.height > MOST_PIXELS or image.mode != "RGB":
                raise ValueError(
                    f"the image of example {number} has {image.width}x{image.height} pixels of mode {image.mode}"
                )
            return np.asarray(image)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"the image of example {number} is no PNG file that can be read") from error


def _look(fingerprint: str, own: Mapping[str, Tensor], number: int) -> ExampleEmbeddings:
    if (name := _SHARES + fingerprint) not in own:
        raise KeyError(f"example.{number}.{name}")
    embeddings, shares = own[_EMBEDDINGS + fingerprint], own[name]
    prefix = f"{_CONTEXT}{fingerprint}."
    context = {name.removeprefix(prefix): value for name, value in own.items() if name.startswith(prefix)}
    if embeddings.ndim != 2 or not embeddings.numel() or shares.shape != embeddings.shape[:1]:
        raise ValueError(f"the embeddings of example {number} do not fit each other")
    for value in (embeddings, shares, *context.values()):
        _check_numbers(value, number)
    if shares[0] != 1 or not ((shares >= 0) & (shares <= 1)).all():
        raise ValueError(f"the shares of example {number} are not 1 and others from 0 to 1")
    look = ExampleEmbeddings(embeddings, shares, context)
    if not look.elsewhere.any():
        raise ValueError(f"a model saw nothing but example {number}")
    return look


def _check_numbers(value: Tensor, number: int) -> None:
    if value.dtype != torch.float32:
        raise ValueError(
            f"the embeddings of example {number} are {str(value.dtype).removeprefix('torch.')}, not float32"
        )
    if not value.numel():
        raise ValueError(f"the embeddings of example {number} are empty")
    if not value.isfinite().all():
        raise ValueError(f"the embeddings of example {number} are no finite numbers")
