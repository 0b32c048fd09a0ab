"""Reads captions in COCO's format."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from HanTa.HanoverTagger import HanoverTagger
from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from maft.errors import UserError, first_line
from maft.structures import as_clip_reads

# The corpus' noun tags by Penn Treebank's, which the paper lists. NN0 is a noun of either number, such as sheep.
PENN_TAGS = {"NN0": "NN", "NN1": "NN", "NN2": "NNS", "NP0": "NNP"}

# No word of English; the tagger takes the cube of a word's length, and CLIP reads at least a byte a token.
LONGEST_WORD = 50

_TOKENS = re.compile(r"[^\W_]+(?:-[^\W_]+)*|['’]s\b|[^\w\s]")
_WORD = re.compile(r"[^\W\d_][^\W_]*(?:-[^\W_]+)*")


def image_nouns(captions: Iterable[str]) -> tuple[str, ...]:
    """The nouns of all captions of an image in lower case, in order, each once; "dog" and "dogs" are two."""
    return tuple(dict.fromkeys(noun for caption in captions for noun in nouns_of(tag(caption))))


def tag(caption: str) -> list[tuple[str, str]]:
    """(word, tag) pairs in lower case: noun tags are Penn Treebank's (NN, NNS, NNP), others the tagger's own.

    Case is dropped before tagging: captions shout, and a capital at the start or in a title is not a name. Words of
    more than `LONGEST_WORD` bytes are left out.
    """
    words = [word for word in _words(caption) if not _overlong(word)]
    return [(word, PENN_TAGS.get(found, found)) for word, _, found in _tagger().tag_sent(words)] if words else []


def has_overlong_word(caption: str) -> bool:
    """Whether `tag` leaves out a word of a caption."""
    return len(caption.encode("utf-8", "replace")) > LONGEST_WORD and any(map(_overlong, _words(caption)))


def _words(caption: str) -> list[str]:
    return _TOKENS.findall(as_clip_reads(caption))


def _overlong(word: str) -> bool:
    return len(word.encode("utf-8", "replace")) > LONGEST_WORD


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
        UserError: the file is missing, has another format or lists no images or one twice, or a caption names an image
            that the file does not list.
    """
    file = Path(path)
    try:
        content = _CAPTIONS.validate_json(file.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise UserError(
            f'Captions file {file} is not in COCO\'s format ({place}: {first["msg"]}): it needs "images" with id and '
            'file_name, and "annotations" with id, image_id and caption.'
        ) from error
    except (OSError, ValueError) as error:
        # A path with a null byte is no OSError.
        reason = getattr(error, "strerror", None) or first_line(error)
        raise UserError(f"Captions file {file} cannot be read ({reason}): check the path.") from error
    names = {image["id"]: image["file_name"] for image in content["images"]}
    captions = [(spoken["image_id"], spoken["id"], spoken["caption"]) for spoken in content["annotations"]]
    if not names:
        raise UserError(f"Captions file {file} lists no images: give one that does.")
    if len(names) < len(content["images"]):
        twice = Counter(image["id"] for image in content["images"]).most_common(1)[0][0]
        raise UserError(f"Captions file {file} lists several images with the id {twice}: give each its own.")
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
