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
from torch import Tensor

from maft.clip import CLIPEncoder
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
        if not os.path.exists(path):
            raise UserError(
                f"MODEL.PROPOSER.MaskFiles.PATH {path} does not exist: give a folder of masks or a COCO json file."
            )
        self._content: tuple[dict[str, list[dict[str, Any]]], set[str]] | None = None

    def check_records(self, records: Sequence[dict[str, Any]]) -> None:
        """Compares the images with those that masks are stored for; masks of others are counted in the log.

        A COCO json file says by its list ``"images"`` in which of them nothing was found. Without that list an image
        may lack masks as long as all stored masks belong to some image.

        Raises:
            UserError: images have no masks, or two of them would get the same.
        """
        may_lack = False
        if self.path.is_file():
            asked = [str(record.get("image_id")) for record in records]
            annotated, listed = self._stored()
            found = {*annotated, *listed}
            may_lack = not listed and found <= set(asked)
        else:
            asked = [Path(record["file_name"]).stem for record in records]
            known = set(asked)
            entries = [e.name if e.is_dir() else e.stem for e in self.path.iterdir() if not e.name.startswith(".")]
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
            return _decoded(self._annotations_of(record), size, f"{self.path}, image {record.get('image_id')}")
        if "file_name" not in record:
            raise UserError("Masks from disk are found by the image's file name, but the image came without one.")
        stem = self.path / Path(record["file_name"]).stem
        if stem.is_dir():
            files = sorted(file for file in stem.iterdir() if not file.name.startswith("."))
            if strays := [file for file in files if file.suffix.lower() != ".png"]:
                raise UserError(f"{strays[0]} is no PNG file: a folder of masks holds one PNG a mask and nothing else.")
            _check_memory(len(files), size, str(stem))
            return _stacked([_checked(read_labels(file) != 0, size, str(file)) for file in files], size)
        map_file, list_file = stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.json")
        if map_file.is_file():
            values = _checked(read_labels(map_file), size, str(map_file))
            present = [value for value in np.unique(values) if value != 0]
            _check_memory(len(present), size, str(map_file))
            return _stacked([values == value for value in present], size)
        if list_file.is_file():
            return _decoded(_annotations(list_file)[0], size, str(list_file))
        raise UserError(
            f"No masks for {record['file_name']}: expected the folder {stem}, or {map_file.name} or {list_file.name} "
            f"in {self.path} (an empty folder stands for no mask)."
        )

    def _annotations_of(self, record: dict[str, Any]) -> list[dict[str, Any]]:
        if "image_id" not in record:
            raise UserError(f"{self.path} goes by image_id, but the image came without one: use a folder of masks.")
        return self._stored()[0].get(str(record["image_id"]), [])

    def _stored(self) -> tuple[dict[str, list[dict[str, Any]]], set[str]]:
        """Annotations by image, and the images that the file lists."""
        if self._content is None:
            grouped = defaultdict(list)
            annotations, images = _annotations(self.path)
            for annotation in annotations:
                if "image_id" not in annotation:
                    raise UserError(f"An annotation in {self.path} has no image_id: masks of all images need it.")
                grouped[str(annotation["image_id"])].append(annotation)
            self._content = dict(grouped), {str(image["id"]) for image in images if "id" in image}
        return self._content


def _double(names: list[str]) -> str:
    return next((name for name, count in Counter(names).items() if count > 1), "")


def _resized(masks: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(masks.shape[-2:]) == size:
        return masks
    return F.interpolate(masks[:, None].float(), size, mode="bilinear", align_corners=False)[:, 0] >= 0.5


def _annotations(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The annotations of a COCO json file and its list of images, which may be missing."""
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"Masks file {path} cannot be read as JSON: {first_line(error)}.") from error
    table = content if isinstance(content, dict) else {"annotations": content}
    annotations, images = table.get("annotations", 0), table.get("images", [])
    for entries in (annotations, images):
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise UserError(f"{path} must hold a list of COCO annotations, or an object with one under 'annotations'.")
    return annotations, images


def _decoded(annotations: list[dict[str, Any]], size: tuple[int, int], place: str) -> NDArray[np.bool_]:
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


def _checked(mask: NDArray[Any], size: tuple[int, int], place: str) -> NDArray[Any]:
    if mask.shape != size:
        found, expected = (f"{width}x{height}" for height, width in (mask.shape, size))
        raise UserError(f"The mask of {place} is {found}, but its image is {expected}: make them the same size.")
    return mask


def _stacked(masks: list[NDArray[np.bool_]], size: tuple[int, int]) -> NDArray[np.bool_]:
    return np.stack(masks) if masks else np.zeros((0, *size), dtype=bool)
