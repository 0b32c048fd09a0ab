#!/usr/bin/env python3
"""Write some parts of a checkpoint to a file of their own, in half precision: what the quick start ships.

  tools/extract_part.py output/quickstart/proposer/model_final configs/quickstart/proposer.safetensors \\
      --parts proposer. vocabulary_encoder.
"""

from pathlib import Path

from maft.errors import ToolParser, UserError, run_tool


def main() -> None:
    parser = ToolParser(description=__doc__)
    parser.add_argument("input", type=Path, metavar="IN", help="checkpoint: a folder or a file")
    parser.add_argument("output", type=Path, metavar="OUT", help="file ending in .safetensors")
    parser.add_argument("--parts", nargs="+", required=True, metavar="PREFIX", help="beginnings of parameter names")
    arguments = parser.parse_args()

    from maft.checkpoint.io import read_state_dict, write_safetensors

    state = read_state_dict(arguments.input)
    for part in arguments.parts:
        if not any(name.startswith(part) for name in state):
            raise UserError(f"{arguments.input} has nothing below {part!r}: check --parts.")
    chosen = {name: value for name, value in state.items() if name.startswith(tuple(arguments.parts))}
    kept = {name: value.half() if value.is_floating_point() else value for name, value in chosen.items()}
    write_safetensors(arguments.output, kept)
    print(f"{len(kept)} of {len(state)} tensors written to {arguments.output}")


if __name__ == "__main__":
    run_tool(main)
