"""Label maps and panoptic annotation of a dataset must number the classes alike: a few images show it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from maft.data.catalog import dataset
from maft.data.headers import is_remembered, remember, state_of
from maft.data.reading import Record, read_labels, read_panoptic_ids
from maft.errors import UserError

_IMAGES = 16
# Both are drawn by hand for some datasets, and differ at borders and where objects lie on one another.
_LEAST_AGREEMENT, _LEAST_SHARE = 0.1, 0.02


def check_label_order(name: str, records: Sequence[Record]) -> None:
    """Compares the label maps of a few images, spread over the dataset, with their panoptic segments.

    Args:
        name: of the dataset.
        records: those with both kinds of labels are looked at.

    Raises:
        UserError: a class covers much of these images, and nearly all its pixels have another label.
    """
    both = [record for record in records if record.get("sem_seg_file_name") and record.get("pan_seg_file_name")]
    sample = both[:: -(-len(both) // _IMAGES) or 1]
    files = [record[key] for record in sample for key in ("sem_seg_file_name", "pan_seg_file_name")]
    state = state_of(files, [record["segments_info"] for record in sample])
    if not sample or is_remembered(f"order of {name}", state):
        return
    row, found = dataset(name), Counter[tuple[int, int]]()
    for record in sample:
        labels, ids = read_labels(record["sem_seg_file_name"]), read_panoptic_ids(record["pan_seg_file_name"])
        for segment in record["segments_info"]:
            values, counts = np.unique(labels[ids == segment["id"]], return_counts=True)
            for label, count in zip(values.tolist(), counts.tolist()):
                found[segment["category_id"], label] += count * (label != row.ignore_label)
    names, total = row.classes.names(), found.total()
    for category in sorted({category for category, _ in found}):
        pixels = {label: count for (owner, label), count in found.items() if owner == category}
        area = sum(pixels.values())
        if area > _LEAST_SHARE * total and pixels.get(category, 0) < _LEAST_AGREEMENT * area:
            other = max(pixels, key=pixels.__getitem__)
            called = names[other] if 0 <= other < len(names) else "no class"
            raise UserError(
                f"Label maps of {name} number the classes otherwise than its panoptic annotation: {names[category]!r} "
                f"({category}) has label {other} ({called!r}) in {row.root / row.labels}: prepare the dataset again."
            )
    remember(f"order of {name}", state)
