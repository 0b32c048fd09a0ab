"""How a user's mistake is reported: one sentence, no traceback."""

import argparse
import difflib
import os
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

# A name that no file or component has; in a sentence its beginning and end tell which one it is.
_OVERLONG = re.compile(r"\S{500,}")


class UserError(Exception):
    """A mistake of the user's: the message is one sentence that says what is wrong, where, and what to do.

    Words of 500 characters and more are cut in the middle.
    """

    def __init__(self, message: str) -> None:
        super().__init__(_OVERLONG.sub(lambda word: f"{word[0][:200]} ... {word[0][-200:]}", message))


def closest(word: str, known: Iterable[str]) -> str:
    """The end of a sentence that suggests the known word most like a misspelt one; empty when none is."""
    words = list(known)
    # Case counts least.
    alike = [other for other in words if other.lower() == word.lower()]
    match = alike or difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    return f" Did you mean {match[0]}?" if match else ""


def shown(value: object, length: int = 200) -> str:
    """A value as a message shows it: its ``repr``, cut in the middle when it is longer than ``length`` characters."""
    text = repr(value)
    half = length // 2
    return text if len(text) <= length else f"{text[:half]} ... {text[-half:]} ({len(text)} characters)"


def printable(text: str, *, lines: bool = False) -> str:
    """A text for a terminal, on which names of files and words can neither move the cursor nor begin a line.

    Args:
        lines: whether it may have several lines.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or (lines and one == "\n") else ascii(one)[1:-1] for one in text)


def first_line(error: BaseException) -> str:
    """What an exception says, without its further lines; the name of its type when it says nothing."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


class ToolParser(argparse.ArgumentParser):
    """A command line whose mistakes are reported in one sentence, like every other; options cannot be abbreviated."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False, **options})
        # argparse takes -1 for a value, but -1e-3 for a flag.
        self._negative_number_matcher = re.compile(r"-\.?\d")

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help.")


def discard(stream: Any) -> None:
    """Sends what is written to a stream from now on, and what is still in its buffer, nowhere.

    Python would try to write a buffer once more when it ends, and complain.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def run_tool(main: Callable[[], int | None]) -> NoReturn:
    """Run a command line tool and end the process with its exit status.

    Args:
        main: the tool; returns its exit status, None meaning 0.

    The status is 1 after a :class:`UserError`, whose message goes to stderr without a traceback, and where Detectron2
    is not installed; 130 after Ctrl-C, as shells expect. What the system refuses (OSError) is one sentence, too. Any
    other exception is a defect of ours and keeps its traceback.
    """
    try:
        status = main()
        # Python has none where the shell closed it.
        if sys.stdout:
            sys.stdout.flush()
    except UserError as error:
        print(f"error: {printable(str(error), lines=True)}", file=sys.stderr)
        sys.exit(1)
    except ModuleNotFoundError as error:
        # The one requirement that installing the package does not bring.
        if error.name != "detectron2":
            raise
        print('error: Detectron2 is not installed: run "maft doctor --fix"', file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read the output, such as head, has enough.
        discard(sys.stdout)
        sys.exit(141)
    except OSError as error:
        try:
            sys.stdout.flush()
        except OSError:
            discard(sys.stdout)
        place = printable(str(error.filename or "a file or the output"))
        print(f"error: {place}: {error.strerror or error}; check its path, rights and the space left", file=sys.stderr)
        sys.exit(1)
    sys.exit(0 if status is None else status)
