#!/usr/bin/env python3
"""Open the demo in a browser: upload an image, type words, see the labels. Needs the extra [app]."""

from maft.app import build_app
from maft.errors import ToolParser, UserError, run_tool
from maft.predictor import Predictor


def main() -> None:
    parser = ToolParser(description=__doc__)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="YAML config, or a checkpoint")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in (default: %(default)s)")
    parser.add_argument("--port", type=int, default=7860, help="default: %(default)s")
    parser.add_argument("opts", nargs="*", default=[], metavar="KEY VALUE", help="config overrides")
    arguments = parser.parse_intermixed_args()
    app = build_app(Predictor.from_path(arguments.config_file, arguments.opts))
    try:
        app.launch(server_name=arguments.host, server_port=arguments.port)
    except OSError as error:
        raise UserError(
            f"The app cannot listen on {arguments.host}:{arguments.port} ({error}): choose --port."
        ) from error


if __name__ == "__main__":
    run_tool(main)
