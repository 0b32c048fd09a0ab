"""Files that are either written whole or not at all."""

import errno
import fcntl
import json
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from maft.errors import UserError

# It can only be read by setting it, which would be visible to other threads at any later time.
os.umask(_UMASK := os.umask(0o077))
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a path to write to, which becomes ``path`` when the block ends without an exception.

    The yielded path does not exist yet, lies in the same folder (so that the final rename is atomic) and keeps the
    suffix of ``path`` (writers such as Pillow choose the format by it). Missing parent folders are created. After
    an exception the partial file is removed and ``path`` is as it was before.

    Raises:
        UserError: the folder cannot be created or written to, ``path`` is a folder, or the disk is full.
    """
    target = Path(path)
    if target.is_dir():
        raise UserError(f"cannot write {target}: it is a folder; give the path of a file")
    temporary = target.with_name(f".{target.stem}.{secrets.token_hex(4)}.tmp{target.suffix}")
    _check_writable(temporary)
    try:
        yield temporary
        # Some writers make files that only their owner may read.
        temporary.chmod(0o666 & ~_UMASK)
        os.replace(temporary, target)
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise UserError(f"cannot write {target}: {error.strerror}; free some space or write elsewhere") from error
        raise
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def _check_writable(temporary: Path) -> None:
    folder = temporary.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Creating a file is the only reliable test: os.access knows nothing of read-only mounts or quotas.
        temporary.touch(exist_ok=False)
        temporary.unlink()
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"cannot write to folder {folder}: {reason}; choose a folder you can write to") from error


def write_text_atomic(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` to ``path`` as UTF-8, whole or not at all.

    Raises:
        UserError: see :func:`atomic_path`.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json_atomic(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` to ``path`` as indented JSON, whole or not at all.

    Raises:
        UserError: see :func:`atomic_path`.
        TypeError: ``value`` holds something JSON cannot express.
    """
    write_text_atomic(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def held(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Holds a folder for one run while the block runs; the lock goes with the process, however that ends.

    Raises:
        UserError: another process holds it, or it cannot be written to.
    """
    path = Path(folder) / ".lock"
    _check_writable(path.with_name(f".lock.{secrets.token_hex(4)}"))
    with open(path, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(
                f"{folder} is in use by {file.read().strip() or 'another process'}: wait for it, end it, or choose "
                "another folder."
            ) from None
        except OSError:
            # Some network file systems have no locks.
            yield
            return
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
