"""Masks that some other program has written to disk, as a proposer: PNG or COCO run-length encoding."""

from __future__ import annotations

import logging
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from torch import Tensor
from typing_extensions import NotRequired, TypedDict

from maft.clip import CLIPEncoder
from maft.data.headers import picture_sizes
from maft.data.reading import read_labels
from maft.data.segmentations import decode_segmentation
from maft.errors import UserError, first_line
from maft.files import read_json
from maft.interfaces import Proposer
from maft.registry import PROPOSERS
from maft.structures import Images, Proposals, Targets, TextClassifier, proposals_of_masks

logger = logging.getLogger(__name__)

# Of the masks of one image, one byte a pixel.
_MOST_BYTES = 2**32


class _Annotation(TypedDict):
    image_id: NotRequired[int | str]
    segmentation: NotRequired[Any]


class _Listed(TypedDict):
    id: NotRequired[int | str]
    height: NotRequired[int]
    width: NotRequired[int]


class _Table(TypedDict):
    annotations: list[_Annotation]
    images: NotRequired[list[_Listed]]


_TABLE = TypeAdapter(_Table)


@PROPOSERS.register()
class MaskFiles(Proposer):
    """Proposer: binary masks read from disk; for evaluation and prediction only, since they follow no augmentation.

    Args:
        path: a COCO json file for all images, whose annotations have an ``"image_id"`` that the dataset knows, or a
            folder which holds, for an image ``photos/cat.jpg``, the folder ``cat/``, ``cat.png`` or ``cat.json``:

            - ``cat/``: PNG files, one mask each, every pixel that is not 0 belonging to it;
            - ``cat.png``: one map, in which every value but 0 is a mask (8 or 16 bit);
            - ``cat.json``: a list of COCO annotations, or an object with that list under ``"annotations"``;

            An annotation's ``"segmentation"`` is run-length encoded (compressed or not) or made of polygons.

    Raises:
        UserError: the path does not exist.
    """

    sees_pixels = False

    def __init__(self, *, path: str) -> None:
        super().__init__()
        self.path = Path(path)
        if not (os.path.isfile(path) or os.path.isdir(path)):
            raise UserError(
                f"MODEL.PROPOSER.MaskFiles.PATH {path} is no folder and no file: give masks by a folder or a COCO json."
            )
        self._content: tuple[dict[str, list[_Annotation]], dict[str, list[_Listed]]] | None = None

    def check_records(self, records: Sequence[dict[str, Any]]) -> None:
        """Compares the images with those that masks are stored for; masks of others are counted in the log.

        A COCO json file says by its list ``"images"`` in which of them nothing was found. Without that list an image
        may lack masks as long as all stored masks belong to some image.

        Where records say the images' sizes, those of PNG files and of a COCO json file for all images are compared.

        Raises:
            UserError: images have no masks, two of them would get the same, or masks are of another size.
        """
        may_lack = False
        if self.path.is_file():
            asked = [self._image_id(record) for record in records]
            annotated, listed = self._stored()
            found = {*annotated, *listed}
            may_lack = not listed and found <= set(asked)
        else:
            asked = [Path(record["file_name"]).stem for record in records]
            known = set(asked)
            kept = [e for e in self.path.iterdir() if not e.name.startswith(".")]
            entries = [e.name if e.is_dir() else e.stem for e in kept if e.is_dir() or e.suffix in (".png", ".json")]
            found = set(entries)
            if double := _double(asked) or _double([entry for entry in entries if entry in known]):
                raise UserError(f"Masks in {self.path} are found by file names, and {double!r} stands for several.")
        known, without = set(asked), [image for image in asked if image not in found]
        if without and (not may_lack or len(without) == len(asked)):
            raise UserError(
                f"{self.path} has no masks for {len(without)} of {len(asked)} images, such as "
                f"{', '.join(without[:3])}; it has some for {', '.join(sorted(found - known)[:3]) or 'no others'}: "
                "give masks of these images (an empty folder, or an entry under 'images', stands for no mask)."
            )
        if without or found - known:
            logger.warning(
                "%s: %d of %d images have no masks, and masks of %d other images are not used.",
                self.path, len(without), len(asked), len(found - known),
            )  # fmt: skip
        self._check_sizes([record for record in records if {"height", "width"} <= record.keys()])

    def _check_sizes(self, records: Sequence[dict[str, Any]]) -> None:
        sizes = [(record["height"], record["width"]) for record in records]
        if self.path.is_file():
            annotations = self._stored()[0]
            for record, size in zip(records, sizes):
                place = self._check_listed(record, size)
                for annotation in annotations.get(self._image_id(record), []):
                    code = annotation.get("segmentation")
                    if isinstance(code, dict) and isinstance(code.get("size"), list):
                        _check_size(code["size"], size, place)
            return
        expected = {
            str(file): size
            for record, size in zip(records, sizes)
            for file in _pictures(self._place(record["file_name"]))
        }
        found = picture_sizes(list(expected), "Label map", "replace it")
        for (file, size), stored in zip(expected.items(), found):
            _check_size(stored, size, file)

    def forward(
        self,
        images: Images,
        text: TextClassifier,
        clip: CLIPEncoder,
        targets: list[Targets] | None = None,
        records: Sequence[dict[str, Any]] | None = None,
    ) -> Proposals:
        """Binary masks (B, Q, H, W) as floats, followed by slots that are not ``valid``.

        An image for which nothing is stored is an error; an empty folder, list or map is an image without proposals.

        Raises:
            UserError: a file is missing, unreadable or of another size than the image; or the model is training.
        """
        if self.training:
            raise UserError(
                "Masks from disk do not follow the augmentation of training images: train with another proposer."
            )
        if records is None:
            raise UserError("The MaskFiles proposer needs the images' file names: run it on a dataset or on files.")
        masks = []
        for record, size in zip(records, images.sizes, strict=True):
            original = (int(record.get("height", size[0])), int(record.get("width", size[1])))
            found = torch.from_numpy(self.read(record, original)).to(images.pixels.device)
            masks.append(_resized(found, size))
        return proposals_of_masks(masks, images)

    def read(self, record: dict[str, Any], size: tuple[int, int]) -> NDArray[np.bool_]:
        """The stored masks of one image: (n, *size) bool.

        Args:
            record: the image's Detectron2 dict.
            size: (height, width) the masks must have: the original image's.
        """
        if self.path.is_file():
            place = self._check_listed(record, size)
            return _decoded(self._stored()[0].get(self._image_id(record), []), size, place)
        if "file_name" not in record:
            raise UserError("Masks from disk are found by the image's file name, but the image came without one.")
        source = self._place(record["file_name"])
        files = _pictures(source)
        if source.is_dir():
            _check_memory(len(files), size, str(source))
            return _stacked([_read(file, size) != 0 for file in files], size)
        if files:
            values = _read(source, size)
            present = [value for value in np.unique(values) if value != 0]
            _check_memory(len(present), size, str(source))
            return _stacked([values == value for value in present], size)
        annotations, images = _annotations(source)
        for image in images:
            _check_stated(image, size, str(source))
        return _decoded(annotations, size, str(source))

    def _place(self, name: str) -> Path:
        """The folder or file that holds the masks of an image."""
        stem = self.path / Path(name).stem
        files = [stem.with_name(f"{stem.name}{suffix}") for suffix in (".png", ".json")]
        found = [path for path in (stem, *files) if (path.is_dir() if path == stem else path.is_file())]
        if len(found) > 1:
            raise UserError(f"Masks of {name} are in {found[0]} and in {found[1]}: keep one of them.")
        if not found:
            raise UserError(
                f"No masks for {name}: expected the folder {stem}, or {files[0].name} or {files[1].name} in "
                f"{self.path} (an empty folder stands for no mask)."
            )
        return found[0]

    def _image_id(self, record: dict[str, Any]) -> str:
        if "image_id" not in record:
            raise UserError(f"{self.path} goes by image_id, but the image came without one: use a folder of masks.")
        return str(record["image_id"])

    def _check_listed(self, record: dict[str, Any], size: tuple[int, int]) -> str:
        """Compares what the file lists of an image with its size; returns how messages call its masks."""
        image_id = self._image_id(record)
        place = f"{self.path}, image {image_id}"
        for image in self._stored()[1].get(image_id, []):
            _check_stated(image, size, place)
        return place

    def _stored(self) -> tuple[dict[str, list[_Annotation]], dict[str, list[_Listed]]]:
        """Annotations and entries of the list of images, both by image."""
        if self._content is None:
            grouped, listed = defaultdict(list), defaultdict(list)
            annotations, images = _annotations(self.path)
            for annotation in annotations:
                if "image_id" not in annotation:
                    raise UserError(f"An annotation in {self.path} has no image_id: masks of all images need it.")
                grouped[str(annotation["image_id"])].append(annotation)
            for image in images:
                if "id" in image:
                    listed[str(image["id"])].append(image)
            self._content = dict(grouped), dict(listed)
        return self._content


def _double(names: list[str]) -> str:
    return next((name for name, count in Counter(names).items() if count > 1), "")


def _resized(masks: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(masks.shape[-2:]) == size:
        return masks
    return F.interpolate(masks[:, None].float(), size, mode="bilinear", align_corners=False)[:, 0] >= 0.5


def _pictures(place: Path) -> list[Path]:
    """The PNG files among the masks of an image.

    Raises:
        UserError: there are other files in their folder.
    """
    if not place.is_dir():
        return [place] if place.suffix == ".png" else []
    files = sorted(file for file in place.iterdir() if not file.name.startswith("."))
    if strays := [file for file in files if file.suffix.lower() != ".png"]:
        raise UserError(f"{strays[0]} is no PNG file: a folder of masks holds one PNG a mask and nothing else.")
    return files


def _annotations(path: Path) -> tuple[list[_Annotation], list[_Listed]]:
    """The annotations of a COCO json file and its list of images, which may be missing."""
    try:
        content = read_json(path)
        table = _TABLE.validate_python(content if isinstance(content, dict) else {"annotations": content}, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UserError(
            f"{path} must hold a list of COCO annotations, or an object with one under 'annotations' "
            f"({'.'.join(map(str, first['loc']))}: {first['msg']})."
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(f"Masks file {path} cannot be read as JSON: {first_line(error)}.") from error
    return table["annotations"], table.get("images", [])


def _decoded(annotations: list[_Annotation], size: tuple[int, int], place: str) -> NDArray[np.bool_]:
    _check_memory(len(annotations), size, place)
    masks = [
        decode_segmentation(annotation.get("segmentation"), size, f"annotation {number} of {place}")
        for number, annotation in enumerate(annotations)
    ]
    return _stacked(masks, size)


def _check_memory(count: int, size: tuple[int, int], place: str) -> None:
    if count * size[0] * size[1] > _MOST_BYTES:
        raise UserError(
            f"{place} holds {count} masks of {size[1]}x{size[0]} pixels, more than {_MOST_BYTES // 2**30} GiB for one "
            "image: keep the best of them, or shrink image and masks."
        )


def _read(file: Path, size: tuple[int, int]) -> NDArray[np.int32]:
    values = read_labels(file)
    _check_size(values.shape, size, str(file))
    return values


def _check_stated(image: _Listed, size: tuple[int, int], place: str) -> None:
    if "height" in image and "width" in image:
        _check_size((image["height"], image["width"]), size, place)


def _check_size(found: Sequence[Any], size: tuple[int, int], place: str) -> None:
    if tuple(found) != size:
        stored, expected = ("x".join(map(str, reversed(one))) for one in (found, size))
        raise UserError(f"The mask of {place} is {stored}, but its image is {expected}: make them the same size.")


def _stacked(masks: list[NDArray[np.bool_]], size: tuple[int, int]) -> NDArray[np.bool_]:
    return np.stack(masks) if masks else np.zeros((0, *size), dtype=bool)
