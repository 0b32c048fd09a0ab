"""Downloads over https: continued where they were cut, on a disk that has room, by one process at a time."""

from __future__ import annotations

import importlib
import logging
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from filelock import FileLock, Timeout

from maft.errors import UserError, first_line
from maft.files import writing

SCHEMES = ("https://",)
_RETRIES = 4
_SECONDS = (10, 60)  # To connect, and between two pieces.

logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Where downloads are kept: ``MAFT_CACHE``, or maft in the user's cache folder (``XDG_CACHE_HOME``)."""
    given = os.environ.get("MAFT_CACHE")
    return Path(given or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "maft")).expanduser()


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Holds a folder, which is made where there is none, and waits for whoever else does.

    Raises:
        UserError: nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.warning("Another process is busy with %s: waiting for it.", folder)
            lock.acquire()
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written to ({error.strerror or error}): set MAFT_CACHE to a folder that can."
        ) from error
    try:
        yield
    finally:
        lock.release()


def download(url: str, file: Path, advice: str, copies: int = 1) -> None:
    """Fetches a file, and goes on where an earlier call was cut; Google Drive's warning about large files is passed.

    Progress is shown on terminals only. Nothing else may write to the folder meanwhile, see `one_at_a_time`.

    Args:
        advice: what to do when it cannot be had; ends the sentence.
        copies: how many times the file has to fit on the disk.

    Raises:
        UserError: the address is not https, leads to one that is not, or is out of reach, there is no such file or a
            web page in its place, the connection broke too often, or the disk has no room.
    """
    if not url.startswith(SCHEMES):
        raise UserError(f"{url} is no https:// address: {advice}.")
    import gdown
    import requests
    from tqdm import tqdm

    def report(received: int, size: int | None) -> None:
        free = shutil.disk_usage(file.parent).free
        needed = (size or received) * copies - received
        if needed > free:
            raise UserError(
                f"{file.name} needs {needed / 1e9:.2f} GB more on the disk of {file.parent}, where {free / 1e9:.2f} GB "
                "are free: free some space, or set MAFT_CACHE to a folder on another disk."
            )
        bar.total = size
        bar.update(received - bar.n)

    _hold_to_https()
    try:
        check_reachable(url)
        # Without a terminal there is no bar.
        with writing(file), tqdm(desc=file.name, unit="B", unit_scale=True, disable=None) as bar:
            gdown.download(
                url, str(file), quiet=True, use_cookies=False, resume=True,
                progress=report, timeout=_SECONDS, retries=_RETRIES,
            )  # fmt: skip
        with open(file, "rb") as stream:
            if stream.read(64).lstrip().startswith(b"<"):
                file.unlink()
                raise gdown.exceptions.FileURLRetrievalError
    except gdown.exceptions.FileURLRetrievalError as error:
        raise UserError(
            f"{url} gives a web page and not the file, as Google Drive does when too many have fetched it or it is not "
            f"public: {advice}."
        ) from error
    except (gdown.exceptions.DownloadError, requests.RequestException, OSError) as error:
        raise UserError(f"{url} cannot be downloaded ({first_line(error)[:160].rstrip('.')}): {advice}.") from error


@cache
def _hold_to_https() -> None:
    """Has gdown refuse every redirection to plain http, also when it goes on; it has no option for that."""
    from requests.adapters import HTTPAdapter
    from requests.exceptions import InvalidSchema

    class Refusing(HTTPAdapter):
        def send(self, request: Any, *rest: Any, **options: Any) -> Any:
            if not request.url.startswith(SCHEMES):
                raise InvalidSchema(f"it leads to {request.url}, which is no https:// address")
            return super().send(request, *rest, **options)

    # The package's attribute of this name is the function.
    module: Any = importlib.import_module("gdown.download")
    plain = module._get_session

    def held(**options: Any) -> Any:
        session, cookies = plain(**options)
        session.mount("http://", Refusing())
        return session, cookies

    module._get_session = held


def check_reachable(address: str) -> None:
    """Raises OSError when the host of ``address`` has no name here and no proxy could resolve it for us."""
    if any(os.environ.get(variable) for variable in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return
    host = urlparse(address).hostname or ""
    try:
        socket.getaddrinfo(host, 443)
    except OSError as error:
        raise OSError(f"no connection to {host}") from error
