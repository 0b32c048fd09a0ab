#!/usr/bin/env python3
"""``maft train``."""

from maft.cli.train import main
from maft.errors import run_tool

if __name__ == "__main__":
    run_tool(main)
