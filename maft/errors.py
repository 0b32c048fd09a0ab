"""How a user's mistake is reported: one sentence, no traceback."""

import argparse
import sys
from collections.abc import Callable
from typing import Any, NoReturn


class UserError(Exception):
    """A mistake of the user's: the message is one sentence that says what is wrong, where, and what to do."""


class ToolParser(argparse.ArgumentParser):
    """A command line whose mistakes are reported in one sentence, like every other; options cannot be abbreviated."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help.")


def run_tool(main: Callable[[], int | None]) -> NoReturn:
    """Run a command line tool and end the process with its exit status.

    Args:
        main: the tool; returns its exit status, None meaning 0.

    The status is 1 after a :class:`UserError`, whose message goes to stderr without a traceback, and 130 after
    Ctrl-C, as shells expect. Any other exception is a defect of ours and keeps its traceback.
    """
    try:
        status = main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(0 if status is None else status)
