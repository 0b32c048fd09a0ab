#!/usr/bin/env python3
"""Prepares Cityscapes (19 classes).

datasets/README.md says what to download and where it goes. What is there already is kept, so an interrupted run is
simply started again.
"""

from maft.data.preparation.cityscapes import prepare_cityscapes
from maft.data.preparation.command import run

if __name__ == "__main__":
    run(prepare_cityscapes, __doc__)
