#!/usr/bin/env python3
"""Prepares ADE20K-847.

datasets/README.md says what to download and where it goes. What is there already is kept, so an interrupted run is
simply started again.
"""

from maft.data.preparation.ade import prepare_ade847
from maft.data.preparation.command import run

if __name__ == "__main__":
    run(prepare_ade847, __doc__)
