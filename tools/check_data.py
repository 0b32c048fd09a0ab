#!/usr/bin/env python3
"""``maft check``."""

from maft.cli.check import main
from maft.errors import run_tool

if __name__ == "__main__":
    run_tool(main)
