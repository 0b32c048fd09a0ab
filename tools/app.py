#!/usr/bin/env python3
"""``maft app``."""

from maft.cli.app import main
from maft.errors import run_tool

if __name__ == "__main__":
    run_tool(main)
