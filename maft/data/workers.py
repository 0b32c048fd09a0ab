"""Worker processes of data loaders: they end with their parent, and their faults are one sentence."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_sharer
from pathlib import Path

from maft.data.reading import Record
from maft.errors import UserError, first_line

# How PyTorch's messages begin when a worker dies, memory is not shared or no file can be opened for it.
_DEAD = "DataLoader worker"
_SHARING = ("unable to open shared memory", "unable to mmap", "received 0 items of ancdata", "Too many open files")


def end_with_parent(number: int) -> None:
    """Has a child process receive this signal when its parent ends, however it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, number)  # PR_SET_PDEATHSIG
        parent = multiprocessing.parent_process()
        if parent is not None and os.getppid() != parent.pid:
            os.kill(os.getpid(), number)


def start_worker(index: int) -> None:
    """``worker_init_fn`` of a DataLoader; a worker takes no part in what its parent does at Ctrl-C."""
    end_with_parent(signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def unusable(record: Record, error: Exception) -> UserError:
    """The sentence about a record whose mapper fails otherwise than by a `UserError`: file, cause and line of code."""
    if isinstance(error, MemoryError):
        reason = "memory ran out: use fewer DATALOADER.NUM_WORKERS or smaller images"
    else:
        place = traceback.extract_tb(error.__traceback__)[-1]
        reason = f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}: {first_line(error)}"
    return UserError(f"{record.get('file_name', 'A record')} cannot be used ({reason}).")


@contextmanager
def worker_faults() -> Iterator[None]:
    """Turns what PyTorch raises about its workers, wherever the process is at that moment, into one sentence.

    Raises:
        UserError: a worker was killed, or its results could not be shared.
    """
    try:
        yield
    except (RuntimeError, OSError, EOFError) as error:
        text = first_line(error)
        # A worker that dies while it hands something over is first seen by the code that receives it.
        passing = any(frame.filename == resource_sharer.__file__ for frame in traceback.extract_tb(error.__traceback__))
        if text.startswith(_DEAD) or (passing and isinstance(error, (ConnectionError, FileNotFoundError, EOFError))):
            raise UserError(
                f"A process that reads images ended ({text.rstrip('. ')}), as happens when memory or /dev/shm is full: "
                "use fewer DATALOADER.NUM_WORKERS (0 reads in the main process); a training goes on with --resume."
            ) from error
        if any(words in text for words in _SHARING):
            raise UserError(
                f"Images cannot be passed between processes ({text}): raise the limit of open files (ulimit -n), free "
                "/dev/shm, or use fewer DATALOADER.NUM_WORKERS."
            ) from error
        raise
