"""Geometric and colour augmentation of training images, as lists of Detectron2 augmentations.

All randomness comes from ``numpy.random``: seeding it before a sample makes the sample reproducible.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from fvcore.transforms.transform import Transform, TransformList
from numpy.typing import NDArray
from PIL import Image

from maft.errors import UserError


class SSDColorTransform(Transform):
    """Brightness, contrast, saturation and hue of an RGB image; a parameter that is None leaves its step out.

    Each step clips to 0..255 and truncates to uint8. Saturation and hue go through OpenCV's 8-bit HSV, whose hue has
    180 steps.

    Args:
        brightness: added to every channel, in grey levels.
        contrast: factor of every channel.
        saturation: factor of the saturation.
        hue: shift of the hue in steps of two degrees.
        contrast_first: contrast before saturation and hue, otherwise after them.
    """

    def __init__(
        self,
        *,
        brightness: float | None = None,
        contrast: float | None = None,
        saturation: float | None = None,
        hue: int | None = None,
        contrast_first: bool = True,
    ) -> None:
        super().__init__()
        self.brightness = brightness
        self.contrast = contrast
        self.saturation = saturation
        self.hue = hue
        self.contrast_first = contrast_first

    def apply_image(self, img: NDArray[Any], interp: int | None = None) -> NDArray[Any]:
        """(H, W, 3) uint8 RGB to the same."""
        if self.brightness is not None:
            img = _linear(img, offset=self.brightness)
        if self.contrast_first:
            img = self._change_contrast(img)
        if self.saturation is not None:
            hsv = cv2.cvtColor(img, cv2.COLOR_RGB2HSV)
            hsv[..., 1] = _linear(hsv[..., 1], factor=self.saturation)
            img = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
        if self.hue is not None:
            hsv = cv2.cvtColor(img, cv2.COLOR_RGB2HSV)
            hsv[..., 0] = (hsv[..., 0].astype(np.int32) + self.hue) % 180
            img = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
        return img if self.contrast_first else self._change_contrast(img)

    def apply_coords(self, coords: NDArray[np.floating]) -> NDArray[np.floating]:
        return coords

    def apply_segmentation(self, segmentation: NDArray[np.generic]) -> NDArray[np.generic]:
        return segmentation

    def _change_contrast(self, img: NDArray[Any]) -> NDArray[Any]:
        return img if self.contrast is None else _linear(img, factor=self.contrast)


class SSDColorAugmentation(T.Augmentation):
    """Draws an `SSDColorTransform`: each step with probability 1/2, contrast first or last with equal chance.

    Unlike Detectron2's PointRend version it draws from ``numpy.random``, as all other augmentations do, so that one
    seed governs a sample.
    """

    def __init__(
        self,
        brightness_delta: float = 32.0,
        contrast_range: tuple[float, float] = (0.5, 1.5),
        saturation_range: tuple[float, float] = (0.5, 1.5),
        hue_delta: int = 18,
    ) -> None:
        super().__init__()
        self.brightness_delta = brightness_delta
        self.contrast_range = contrast_range
        self.saturation_range = saturation_range
        self.hue_delta = hue_delta

    def get_transform(self, image: NDArray[np.uint8]) -> SSDColorTransform:
        # Every number is drawn whether used or not, so that the generator advances equally for every sample.
        brightness, contrast, saturation, hue, contrast_first = (bool(coin) for coin in np.random.randint(2, size=5))
        beta = np.random.uniform(-self.brightness_delta, self.brightness_delta)
        alpha = np.random.uniform(*self.contrast_range)
        factor = np.random.uniform(*self.saturation_range)
        shift = int(np.random.randint(-self.hue_delta, self.hue_delta + 1))
        return SSDColorTransform(
            brightness=beta if brightness else None,
            contrast=alpha if contrast else None,
            saturation=factor if saturation else None,
            hue=shift if hue else None,
            contrast_first=contrast_first,
        )


def _linear(values: NDArray[Any], factor: float = 1.0, offset: float = 0.0) -> NDArray[Any]:
    scaled = values.astype(np.float32) * factor + offset
    return np.clip(scaled, 0, 255).astype(np.uint8)


LABEL_RESIZE_RULES = ("pillow", "torch")


class LabelledImage:
    """An image and its label map on their way through augmentations.

    Detectron2 resizes a label map by a rule that depends on its number type: uint8 by Pillow (nearest pixel centre),
    anything else by PyTorch (``floor(i * in / out)``), which moves labels by up to half a pixel against the image.
    Official releases use one or the other, so here the rule is an argument.

    Args:
        image: (H, W, 3) uint8.
        labels: (H, W) integers, or None.
        label_resize: ``"pillow"`` or ``"torch"``.
        categories: category of each label value (last entry: of -1) where labels are segment numbers; None where
            labels are categories themselves.
    """

    def __init__(
        self,
        image: NDArray[np.uint8],
        labels: NDArray[np.integer] | None,
        label_resize: str,
        categories: NDArray[np.integer] | None = None,
    ) -> None:
        self.image = image
        self.labels = labels
        self.label_resize = label_resize
        self.categories = categories

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
    resized = Image.fromarray(labels.astype(np.int32)).resize(size, Image.Resampling.NEAREST)
    return np.asarray(resized).astype(labels.dtype)


def shortest_edge_augmentations(
    short_edges: Sequence[int],
    max_size: int,
    *,
    sampling: str = "choice",
    crop_type: str = "absolute",
    crop_size: Sequence[float] | None = None,
    single_category_max_area: float = 1.0,
    ignore_label: int = 255,
    color: bool = False,
    flip: str = "none",
) -> list[T.Augmentation]:
    """Resize to a drawn shortest edge, crop, SSD colour, flip: the order of MaskFormer, FreeSeg and OVSeg.

    Args:
        short_edges: lengths to choose from, or a range with ``sampling="range"``.
        max_size: limit of the longest edge, which wins over the shortest.
        crop_type: Detectron2's meaning of ``crop_size``; "absolute" is (height, width), clipped to the image.
        crop_size: None leaves the crop out.
        single_category_max_area: a crop in which one category covers a larger share (ignored pixels apart) is drawn
            again, at most 10 times; 1.0 accepts any.
        flip: "none", "horizontal" or "vertical", with probability 1/2.
    """
    steps: list[T.Augmentation] = [T.ResizeShortestEdge(list(short_edges), max_size, sampling)]
    if crop_size is not None:
        steps.append(
            T.RandomCrop_CategoryAreaConstraint(crop_type, tuple(crop_size), single_category_max_area, ignore_label)
        )
    if color:
        steps.append(SSDColorAugmentation())
    return steps + _flips(flip)


def large_scale_jitter(
    size: int,
    scale: Sequence[float] = (0.1, 2.0),
    *,
    padding_label: int = 255,
    color: bool = False,
    flip: str = "horizontal",
) -> list[T.Augmentation]:
    """Flip, then fit into a square of ``size`` times a drawn scale, then crop or pad to ``size``.

    The image is padded with 128, labels with ``padding_label``. Order and numbers are those of Mask2Former, FC-CLIP
    and Mask-Adapter.
    """
    steps = _flips(flip)
    steps.append(T.ResizeScale(scale[0], scale[1], size, size))
    steps.append(T.FixedSizeCrop((size, size), pad_value=128.0, seg_pad_value=padding_label))
    if color:
        steps.append(SSDColorAugmentation())
    return steps


def augmentations_from_config(
    cfg: CfgNode, is_train: bool, *, ignore_label: int, padding_label: int
) -> list[T.Augmentation]:
    """The augmentations that ``cfg.INPUT`` asks for; at test only the resize of the shortest edge.

    Args:
        ignore_label: category that the crop's single-category limit does not count.
        padding_label: what large-scale jitter pads label maps with.

    Raises:
        UserError: an option has a value that is not one of its choices.
    """
    options = cfg.INPUT
    if not is_train:
        return shortest_edge_augmentations([options.MIN_SIZE_TEST], options.MAX_SIZE_TEST)
    _one_of("INPUT.RANDOM_FLIP", options.RANDOM_FLIP, ("none", "horizontal", "vertical"))
    _one_of("INPUT.MIN_SIZE_TRAIN_SAMPLING", options.MIN_SIZE_TRAIN_SAMPLING, ("choice", "range"))
    jitter = options.LARGE_SCALE_JITTER
    if jitter.SIZE:
        return large_scale_jitter(
            jitter.SIZE,
            jitter.SCALE,
            padding_label=padding_label,
            color=options.COLOR_AUG_SSD,
            flip=options.RANDOM_FLIP,
        )
    crop = options.CROP
    _one_of("INPUT.CROP.TYPE", crop.TYPE, ("relative_range", "relative", "absolute", "absolute_range"))
    return shortest_edge_augmentations(
        options.MIN_SIZE_TRAIN,
        options.MAX_SIZE_TRAIN,
        sampling=options.MIN_SIZE_TRAIN_SAMPLING,
        crop_type=crop.TYPE,
        crop_size=crop.SIZE if crop.ENABLED else None,
        single_category_max_area=crop.SINGLE_CATEGORY_MAX_AREA,
        ignore_label=ignore_label,
        color=options.COLOR_AUG_SSD,
        flip=options.RANDOM_FLIP,
    )


def _flips(direction: str) -> list[T.Augmentation]:
    if direction == "none":
        return []
    return [T.RandomFlip(horizontal=direction == "horizontal", vertical=direction == "vertical")]


def _one_of(key: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(f"{key} is {value!r}, which is not one of: {', '.join(choices)}.")
