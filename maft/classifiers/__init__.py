"""Mask classifiers: one file a paper."""

from maft.classifiers import ip_clip, maft_plus, mask_adapter, mask_pooling, masked_crops

__all__ = ["ip_clip", "maft_plus", "mask_adapter", "mask_pooling", "masked_crops"]
