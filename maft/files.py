"""Files that are either written whole or not at all."""

import errno
import fcntl
import glob
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import socket
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from maft.errors import UserError, discard

# It can only be read by setting it, which would be visible to other threads at any later time.
os.umask(_UMASK := os.umask(0o077))
_UNFINISHED = re.compile(r"\..*\.[0-9a-f]{8}\.tmp(\.[^.]*)?")
# A full disk, quota or file, and a file system that fails.
_UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.ESTALE}


def unfinished_path(target: Path) -> Path:
    """A new name beside ``target`` for a file or folder that is not whole yet; `remove_unfinished` knows it."""
    return target.with_name(f".{target.stem}.{secrets.token_hex(4)}.tmp{target.suffix}")


@contextmanager
def writing(target: str | os.PathLike[str]) -> Iterator[None]:
    """Turns a full disk that a block meets while it writes ``target`` into one sentence, whoever raises it.

    Raises:
        UserError: the disk or quota is full, or the file system fails.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if reason := unwritable(error):
            place = getattr(error, "filename", None) or target
            raise UserError(f"cannot write {place}: {reason}; free some space or write elsewhere") from error
        raise


def unwritable(error: BaseException | None) -> str:
    """What the system said when an exception, or what it came from, means that nothing can be written; else empty."""
    while error is not None:
        # Rust's writers are no OSErrors, but say the number.
        said = re.search(r"os error (\d+)", str(error))
        number = error.errno if isinstance(error, OSError) else int(said[1]) if said else None
        if number in _UNWRITABLE:
            return os.strerror(number)
        error = error.__cause__ or error.__context__
    return ""


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
    # Unlike those of Path, the functions of os.path answer for names that no file can have.
    if os.path.isdir(target):
        raise UserError(f"cannot write {target}: it is a folder; give the path of a file")
    temporary = unfinished_path(target)
    _check_writable(temporary)
    try:
        with writing(target):
            yield temporary
            # Some writers make files that only their owner may read.
            temporary.chmod(0o666 & ~_UMASK)
            os.replace(temporary, target)
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
    except (OSError, ValueError) as error:
        # A name with a null byte is no OSError.
        reason = getattr(error, "strerror", None) or str(error)
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


def read_json(path: str | os.PathLike[str]) -> Any:
    """The value of a JSON file.

    Raises:
        OSError, ValueError: it cannot be read, or is no JSON; one that is nested too deeply counts as none.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def remove_unfinished(*paths: Path) -> None:
    """Removes what killed writers left of these files or folders, and below the folders; nobody may be writing them."""
    for path in paths:
        _remove(path.parent.glob(f".{glob.escape(path.stem)}.*"))
        _remove(path.rglob(".*"))


def _remove(candidates: Iterable[Path]) -> None:
    for path in [candidate for candidate in candidates if _UNFINISHED.fullmatch(candidate.name)]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def held(folder: str | os.PathLike[str], *parts: str) -> Iterator[None]:
    """Holds a folder for one run while the block runs; the lock goes with the process, however that ends.

    A full disk that the block meets is one sentence, see `writing`.

    Args:
        folder: what a killed run left unfinished directly in it is removed.
        parts: sub-folders that runs of this kind write, where it is removed at any depth. Others may be of other runs.

    Raises:
        UserError: another process holds it, or nothing can be written to it (any more).
    """
    path = Path(folder) / ".lock"
    _check_writable(unfinished_path(path))
    with writing(folder), open(path, "a+", encoding="utf-8") as file:
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
        _remove(Path(folder).glob(".*"))
        remove_unfinished(*(Path(folder) / part for part in parts))
        yield


@contextmanager
def changing(path: str | os.PathLike[str]) -> Iterator[None]:
    """While the block reads a file and writes it anew, whoever else changes it waits; the lock goes with the process.

    Raises:
        UserError: the folder cannot be created or written to.
    """
    target = Path(path)
    _check_writable(unfinished_path(target))
    # A lock on the folder leaves no file behind.
    try:
        folder = os.open(target.parent, os.O_RDONLY)
    except OSError as error:
        raise UserError(
            f"cannot read folder {target.parent}: {error.strerror}; choose a folder you can read"
        ) from error
    try:
        # Some network file systems have no locks.
        with suppress(OSError):
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def raise_errors(handler: logging.Handler) -> None:
    """Has a handler raise what keeps it from writing a line; logging prints a traceback for each line instead.

    Where the file of a ``StreamHandler`` cannot be written any more, that is a `UserError` that names it.
    """

    def raise_error(record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError) or not isinstance(handler, logging.StreamHandler):
            logging.Handler.handleError(handler, record)
            return
        discard(handler.stream)
        with writing(handler.stream.name):
            raise error

    handler.handleError = raise_error  # type: ignore[method-assign]
