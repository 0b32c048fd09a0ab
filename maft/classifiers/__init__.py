"""Mask classifiers: one file a paper."""

from maft.classifiers import ip_clip, masked_crops

__all__ = ["ip_clip", "masked_crops"]
