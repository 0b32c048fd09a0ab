#!/usr/bin/env python3
"""Prepares Pascal Context with 59 and 459 classes.

datasets/README.md says what to download and where it goes. What is there already is kept, so an interrupted run is
simply started again.
"""

from maft.data.preparation.command import run
from maft.data.preparation.pascal import prepare_pascal_context

if __name__ == "__main__":
    run(prepare_pascal_context, __doc__)
