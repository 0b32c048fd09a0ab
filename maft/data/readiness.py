"""Whether the datasets of a run are there, said of all of them at once and before anything is built."""

from __future__ import annotations

from collections.abc import Sequence

from maft.data.catalog import datasets_root
from maft.data.records import load_records
from maft.errors import UserError


def count_images(train: Sequence[str] | None, test: Sequence[str]) -> dict[str, int]:
    """Number of images, or of region-noun pairs, of each dataset.

    Args:
        train: ``DATASETS.TRAIN``; None for an evaluation.
        test: ``DATASETS.TEST``.

    Raises:
        UserError: there is nothing to train on, or datasets are unknown or cannot be used; the sentence names all that
            are so, and how to go on without those of ``DATASETS.TEST``.
    """
    if train is not None and not train:
        raise UserError("DATASETS.TRAIN is empty: name at least one dataset.")
    counts: dict[str, int] = {}
    sentences = []
    for key, names in (("DATASETS.TRAIN", train or ()), ("DATASETS.TEST", test)):
        faults = [fault for name in names if (fault := _fault(name, key, counts))]
        # Without the folder of all datasets the same is wrong with all of them.
        if faults:
            sentences.append(f"{key}: {'; '.join(faults if datasets_root().is_dir() else faults[:1])}")
    if not sentences:
        return counts
    if sentences[-1].startswith("DATASETS.TEST"):
        rest = ", ".join(f'"{name}"' for name in test if name in counts)
        sentences.append(
            f"or train without: DATASETS.TEST '[{rest}]'" if train else f"or leave out: DATASETS.TEST '[{rest}]'"
        )
    raise UserError(f"{'; '.join(sentences)}.")


def _fault(name: str, key: str, counts: dict[str, int]) -> str:
    """What is wrong with a dataset; empty when nothing is and it has been counted."""
    try:
        counts[name] = len(load_records([name], key))
    except UserError as error:
        return str(error).rstrip(".")
    return ""
