#!/usr/bin/env python3
"""Train a tiny CLIP on captioned scenes of the miniature world and write it as an open_clip folder."""

from pathlib import Path

from maft.errors import ToolParser, run_tool


def main() -> None:
    parser = ToolParser(description=__doc__)
    parser.add_argument("--arch", required=True, metavar="KIND", help="vit, convnext or siglip")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, batches and scenes")
    parser.add_argument("--scenes", type=int, default=12000, help="number of captioned scenes")
    parser.add_argument("--steps", type=int, help="training steps (default: the recipe's)")
    parser.add_argument("--device", help="default: cuda if there is one, else cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="autocast (default: by hardware)")
    arguments = parser.parse_args()

    from tiny_clip import pretrain

    pretrain(arguments)


if __name__ == "__main__":
    run_tool(main)
