#!/usr/bin/env python3
"""Prepares Pascal VOC 2012 (20 classes, and 21 with background).

datasets/README.md says what to download and where it goes. What is there already is kept, so an interrupted run is
simply started again.
"""

from maft.data.preparation.command import run
from maft.data.preparation.pascal import prepare_voc

if __name__ == "__main__":
    run(prepare_voc, __doc__)
