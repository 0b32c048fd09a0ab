#!/usr/bin/env python3
"""Prepares the semantic form of COCO panoptic (133 classes).

datasets/README.md says what to download and where it goes. What is there already is kept, so an interrupted run is
simply started again.
"""

from maft.data.preparation.coco import prepare_coco_panoptic
from maft.data.preparation.command import run

if __name__ == "__main__":
    run(prepare_coco_panoptic, __doc__)
