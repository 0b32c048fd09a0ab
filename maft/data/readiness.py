"""Whether the datasets of a run are there, said of all of them at once and before anything is built."""

from __future__ import annotations

from collections.abc import Sequence

from maft.data.catalog import datasets_root
from maft.data.records import load_records
from maft.errors import UserError


def count_images(names: Sequence[str], key: str) -> dict[str, int]:
    """Number of images, or of region-noun pairs, of each dataset.

    Args:
        key: of the config, ``DATASETS.TRAIN`` or ``DATASETS.TEST``.

    Raises:
        UserError: there is nothing to train on, or one is unknown or cannot be used; the sentence names all that are
            so, and how to go on without those of ``DATASETS.TEST``.
    """
    if key == "DATASETS.TRAIN" and not names:
        raise UserError(f"{key} is empty: name at least one dataset.")
    counts: dict[str, int] = {}
    faults: list[str] = []
    for name in names:
        try:
            counts[name] = len(load_records([name], key))
        except UserError as error:
            faults.append(str(error).rstrip("."))
            if not datasets_root().is_dir():
                # The same is wrong with all others.
                break
    if faults:
        what = f"{key}: {'; '.join(faults)}"
        if key == "DATASETS.TEST":
            rest = ", ".join(f'"{name}"' for name in counts)
            without = f"go on with those that are there: {key} '[{rest}]'" if rest else f"go on without: {key} '[]'"
            what += f"; or {without}"
        raise UserError(f"{what}.")
    return counts
