"""Open the app in a browser: choose a picture, type words, see the labels. Needs the extra [app]."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence

from maft.errors import ToolParser, UserError

EXAMPLES = """examples:
  maft app                                        the drawn scenes that the shipped model knows
  maft app --model maft-vitb16 --examples photos/
  maft app --model output/my_training/model_final --model miniature --host 0.0.0.0
  maft app --index photos.index --explanation output/explained
"""


def parser() -> ToolParser:
    tool = ToolParser(prog="maft app", description=__doc__, epilog=EXAMPLES)
    tool.add_argument(
        "--model", action="append", default=[], metavar="MODEL",
        help="name of a released model, checkpoint, config, or id on the hub; may be repeated (default: miniature)",
    )  # fmt: skip
    tool.add_argument("--config-file", metavar="CONFIG", help="the same for one config or checkpoint")
    tool.add_argument("--examples", metavar="FOLDER", help="pictures to choose from (default: drawn scenes)")
    tool.add_argument(
        "--explanation", action="append", default=[], metavar="DIR", help="what maft explain wrote; may be repeated"
    )
    tool.add_argument(
        "--index", action="append", default=[], metavar="DIR", help="what maft index wrote, to ask; may be repeated"
    )
    tool.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in (default: %(default)s)")
    tool.add_argument("--port", type=int, default=7860, help="default: %(default)s")
    tool.add_argument(
        "--max-megapixels", type=float, default=16, metavar="N", help="largest picture taken (default: %(default)s)"
    )
    tool.add_argument(
        "--max-megabytes", type=float, default=30, metavar="N", help="largest file taken (default: %(default)s)"
    )
    tool.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config overrides of the models given")
    return tool


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parser().parse_intermixed_args(argv)
    for name in ("max_megapixels", "max_megabytes"):
        if not getattr(arguments, name) > 0:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(arguments, name)}: give a number above 0.")
    if not 0 < arguments.port < 65536:
        raise UserError(f"--port is {arguments.port}: give a number from 1 to 65535.")
    from maft.app.explanations import explanation_page
    from maft.app.models import Models, sources
    from maft.app.photos import Limits, drawn_examples, folder_examples
    from maft.app.server import serve
    from maft.index import Index

    given = [*([arguments.config_file] if arguments.config_file else []), *arguments.model]
    models = Models(sources(given, arguments.opts))
    examples = folder_examples(arguments.examples) if arguments.examples else drawn_examples()
    limits = Limits(arguments.max_megabytes, arguments.max_megapixels)
    explanations = [explanation_page(path) for path in arguments.explanation]
    indices = {path: Index(path) for path in arguments.index}
    print(f"Loading {models.names[0]} ...", flush=True)
    page = serve(
        models,
        examples,
        limits,
        host=arguments.host,
        port=arguments.port,
        explanations=explanations,
        indices=indices,
    )
    print(f"Open {page.local_url} in a browser; Ctrl-C ends it.", flush=True)
    # Ended by a service manager, it leaves no files behind, either.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    page.block_thread()
