"""What is written must not take the place of what was read."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from maft.errors import UserError


def check_outputs(outputs: Iterable[Path], inputs: Iterable[str | Path], option: str) -> None:
    """Refuses files to be written that are inputs, under whatever name or link.

    Args:
        inputs: looked at only where an output exists already.
        option: which one to choose otherwise, for the message.

    Raises:
        UserError: an input would be replaced.
    """
    existing = {identity: path for path in outputs if (identity := _identity(path))}
    for path in inputs if existing else ():
        if (identity := _identity(path)) and (replaced := existing.get(identity)):
            raise UserError(f"{replaced} would replace the input {path}: choose another {option}.")


def _identity(path: str | Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino
