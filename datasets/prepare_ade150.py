#!/usr/bin/env python3
"""Prepares ADE20K-150: semantic, panoptic and instance.

datasets/README.md says what to download and where it goes. What is there already is kept, so an interrupted run is
simply started again.
"""

from maft.data.preparation.ade import prepare_ade150
from maft.data.preparation.command import run

if __name__ == "__main__":
    run(prepare_ade150, __doc__)
