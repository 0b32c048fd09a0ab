#!/usr/bin/env python3
"""``maft prepare voc``."""

import sys

from maft.cli.prepare import main
from maft.errors import run_tool

if __name__ == "__main__":
    run_tool(lambda: main(["voc", *sys.argv[1:]]))
