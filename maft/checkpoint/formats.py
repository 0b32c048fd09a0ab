"""Which format a weights file has, by its content and whatever its name says; what is no weights file is refused."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Literal

from maft.errors import UserError, first_line

Format = Literal["safetensors", "torch", "torchscript", "pickle"]

# torch.save without a zip file begins with this number.
_OLD_TORCH = b"l\xfc\x9cF\xf9 j\xa8P\x19"
_OTHERS = {
    b"version https://git-lfs": "is a pointer of Git LFS and not the file itself: fetch it with git lfs pull",
    b"<": "is a web page and not the file itself: download it again, from the link of the file",
    b"\x1f\x8b": "is compressed with gzip: unpack it",
    b"7z\xbc\xaf": "is a 7z archive: unpack it",
    b"\x89HDF": "is an HDF5 file: save the model's state_dict with torch.save or as safetensors",
}
# Neither torch.save nor TorchScript compresses weights; their code and padding need little.
_SLACK = 1 << 20


def format_of(file: Path) -> Format:
    """The format of a weights file.

    Raises:
        UserError: it has another format, is empty, or would unpack to far more than it holds.
    """
    try:
        with open(file, "rb") as stream:
            head, size = stream.read(64), file.stat().st_size
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): check its path and rights.") from error
    if head[:4] == b"PK\x03\x04":
        return _format_of_zip(file, size)
    if head[8:9] == b"{":
        return "safetensors"
    if head[:1] == b"\x80":
        return "torch" if _OLD_TORCH in head else "pickle"
    if file.suffix == ".pkl" and head:
        # The first versions of pickle begin with their content.
        return "pickle"
    if not head.strip(b"\0"):
        raise UserError(f"{file} is empty: download or copy it again.")
    other = next((text for magic, text in _OTHERS.items() if head.lower().lstrip().startswith(magic.lower())), None)
    raise UserError(f"{file} {other or 'is not a checkpoint, or its beginning is damaged: download or copy it again'}.")


def _format_of_zip(file: Path, size: int) -> Format:
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, LookupError) as error:
        raise UserError(
            f"{file} is truncated or not a checkpoint ({first_line(error)}): download or copy it again."
        ) from error
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > 2 * size + _SLACK:
        raise UserError(
            f"{file} would unpack from {size} to {unpacked} bytes, which no checkpoint does: it is damaged or made to "
            "fill the memory."
        )
    # A torch checkpoint carries no constants of code.
    return "torchscript" if any(entry.filename.endswith("/constants.pkl") for entry in entries) else "torch"
