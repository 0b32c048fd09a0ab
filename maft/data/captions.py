"""Reads captions in COCO's format."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from maft.errors import UserError


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


def read_captions(path: str | os.PathLike[str]) -> list[CaptionedImage]:
    """The images of a captions file such as COCO's ``captions_train2017.json``, in the order of the file.

    Raises:
        UserError: the file is missing or has another format, or a caption names an image that the file does not list.
    """
    file = Path(path)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        names = {image["id"]: str(image["file_name"]) for image in content["images"]}
        annotations = [(entry["image_id"], entry["id"], str(entry["caption"])) for entry in content["annotations"]]
    except OSError as error:
        raise UserError(f"Captions file {file} cannot be read ({error.strerror}): check the path.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f'Captions file {file} is not in COCO\'s format ({error}): it needs "images" with id and file_name, and '
            '"annotations" with id, image_id and caption.'
        ) from error
    strangers = {image_id for image_id, _, _ in annotations} - names.keys()
    if strangers:
        raise UserError(
            f"Captions file {file} has captions of {len(strangers)} images that it does not list, the first is id "
            f"{min(strangers, key=str)}: use the file that belongs to these images."
        )
    found: dict[object, list[str]] = {image_id: [] for image_id in names}
    for image_id, _, caption in sorted(annotations, key=lambda entry: entry[1]):
        found[image_id].append(caption)
    return [CaptionedImage(name, tuple(found[image_id])) for image_id, name in names.items()]
