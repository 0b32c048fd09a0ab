"""A vocabulary with its examples as one safetensors file that people can share.

The metadata hold ``format`` "maft.vocabulary", ``version`` "1" and ``classes``, a JSON list with an entry a class:
``name``, ``seen`` (true, false or null), ``words``, ``added`` and the number of its ``examples``. Numbered from 0 over
all classes, example i has the tensors

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

from maft.errors import UserError, first_line
from maft.examples import MOST_EXAMPLES, MOST_PIXELS, Example, ExampleEmbeddings
from maft.files import atomic_path

FORMAT, VERSION = "maft.vocabulary", "1"
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
    metadata = {"format": FORMAT, "version": VERSION, "classes": json.dumps(classes, ensure_ascii=False)}
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
    if not os.path.isfile(file):
        raise UserError(f"The vocabulary file {file} does not exist: check its path.")
    if (size := os.path.getsize(file)) > _MOST_BYTES:
        raise UserError(f"{file} has {size} bytes, and a vocabulary file at most {_MOST_BYTES}: use fewer examples.")
    try:
        with safe_open(file, framework="pt") as content:
            metadata = dict(content.metadata() or {})
            _check_kind(metadata, file)
            tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
        return _fields(json.loads(metadata["classes"]), tensors)
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{file} is no readable vocabulary file ({first_line(error)}): copy it again, or write it with "
            "Vocabulary.save."
        ) from error
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"The vocabulary file {file} is damaged ({first_line(error) or type(error).__name__}): copy it again."
        ) from error


def _check_kind(metadata: Mapping[str, str], file: str) -> None:
    if metadata.get("format") != FORMAT:
        raise UserError(f"{file} is a safetensors file, but no vocabulary: write one with Vocabulary.save.")
    if (version := metadata.get("version")) != VERSION:
        raise UserError(
            f"{file} is a vocabulary file of version {version}, and this program reads version {VERSION}: update it."
        )


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
    own = {
        name.removeprefix(f"example.{number}."): tensor
        for name, tensor in tensors.items()
        if name.startswith(f"example.{number}.")
    }
    image = _decoded(own["image"])
    mask = own["mask"]
    height, width = image.shape[:2]
    if mask.dtype != torch.uint8 or mask.shape != (height, -(-width // 8)):
        raise ValueError(f"the mask of example {number} is not of the size of its image")
    unpacked = np.unpackbits(mask.numpy(), axis=1, count=width).astype(bool)
    known = [name.removeprefix(_EMBEDDINGS) for name in own if name.startswith(_EMBEDDINGS)]
    return Example(image, unpacked, tuple((fingerprint, _look(fingerprint, own, number)) for fingerprint in known))


def _decoded(content: Tensor) -> NDArray[np.uint8]:
    if content.dtype != torch.uint8 or content.ndim != 1:
        raise ValueError("an image is no list of bytes")
    try:
        with Image.open(io.BytesIO(content.numpy().tobytes()), formats=["PNG"]) as image:
            if image.width * image.height > MOST_PIXELS or image.mode != "RGB":
                raise ValueError(f"an image has {image.width}x{image.height} pixels of mode {image.mode}")
            return np.asarray(image)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(first_line(error)) from error


def _look(fingerprint: str, own: Mapping[str, Tensor], number: int) -> ExampleEmbeddings:
    embeddings, shares = own[_EMBEDDINGS + fingerprint], own[_SHARES + fingerprint]
    prefix = f"{_CONTEXT}{fingerprint}."
    context = {name.removeprefix(prefix): value for name, value in own.items() if name.startswith(prefix)}
    if embeddings.ndim != 2 or not embeddings.numel() or shares.shape != embeddings.shape[:1]:
        raise ValueError(f"the embeddings of example {number} do not fit each other")
    for value in (embeddings, shares, *context.values()):
        if value.dtype != torch.float32 or not value.isfinite().all():
            raise ValueError(f"the embeddings of example {number} are no finite numbers")
    return ExampleEmbeddings(embeddings, shares, context)
