#!/usr/bin/env python3
"""``maft prepare cityscapes``."""

import sys

from maft.cli.prepare import main
from maft.errors import run_tool

if __name__ == "__main__":
    run_tool(lambda: main(["cityscapes", *sys.argv[1:]]))
