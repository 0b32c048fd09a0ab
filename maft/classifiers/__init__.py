"""Mask classifiers: one file a paper. Importing the package registers them."""

from maft.classifiers import ip_clip, maft_plus, mask_adapter, mask_pooling, masked_crops  # noqa: F401
