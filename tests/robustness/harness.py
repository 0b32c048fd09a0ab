"""What every trial allows: a correct run, or one sentence; nothing else, and not for ever."""

from __future__ import annotations

import os
import signal
import traceback
import warnings
from contextlib import contextmanager
from pathlib import Path

from hypothesis import HealthCheck, settings

from maft.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 30
# Trials of each property: a few in every test run, MAFT_FUZZ of them in all in ``make fuzz``.
PROPERTIES = 15
_ASKED = int(os.environ.get("MAFT_FUZZ", "0"))
TRIALS = -(-_ASKED // PROPERTIES) if _ASKED else 25

fuzz = settings(
    max_examples=TRIALS,
    deadline=None,
    database=None,
    # The same trials in every test run; new ones in every long run.
    derandomize=not _ASKED,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)


class Hang(Exception):
    """A trial took too long."""


@contextmanager
def one_sentence_at_most():
    """Passes a run to the end and a `UserError` of one sentence; anything else fails."""

    def ring(number, frame):
        raise Hang(f"no end after {SECONDS} s in {frame.f_code.co_filename}:{frame.f_lineno}")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UserError as error:
        text = str(error)
        assert text.strip() and "\n" not in text.strip(), f"not one sentence: {text!r}"
        assert len(text) < 2000, f"a sentence of {len(text)} characters"
    except Hang:
        raise
    except Exception as error:
        raise AssertionError(f"{type(error).__name__} instead of a sentence:\n{traceback.format_exc()}") from error
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
