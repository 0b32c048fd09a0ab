#!/usr/bin/env python3
"""``maft prepare ade847``."""

import sys

from maft.cli.prepare import main
from maft.errors import run_tool

if __name__ == "__main__":
    run_tool(lambda: main(["ade847", *sys.argv[1:]]))
