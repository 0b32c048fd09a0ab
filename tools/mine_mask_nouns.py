#!/usr/bin/env python3
"""``maft mine``."""

from maft.cli.mine import main
from maft.errors import run_tool

if __name__ == "__main__":
    run_tool(main)
