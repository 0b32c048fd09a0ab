#!/usr/bin/env python3
"""``maft prepare coco_stuff``."""

import sys

from maft.cli.prepare import main
from maft.errors import run_tool

if __name__ == "__main__":
    run_tool(lambda: main(["coco_stuff", *sys.argv[1:]]))
