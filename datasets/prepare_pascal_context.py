#!/usr/bin/env python3
"""``maft prepare pascal_context``."""

import sys

from maft.cli.prepare import main
from maft.errors import run_tool

if __name__ == "__main__":
    run_tool(lambda: main(["pascal_context", *sys.argv[1:]]))
