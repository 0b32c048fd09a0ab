#!/usr/bin/env python3
"""Install Detectron2 into the Python that runs this file; one that can be found already is left alone.

``maft doctor --fix`` does the same without a checkout.
"""

from collections.abc import Sequence
from pathlib import Path

from maft.errors import ToolParser, run_tool
from maft.installing import install_from_checkout, install_from_index, location


def main(argv: Sequence[str] | None = None) -> None:
    parser = ToolParser(description=__doc__)
    parser.add_argument("--checkout", type=Path, metavar="DIR", help="an upstream checkout to install instead")
    checkout = parser.parse_args(argv).checkout
    if checkout:
        install_from_checkout(checkout.resolve())
    elif present := location():
        print(f"Detectron2 is there already: {present}")
    else:
        install_from_index()


if __name__ == "__main__":
    run_tool(main)
