#!/usr/bin/env python3
"""``maft convert``."""

from maft.cli.convert import main
from maft.errors import run_tool

if __name__ == "__main__":
    run_tool(main)
