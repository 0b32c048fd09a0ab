"""Masks that some other program has written to disk, as a proposer: PNG or COCO run-length encoding."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch import Tensor

from maft.clip import CLIPEncoder
from maft.data.reading import read_labels
from maft.errors import UserError
from maft.interfaces import Proposer
from maft.registry import PROPOSERS
from maft.structures import Images, Proposals, Targets, TextClassifier, proposals_of_masks


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

    def __init__(self, *, path: str) -> None:
        super().__init__()
        self.path = Path(path)
        if not self.path.exists():
            raise UserError(
                f"MODEL.PROPOSER.MaskFiles.PATH {path} does not exist: give a folder of masks or a COCO json file."
            )
        self._by_image: dict[str, list[dict[str, Any]]] | None = None

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
            files = sorted(stem.glob("*.png"))
            return _stacked([_checked(read_labels(file) != 0, size, str(file)) for file in files], size)
        map_file, list_file = stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.json")
        if map_file.is_file():
            values = _checked(read_labels(map_file), size, str(map_file))
            return _stacked([values == value for value in np.unique(values) if value != 0], size)
        if list_file.is_file():
            return _decoded(_annotations(list_file), size, str(list_file))
        raise UserError(
            f"No masks for {record['file_name']}: expected the folder {stem}, or {map_file.name} or {list_file.name} "
            f"in {self.path} (an empty folder stands for no mask)."
        )

    def _annotations_of(self, record: dict[str, Any]) -> list[dict[str, Any]]:
        if self._by_image is None:
            grouped = defaultdict(list)
            for annotation in _annotations(self.path):
                if "image_id" not in annotation:
                    raise UserError(f"An annotation in {self.path} has no image_id: masks of all images need it.")
                grouped[str(annotation["image_id"])].append(annotation)
            self._by_image = dict(grouped)
        if "image_id" not in record:
            raise UserError(f"{self.path} goes by image_id, but the image came without one: use a folder of masks.")
        return self._by_image.get(str(record["image_id"]), [])


def _resized(masks: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(masks.shape[-2:]) == size:
        return masks
    return F.interpolate(masks[:, None].float(), size, mode="bilinear", align_corners=False)[:, 0] >= 0.5


def _annotations(path: Path) -> list[dict[str, Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"Masks file {path} cannot be read as JSON: {error}.") from error
    entries = content.get("annotations") if isinstance(content, dict) else content
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"{path} must hold a list of COCO annotations, or an object with one under 'annotations'.")
    return entries


def _decoded(annotations: list[dict[str, Any]], size: tuple[int, int], place: str) -> NDArray[np.bool_]:
    masks = []
    for number, annotation in enumerate(annotations):
        where = f"annotation {number} of {place}"
        code = annotation.get("segmentation")
        if not code:
            raise UserError(f"{where} has no segmentation.")
        try:
            mask = _from_polygons(code, size) if isinstance(code, list) else _from_run_lengths(code, where)
        except (LookupError, TypeError, ValueError, ArithmeticError) as error:
            raise UserError(
                f"The segmentation of {where} is neither run-length encoded nor polygons of points near the image."
            ) from error
        masks.append(_checked(mask, size, where))
    return _stacked(masks, size)


def _from_polygons(code: list[Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    for polygon in code:
        points = np.array(polygon, dtype=np.float64)
        # The library allocates by coordinates, so that far ones exhaust the memory; NaN is not near either.
        if points.ndim != 1 or len(points) < 6 or len(points) % 2 or not (np.abs(points) <= 10 * max(size)).all():
            raise ValueError("it is no polygon near the image")
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(code, *size))).astype(bool)


def _from_run_lengths(code: dict[str, Any], where: str) -> NDArray[np.bool_]:
    """COCO's run lengths, column by column; the library's own decoder writes beyond a mask that they do not fill."""
    (height, width), counts = map(int, code["size"]), code["counts"]
    runs = np.array(_uncompressed(counts.encode("ascii")) if isinstance(counts, str) else counts, dtype=np.int64)
    if runs.ndim != 1 or (runs < 0).any() or sum(map(int, runs)) != height * width:
        raise UserError(f"The run lengths of {where} do not fill its {width}x{height} pixels: write the file again.")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def _uncompressed(text: bytes) -> NDArray[np.int64]:
    """The run lengths in COCO's text: groups of 5 bits, from the fourth on as differences to the one two before."""
    codes = np.frombuffer(text, dtype=np.uint8).astype(np.int64) - 48
    last = codes & 32 == 0
    if not last.any() or not last[-1]:
        raise ValueError("it ends within a number")
    first = np.concatenate(([0], np.flatnonzero(last)[:-1] + 1))
    shifts = 5 * (np.arange(len(codes)) - np.repeat(first, np.diff(np.append(first, len(codes)))))
    if shifts.max() > 50:
        raise ValueError("it has a number of more than 55 bits")
    runs = np.add.reduceat((codes & 31) << shifts, first)
    runs -= np.where(codes[last] & 16, 1 << shifts[last] + 5, 0)
    for start in (1, 2):
        runs[start::2] = runs[start::2].cumsum()
    return runs


def _checked(mask: NDArray[Any], size: tuple[int, int], place: str) -> NDArray[Any]:
    if mask.shape != size:
        found, expected = (f"{width}x{height}" for height, width in (mask.shape, size))
        raise UserError(f"The mask of {place} is {found}, but its image is {expected}: make them the same size.")
    return mask


def _stacked(masks: list[NDArray[np.bool_]], size: tuple[int, int]) -> NDArray[np.bool_]:
    return np.stack(masks) if masks else np.zeros((0, *size), dtype=bool)
