"""Mask proposers: one file each, and the decoders and criteria they share. Importing the package registers them."""

import maft.backbones  # noqa: F401 - MODEL.BACKBONE may name one of them
from maft.proposals import (  # noqa: F401
    eomt,
    freeseg,
    ground_truth,
    mask2former,
    mask_files,
    maskformer,
    sam,
    sam3,
    san,
    universal,
)
