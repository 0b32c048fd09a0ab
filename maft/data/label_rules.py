"""How raw values of published label maps become contiguous label indices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maft.data.label_sets import LabelSet
from maft.errors import UserError


@dataclass(frozen=True)
class LabelRule:
    """Numbering of a dataset's original label maps.

    Attributes:
        offset: raw value minus category id.
        maximum: largest value that stands for something; values of it that are no class of the label set are ignored.
        void: values beyond ``maximum`` that mean "no class".
    """

    offset: int
    maximum: int
    void: tuple[int, ...] = ()


LABEL_RULES = {
    # stuffthingmaps count from 0 where the category ids count from 1.
    "coco_stuff": LabelRule(offset=-1, maximum=181, void=(255,)),
    # Panoptic PNGs are decoded to category ids first.
    "coco_panoptic": LabelRule(offset=0, maximum=200),
    # 0 is background, 255 the border around objects.
    "voc": LabelRule(offset=0, maximum=20, void=(255,)),
    # 0 is "other"; category ids of ADE20K-150 count from 0 and its label maps from 1.
    "ade20k_150": LabelRule(offset=1, maximum=150),
    # Any of the 3688 object classes of the full set may occur; 847 of them are kept.
    "ade20k_full": LabelRule(offset=0, maximum=3688),
    # 0 is unlabelled; PC-59 keeps 59 of the 459.
    "pascal_context": LabelRule(offset=0, maximum=459),
    # 255 is the licence plate (-1 in the label table).
    "cityscapes": LabelRule(offset=0, maximum=33, void=(255,)),
    # Label maps count from 0, panoptic category ids from 1; 65 is unlabelled.
    "mapillary": LabelRule(offset=-1, maximum=65),
}


class LabelTable:
    """Converts raw label maps of one dataset by a lookup table.

    Args:
        labels: the label set of the dataset.
        rule: name of its label rule.
        seen_only: number the seen classes 0..S-1 in label order and ignore the unseen ones (zero-shot training).
    """

    def __init__(self, labels: LabelSet, rule: str, *, seen_only: bool = False) -> None:
        numbering = LABEL_RULES[rule]
        kept = labels.seen_indices if seen_only else range(len(labels))
        self.dtype = np.dtype(np.uint8 if labels.ignore_label <= 255 else np.uint16)
        self.ignore_label = labels.ignore_label
        self._table = np.full(1 << 16, labels.ignore_label, self.dtype)
        raw = [labels.category_ids[index] + numbering.offset for index in kept]
        self._table[raw] = np.arange(len(raw), dtype=self.dtype)
        self._legal = np.zeros(1 << 16, bool)
        self._legal[: numbering.maximum + 1] = True
        self._legal[list(numbering.void)] = True

    def __call__(self, raw: NDArray[np.integer], source: str) -> NDArray[np.integer]:
        """Converts a raw label map.

        Args:
            raw: (h, w) integers.
            source: name of the file, for error messages.

        Returns:
            (h, w) of the label set's type: uint8, or uint16 where the ignore label is 65535.

        Raises:
            UserError: a value is unknown to the dataset, or the map has not two dimensions.
        """
        if raw.ndim != 2:
            raise UserError(
                f"Label map {source} has {raw.ndim} dimensions where 2 are expected: it is a picture, not a label map."
            )
        if raw.size and (raw.min() < 0 or raw.max() >= len(self._legal) or not self._legal[raw].all()):
            values = np.unique(raw)
            unknown = [int(v) for v in values if not 0 <= v < len(self._legal) or not self._legal[v]]
            raise UserError(
                f"Label map {source} holds the unknown id {', '.join(map(str, unknown[:5]))}: "
                "it is not of this dataset, or damaged; download it again."
            )
        return self._table[raw]
