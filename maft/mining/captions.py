"""Reads captions in COCO's format."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from HanTa.HanoverTagger import HanoverTagger
from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from maft.errors import UserError

# The corpus' noun tags by Penn Treebank's, which the paper lists. NN0 is a noun of either number, such as sheep.
PENN_TAGS = {"NN0": "NN", "NN1": "NN", "NN2": "NNS", "NP0": "NNP"}

_TOKENS = re.compile(r"[^\W_]+(?:-[^\W_]+)*|['’]s\b|[^\w\s]")
_WORD = re.compile(r"[^\W\d_][^\W_]*(?:-[^\W_]+)*")


def image_nouns(captions: Iterable[str]) -> tuple[str, ...]:
    """The nouns of all captions of an image in lower case, in order, each once; "dog" and "dogs" are two."""
    return tuple(dict.fromkeys(noun for caption in captions for noun in nouns_of(tag(caption))))


def tag(caption: str) -> list[tuple[str, str]]:
    """(word, tag) pairs in lower case: noun tags are Penn Treebank's (NN, NNS, NNP), others the tagger's own.

    Case is dropped before tagging: captions shout, and a capital at the start or in a title is not a name.
    """
    words = _TOKENS.findall(caption.lower())
    return [(word, PENN_TAGS.get(found, found)) for word, _, found in _tagger().tag_sent(words)] if words else []


def nouns_of(tagged: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """The words tagged NN, NNS, NNP or NNPS in lower case, each once; signs and numbers are left out."""
    nouns = (word.lower() for word, found in tagged if found in ("NN", "NNS", "NNP", "NNPS"))
    return tuple(dict.fromkeys(noun for noun in nouns if _WORD.fullmatch(noun)))


@cache
def _tagger() -> HanoverTagger:
    return HanoverTagger("morphmodel_en.pgz")


@dataclass(frozen=True)
class CaptionedImage:
    """One image of a captions file.

    Attributes:
        file_name: as the file gives it, relative to the folder of images.
        captions: in the order of their ids; may be empty.
    """

    file_name: str
    captions: tuple[str, ...]

    @property
    def stem(self) -> str:
        """File name without folder and suffix, by which label maps are found."""
        return Path(self.file_name).stem


class _Image(TypedDict):
    id: int
    file_name: str


class _Spoken(TypedDict):
    id: int
    image_id: int
    caption: str


class _Captions(TypedDict):
    images: list[_Image]
    annotations: list[_Spoken]


_CAPTIONS = TypeAdapter(_Captions)


def read_captions(path: str | os.PathLike[str]) -> list[CaptionedImage]:
    """The images of a captions file such as COCO's ``captions_train2017.json``, in the order of the file.

    Raises:
        UserError: the file is missing or has another format, or a caption names an image that the file does not list.
    """
    file = Path(path)
    try:
        content = _CAPTIONS.validate_json(file.read_bytes())
        names = {image["id"]: image["file_name"] for image in content["images"]}
        captions = [(spoken["image_id"], spoken["id"], spoken["caption"]) for spoken in content["annotations"]]
    except OSError as error:
        raise UserError(f"Captions file {file} cannot be read ({error.strerror}): check the path.") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise UserError(
            f'Captions file {file} is not in COCO\'s format ({place}: {first["msg"]}): it needs "images" with id and '
            'file_name, and "annotations" with id, image_id and caption.'
        ) from error
    strangers = {image_id for image_id, _, _ in captions} - names.keys()
    if strangers:
        raise UserError(
            f"Captions file {file} has captions of {len(strangers)} images that it does not list, the first is id "
            f"{min(strangers, key=str)}: use the file that belongs to these images."
        )
    found: dict[object, list[str]] = {image_id: [] for image_id in names}
    for image_id, _, caption in sorted(captions, key=lambda spoken: spoken[1]):
        found[image_id].append(caption)
    return [CaptionedImage(name, tuple(found[image_id])) for image_id, name in names.items()]
