"""Addresses of weights: https with a checksum, or a file of Detectron2's own catalogue."""

from __future__ import annotations

import hashlib
import logging
import re
from pathlib import Path

from maft.downloads import cache_folder, download, one_at_a_time
from maft.errors import UserError, shown
from maft.files import sha256

_CATALOGUE = "detectron2://"
_CATALOGUE_FILES = "https://dl.fbaipublicfiles.com/detectron2/"
_CHECKSUM = re.compile(r"#sha256=(?P<sum>[0-9a-fA-F]{64})$")
# torch.hub's rule: the name of a file ends in the beginning of its SHA-256.
_IN_THE_NAME = re.compile(r"-(?P<sum>[0-9a-f]{8,64})\.\w+$")

logger = logging.getLogger(__name__)


def is_address(path: str) -> bool:
    """Whether something is to be downloaded, and no path of a file."""
    return "://" in path


def check_address(path: str, key: str) -> None:
    """Refuses an address of weights that cannot be trusted to give what was meant; paths of files pass.

    Args:
        key: where it stands.

    Raises:
        UserError: it is no https address, has no checksum, or leads out of the folder of downloads.
    """
    if not is_address(path):
        return
    if not path.startswith(("https://", _CATALOGUE)):
        raise UserError(f"{key} is {shown(path)}: give a local file or an https:// address with its checksum.")
    if ".." in path or "\\" in path or "?" in path:
        raise UserError(f"{key} is {shown(path)}, which is no plain address of a file: it holds '..', '?' or a \\.")
    if "#" in path and not _CHECKSUM.search(path):
        raise UserError(f"{key} is {shown(path)}, whose checksum is none: write #sha256= and 64 hexadecimal digits.")
    if not path.startswith(_CATALOGUE) and not _expected(path):
        raise UserError(
            f"{key} is {shown(path)}, an address without a checksum: append #sha256= and the file's SHA-256, or "
            "download it yourself and give its path."
        )


def _expected(address: str) -> str:
    """The beginning of the file's SHA-256 that an address states, in lower case; empty when it states none."""
    found = _CHECKSUM.search(address) or _IN_THE_NAME.search(address)
    return found["sum"].lower() if found else ""


def downloaded(address: str, key: str = "The address") -> Path:
    """The file behind an address, fetched unless it is already there; its checksum is compared each time.

    Raises:
        UserError: see `check_address`; or the download is impossible or gives another file.
    """
    check_address(address, key)
    url, expected = address.partition("#")[0].replace(_CATALOGUE, _CATALOGUE_FILES), _expected(address)
    # A folder for each address: two may end in the same name.
    file = cache_folder() / "weights" / hashlib.sha256(address.encode()).hexdigest()[:16] / url.rpartition("/")[2]
    if not file.is_file():
        with one_at_a_time(file.parent):
            if not file.is_file():
                logger.info("Fetching %s.", url)
                download(url, file, "download it by hand and give its path")
    if not (found := sha256(file)).startswith(expected):
        file.unlink()
        raise UserError(
            f"{url} gave a file with the SHA-256 {found}, not {expected}: it was damaged or replaced, and is removed; "
            "try again or ask its authors."
        )
    if not expected:
        logger.info("%s has no checksum; its file's is #sha256=%s", address, found)
    return file
