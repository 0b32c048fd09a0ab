#!/usr/bin/env python3
"""``maft prepare coco_panoptic``."""

import sys

from maft.cli.prepare import main
from maft.errors import run_tool

if __name__ == "__main__":
    run_tool(lambda: main(["coco_panoptic", *sys.argv[1:]]))
