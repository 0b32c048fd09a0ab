#!/usr/bin/env python3
"""``maft predict``."""

from maft.cli.predict import main
from maft.errors import run_tool

if __name__ == "__main__":
    run_tool(main)
