#!/usr/bin/env python3
"""``maft prepare miniature``."""

import sys

from maft.cli.prepare import main
from maft.errors import run_tool

if __name__ == "__main__":
    run_tool(lambda: main(["miniature", *sys.argv[1:]]))
