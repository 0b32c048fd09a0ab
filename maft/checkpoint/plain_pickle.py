"""Reading a pickle of plain data without running anything that is in it."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from maft.errors import UserError

# What NumPy's own arrays need to be rebuilt; none of them calls anything of the file's choosing.
_ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("_codecs", "encode"),
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}")
        if module == "numpy.core.multiarray":
            # NumPy 2 moved it; the old name works with a warning only.
            import numpy

            module = "numpy._core.multiarray" if int(numpy.__version__.split(".")[0]) >= 2 else module
        return super().find_class(module, name)


def load_plain_pickle(path: Path) -> Any:
    """Content of a pickle made of dicts, lists, strings, numbers and NumPy arrays.

    Raises:
        UserError: the file is damaged, or holds anything else.
    """
    try:
        with open(path, "rb") as file:
            return _PlainUnpickler(file).load()
    except (pickle.UnpicklingError, EOFError, ValueError, AttributeError, IndexError, TypeError) as error:
        raise UserError(f"{path} is not plain data ({error}): download it again from the official page.") from None
