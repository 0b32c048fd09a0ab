#!/usr/bin/env python3
"""``maft pairs``."""

from maft.cli.pairs import main
from maft.errors import run_tool

if __name__ == "__main__":
    run_tool(main)
