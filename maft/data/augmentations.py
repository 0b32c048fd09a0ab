"""Geometric and colour augmentation of training images, as lists of Detectron2 augmentations.

All randomness comes from ``numpy.random``, of colours from ``random``: seeding both makes an augmentation reproducible.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.projects.point_rend import ColorAugSSDTransform
from fvcore.transforms.transform import CropTransform, Transform, TransformList
from numpy.typing import NDArray
from PIL import Image

from maft.data.reading import value_counts

Step: TypeAlias = T.Augmentation | Transform

# As often as Detectron2 draws a crop.
_DRAWS = 10


@dataclass
class LabelledImage:
    """An image and its label map on their way through augmentations.

    Detectron2 resizes a label map by a rule that depends on its number type: uint8 by Pillow (nearest pixel centre),
    anything else by PyTorch (``floor(i * in / out)``), which moves labels by up to half a pixel against the image.
    Official releases use one or the other, so here the rule is an argument.

    Attributes:
        image: (H, W, 3) uint8.
        labels: (H, W) integers, or None.
        label_resize: ``"pillow"`` or ``"torch"``.
        categories: category of each label value (last entry: of -1) where labels are segment numbers; None where
            labels are categories themselves.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.integer] | None
    label_resize: str
    categories: NDArray[np.integer] | None = None

    @property
    def sem_seg(self) -> NDArray[np.integer] | None:
        """(H, W) categories, under the name by which Detectron2's augmentations ask for them."""
        if self.labels is None or self.categories is None:
            return self.labels
        return self.categories[self.labels]

    def transform(self, tfm: Transform) -> None:
        """Transforms image and labels in place; Detectron2 calls it after each augmentation."""
        self.image = tfm.apply_image(self.image)
        if self.labels is not None:
            self.labels = transform_labels(tfm, self.labels, self.label_resize)


def transform_labels(transform: Transform, labels: NDArray[np.integer], rule: str) -> NDArray[np.integer]:
    """Applies a transform to a label map, resizing by ``rule`` ("pillow" or "torch"); keeps the number type."""
    if isinstance(transform, TransformList):
        for part in transform.transforms:
            labels = transform_labels(part, labels, rule)
        return labels
    if not isinstance(transform, T.ResizeTransform):
        return transform.apply_segmentation(labels)
    if rule == "torch":
        return transform.apply_segmentation(labels.astype(np.float64)).astype(labels.dtype)
    size = (transform.new_w, transform.new_h)
    # Of one byte the sign does not matter: nothing is computed of what is moved.
    stored = labels.view(np.uint8) if labels.itemsize == 1 else labels.astype(np.int32)
    resized = np.array(Image.fromarray(stored).resize(size, Image.Resampling.NEAREST))
    return resized.view(labels.dtype) if labels.itemsize == 1 else resized.astype(labels.dtype, copy=False)


class _KeepsAPixel:
    """Of a strip, resizing leaves at least one pixel of the shorter side."""

    def get_transform(self, image: NDArray[np.uint8]) -> Transform:
        resize = super().get_transform(image)  # type: ignore[misc]
        if isinstance(resize, T.ResizeTransform):
            resize.new_h, resize.new_w = max(resize.new_h, 1), max(resize.new_w, 1)
        return resize


class ResizeShortestEdge(_KeepsAPixel, T.ResizeShortestEdge):
    """Detectron2's, for strips as well."""


class ResizeScale(_KeepsAPixel, T.ResizeScale):
    """Detectron2's, for strips as well."""


class RandomCategoryAreaCrop(T.RandomCrop_CategoryAreaConstraint):
    """Detectron2's crop in which no category covers too large a share, of the same draws; categories are counted."""

    def get_transform(self, image: NDArray[np.uint8], sem_seg: NDArray[np.integer]) -> Transform:
        if self.single_category_max_area >= 1.0:
            return self.crop_aug.get_transform(image)
        height, width = sem_seg.shape
        for _ in range(_DRAWS):
            rows, columns = self.crop_aug.get_crop_size((height, width))
            top, left = np.random.randint(height - rows + 1), np.random.randint(width - columns + 1)
            labels, counts = value_counts(sem_seg[top : top + rows, left : left + columns])
            counts = counts[labels != self.ignored_category]
            if len(counts) > 1 and counts.max() < counts.sum() * self.single_category_max_area:
                break
        return CropTransform(left, top, columns, rows)


def shortest_edge_augmentations(
    short_edges: Sequence[int],
    max_size: int,
    *,
    sampling: str = "choice",
    crop_type: str = "absolute",
    crop_size: Sequence[float] | None = None,
    single_category_max_area: float = 1.0,
    ignore_label: int = 255,
    color: str = "",
    flip: str = "none",
) -> list[Step]:
    """Resize to a drawn shortest edge, crop, SSD colour, flip: the order of MaskFormer, FreeSeg and OVSeg.

    Args:
        short_edges: lengths to choose from, or a range with ``sampling="range"``.
        max_size: limit of the longest edge, which wins over the shortest.
        crop_type: Detectron2's meaning of ``crop_size``; "absolute" is (height, width), clipped to the image.
        crop_size: None leaves the crop out.
        single_category_max_area: a crop in which one category covers a larger share (ignored pixels apart) is drawn
            again, at most 10 times; 1.0 accepts any.
        color: format of the images whose colours are changed, "RGB" or "BGR"; "" leaves colours alone.
        flip: "none", "horizontal" or "vertical", with probability 1/2.
    """
    steps: list[Step] = [ResizeShortestEdge(list(short_edges), max_size, sampling)]
    if crop_size is not None:
        steps.append(RandomCategoryAreaCrop(crop_type, tuple(crop_size), single_category_max_area, ignore_label))
    if color:
        steps.append(ColorAugSSDTransform(color))
    return steps + _flips(flip)


def large_scale_jitter(
    size: int,
    scale: Sequence[float] = (0.1, 2.0),
    *,
    padding_label: int = 255,
    color: str = "",
    flip: str = "horizontal",
) -> list[Step]:
    """Flip, then fit into a square of ``size`` times a drawn scale, then crop or pad to ``size``.

    The image is padded with 128, labels with ``padding_label``. Order and numbers are those of Mask2Former, FC-CLIP
    and Mask-Adapter.
    """
    steps = _flips(flip)
    steps.append(ResizeScale(scale[0], scale[1], size, size))
    steps.append(T.FixedSizeCrop((size, size), pad_value=128.0, seg_pad_value=padding_label))
    if color:
        steps.append(ColorAugSSDTransform(color))
    return steps


def augmentations_from_config(cfg: CfgNode, is_train: bool, *, ignore_label: int, padding_label: int) -> list[Step]:
    """The augmentations that ``cfg.INPUT`` asks for; at test only the resize of the shortest edge.

    Args:
        ignore_label: category that the crop's single-category limit does not count.
        padding_label: what large-scale jitter pads label maps with.
    """
    options = cfg.INPUT
    if not is_train:
        return shortest_edge_augmentations([options.MIN_SIZE_TEST], options.MAX_SIZE_TEST)
    color, flip = options.FORMAT if options.COLOR_AUG_SSD else "", options.RANDOM_FLIP
    jitter = options.LARGE_SCALE_JITTER
    if jitter.SIZE:
        return large_scale_jitter(jitter.SIZE, jitter.SCALE, padding_label=padding_label, color=color, flip=flip)
    crop = options.CROP
    return shortest_edge_augmentations(
        options.MIN_SIZE_TRAIN,
        options.MAX_SIZE_TRAIN,
        sampling=options.MIN_SIZE_TRAIN_SAMPLING,
        crop_type=crop.TYPE,
        crop_size=crop.SIZE if crop.ENABLED else None,
        single_category_max_area=crop.SINGLE_CATEGORY_MAX_AREA,
        ignore_label=ignore_label,
        color=color,
        flip=flip,
    )


def _flips(direction: str) -> list[Step]:
    if direction == "none":
        return []
    return [T.RandomFlip(horizontal=direction == "horizontal", vertical=direction == "vertical")]
