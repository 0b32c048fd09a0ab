"""Mask classifiers: one file a paper. Importing the package registers them."""

from maft.classifiers import (  # noqa: F401
    ip_clip,
    maft_plus,
    mask_adapter,
    mask_clip_pp,
    mask_pooling,
    masked_crops,
    roi_align_crops,
    san,
    text_region,
)
