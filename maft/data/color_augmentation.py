"""Colour augmentation of SSD (Liu et al., ECCV 2016), with every random choice drawn before a pixel is touched."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from detectron2.data import transforms as T
from fvcore.transforms.transform import Transform
from numpy.typing import NDArray


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
