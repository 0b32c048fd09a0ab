#!/usr/bin/env python3
"""Prepares Mapillary Vistas 1.2 (65 classes): checks the download, and makes panoptic annotation where it lacks.

datasets/README.md says what to download and where it goes. What is there already is kept, so an interrupted run is
simply started again.
"""

from maft.data.preparation.command import run
from maft.data.preparation.mapillary import prepare_mapillary

if __name__ == "__main__":
    run(prepare_mapillary, __doc__)
