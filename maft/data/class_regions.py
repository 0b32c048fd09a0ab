"""Samples of prompt learning: an image and one class that is present in it, cut to where the class is (ZSSeg)."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as TF
from tqdm import tqdm

from maft.data.augmentations import transform_labels
from maft.data.mappers import check_labels, label_set
from maft.data.reading import Record, read_image, read_labels
from maft.errors import UserError

# (top, left, height, width) in pixels.
Box = tuple[int, int, int, int]
# Label maps are read by this many threads at once.
_READERS = 8


def class_records(records: Sequence[Record], num_classes: int, ignore_label: int, per_class: int = 0) -> list[Record]:
    """The records once for each class in their label maps, with it under ``category``; sorted by class.

    Args:
        per_class: of a class with at least so many images, so many are drawn, with replacement and always the same;
            0 takes all.

    Raises:
        UserError: a label map is missing or broken, or holds an unknown id.
    """
    present = partial(_classes_of, num_classes=num_classes, ignore_label=ignore_label)
    with ThreadPoolExecutor(_READERS) as readers:
        reading = tqdm(
            readers.map(present, records), "Reading label maps", len(records), delay=2, leave=False, disable=None
        )
        found = list(reading)
    draws = np.random.default_rng(0)
    having: list[list[Record]] = [[] for _ in range(num_classes)]
    for record, classes in zip(records, found):
        for category in classes:
            having[category].append(record)
    samples: list[Record] = []
    for category, own in enumerate(having):
        if per_class and len(own) >= per_class:
            own = [own[index] for index in draws.choice(len(own), per_class)]
        samples += ({**record, "category": category} for record in own)
    return samples


def _classes_of(record: Record, *, num_classes: int, ignore_label: int) -> frozenset[int]:
    if "sem_seg_file_name" not in record:
        raise UserError(f"Image {record['file_name']} has no semantic labels (sem_seg_file_name): add them or drop it.")
    labels = read_labels(record["sem_seg_file_name"])
    check_labels(labels, num_classes, ignore_label, record["sem_seg_file_name"])
    return frozenset(np.unique(labels).tolist()) - {ignore_label}


def mask_box(mask: NDArray[np.bool_], *, keep_border: bool = True) -> Box:
    """The tight box of a mask with a pixel.

    Args:
        keep_border: False is the official rule, by which a box loses the last row and column of the image.
    """
    occupied = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    (top, bottom), (left, right) = ((int(found[0]), int(found[-1]) + 1) for found in occupied)
    if not keep_border:
        bottom, right = min(bottom, mask.shape[0] - 1), min(right, mask.shape[1] - 1)
    return top, left, max(bottom - top, 1), max(right - left, 1)


def resized_crop(
    image: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    box: Box,
    size: tuple[int, int],
    *,
    flip: bool,
    label_resize: str = "pillow",
) -> tuple[Tensor, Tensor]:
    """Cuts a box out of an image (H, W, 3) and its mask (H, W), resizes and mirrors both.

    Args:
        label_resize: "pillow" or "torch", see `maft.data.augmentations.LabelledImage`.

    Returns:
        pixels (3, h, w) uint8, bilinear as Pillow has it, and the mask (1, h, w) bool, nearest neighbour.
    """
    top, left, height, width = box
    rows, columns = slice(top, top + height), slice(left, left + width)
    resize = T.ResizeTransform(height, width, *size, Image.Resampling.BILINEAR)
    # What Pillow gives is read-only, which PyTorch warns of.
    pixels = torch.from_numpy(resize.apply_image(image[rows, columns]).copy()).permute(2, 0, 1)
    labels = transform_labels(resize, mask[rows, columns].astype(np.uint8), label_resize)
    shown = torch.from_numpy(labels.astype(bool))[None]
    return (pixels.flip(-1), shown.flip(-1)) if flip else (pixels.contiguous(), shown)


def box_crop(image: NDArray[np.uint8], mask: NDArray[np.bool_], box: Box) -> tuple[Tensor, Tensor]:
    """Cuts a box out of an image and its mask: pixels (3, h, w) uint8 and the mask (1, h, w) bool."""
    top, left, height, width = box
    rows, columns = slice(top, top + height), slice(left, left + width)
    pixels, shown = (torch.from_numpy(part[rows, columns].copy()) for part in (image, mask))
    return pixels.permute(2, 0, 1), shown[None]


def centre_crop(image: NDArray[np.uint8], mask: NDArray[np.bool_], box: Box, side: int) -> tuple[Tensor, Tensor]:
    """Cuts a box out of an image and its mask, and of that the middle; black surrounds what is smaller.

    Returns:
        pixels (3, side, side) uint8 and the mask (1, side, side) bool; nothing is resized.
    """
    pixels, shown = (TF.center_crop(part, [side, side]) for part in box_crop(image, mask, box))
    return pixels, shown


class ClassRegionMapper:
    """Reads the image of a record and cuts it to the class under ``category``.

    In training a random part of the box, of 8 to 100 % of its area and a ratio of sides between 3:4 and 4:3, is resized
    to ``size``; at test its middle is taken as it is.

    Args:
        size: (height, width) of training samples; samples at test are squares of the width.
        is_train: which of the two.
        keep_border: see `mask_box`.
        flip: mirror every other sample in training.
        image_format: RGB or BGR.
        label_resize: see `resized_crop`.

    A call returns ``region`` (3, h, w) uint8, ``mask`` (1, h, w) bool and ``category``, or None where the crop lost the
    class.

    Raises:
        UserError: image or label map is missing or broken, or their sizes differ.
    """

    def __init__(
        self,
        size: tuple[int, int],
        *,
        is_train: bool,
        keep_border: bool = True,
        flip: bool = True,
        image_format: str = "RGB",
        label_resize: str = "pillow",
    ) -> None:
        self.size, self.is_train, self.keep_border, self.flip = size, is_train, keep_border, flip
        self.image_format, self.label_resize = image_format, label_resize

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool) -> ClassRegionMapper:
        """The mapper that ``cfg.INPUT`` describes."""
        options = cfg.INPUT.REGIONS
        return cls(
            (options.HEIGHT or options.SIZE, options.SIZE),
            is_train=is_train,
            keep_border=options.KEEP_BORDER,
            flip=cfg.INPUT.RANDOM_FLIP == "horizontal",
            image_format=cfg.INPUT.FORMAT,
            label_resize=cfg.INPUT.LABEL_RESIZE,
        )

    def __call__(self, record: Record) -> Record | None:
        image = read_image(record["file_name"], self.image_format)
        mask = read_labels(record["sem_seg_file_name"]) == record["category"]
        if mask.shape != image.shape[:2]:
            raise UserError(
                f"Label map {record['sem_seg_file_name']} is {mask.shape[1]}x{mask.shape[0]}, but its image "
                f"{record['file_name']} is {image.shape[1]}x{image.shape[0]}."
            )
        box = mask_box(mask, keep_border=self.keep_border)
        region, shown = self.cut(image, mask, box)
        if not shown.any():
            return None
        return {"region": region, "mask": shown, "category": record["category"], "file_name": record["file_name"]}

    def cut(self, image: NDArray[np.uint8], mask: NDArray[np.bool_], box: Box) -> tuple[Tensor, Tensor]:
        """What of an image (H, W, 3) and a mask (H, W) becomes ``region`` and ``mask``, given the mask's box."""
        return self._drawn(image, mask, box) if self.is_train else centre_crop(image, mask, box, self.size[1])

    def _drawn(self, image: NDArray[np.uint8], mask: NDArray[np.bool_], box: Box) -> tuple[Tensor, Tensor]:
        top, left, height, width = box
        part = torch.empty(1, height, width)
        down, right, height, width = RandomResizedCrop.get_params(part, [0.08, 1.0], [3 / 4, 4 / 3])
        flip = self.flip and bool(torch.rand(()) < 0.5)
        drawn = (top + down, left + right, height, width)
        return resized_crop(image, mask, drawn, self.size, flip=flip, label_resize=self.label_resize)


class BoxRegionMapper(ClassRegionMapper):
    """Cuts an image to the box of the class, which keeps its size."""

    def cut(self, image: NDArray[np.uint8], mask: NDArray[np.bool_], box: Box) -> tuple[Tensor, Tensor]:
        return box_crop(image, mask, box)


def class_records_from_config(cfg: CfgNode, records: list[Record]) -> list[Record]:
    """`class_records` of the training datasets as ``cfg.INPUT.REGIONS`` asks for them."""
    num_classes, ignore_label = label_set(cfg.DATASETS.TRAIN)
    return class_records(records, num_classes, ignore_label, cfg.INPUT.REGIONS.SAMPLES_PER_CLASS)
