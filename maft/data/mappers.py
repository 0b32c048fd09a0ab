"""From a record to what the model is given: one mapper for training and test, semantic and panoptic targets."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T
from detectron2.structures import Instances
from numpy.typing import NDArray
from torch import Tensor

from maft.data.augmentations import LabelledImage, Step, augmentations_from_config
from maft.data.reading import Record, read_image, read_labels, read_panoptic_ids, value_counts
from maft.data.records import register
from maft.errors import UserError

# Grey of the padding, in 0..255 and before normalisation, as every official release pads.
PADDING_VALUE = 128
_LABEL_KEYS = {"semantic": "sem_seg_file_name", "panoptic": "pan_seg_file_name"}
# Pixels outside every segment, once the segments of a panoptic map are numbered; augmentations pad with it.
NO_SEGMENT = -1


@dataclass
class SegmentationMapper:
    """Reads, augments and pads one image and its targets.

    Args:
        augmentations: Detectron2 augmentations, or transforms with fixed parameters. Those that pad must pad labels
            with ``ignore_label``, or with `NO_SEGMENT` where targets are panoptic.
        targets: ``"semantic"`` gives one mask per label present, classes ascending; ``"panoptic"`` one mask per
            segment that is not a crowd, in file order, empty ones included; None gives the image alone.
        num_classes: labels 0..num_classes-1 are valid.
        ignore_label: label of pixels that have none, in the files and in ``"sem_seg"``.
        image_format: ``"RGB"`` or ``"BGR"``.
        padded_size: side of the square that image and targets are padded to at the right and bottom; 0 pads nothing.
        label_resize: ``"pillow"`` or ``"torch"``, see `LabelledImage`.
        skip_unlabelled: return None for an image without a label file, or whose label map holds nothing but the
            ignore label before augmentation; the loader then draws another one.

    A call takes a record and returns a copy with
        ``"image"``: (3, H, W) uint8 tensor;
        ``"sem_seg"``: (H, W) int64 tensor (with targets);
        ``"instances"``: Instances with ``gt_classes`` (n,) int64 and ``gt_masks`` (n, H, W) bool (with targets);
        ``"height"``, ``"width"``: the size of the file.

    Raises:
        UserError: a file is missing, broken or of the wrong size, or a label map holds an unknown id.
    """

    augmentations: Sequence[Step]
    _: KW_ONLY
    targets: str | None
    num_classes: int = 0
    ignore_label: int = 255
    image_format: str = "RGB"
    padded_size: int = 0
    label_resize: str = "pillow"
    skip_unlabelled: bool = False

    def __post_init__(self) -> None:
        if self.targets not in (None, *_LABEL_KEYS):
            raise UserError(f"INPUT.MAPPER {self.targets!r} gives no masks: use {' or '.join(_LABEL_KEYS)}.")

    @classmethod
    def from_config(
        cls, cfg: CfgNode, is_train: bool, *, targets: str | None = None, datasets: Sequence[str] | None = None
    ) -> SegmentationMapper:
        """The mapper that ``cfg.INPUT`` describes, for ``DATASETS.TRAIN`` or (image alone) for test.

        Args:
            targets: kind of targets to load, default ``INPUT.MAPPER`` in training and none at test.
            datasets: names of the datasets whose labels are read, default ``DATASETS.TRAIN`` or ``DATASETS.TEST``.

        Raises:
            UserError: the datasets disagree on classes or ignore label, or ``INPUT.MAPPER`` gives no masks.
        """
        kind = targets or (cfg.INPUT.MAPPER if is_train else None)
        datasets = datasets or (cfg.DATASETS.TRAIN if is_train else cfg.DATASETS.TEST)
        num_classes, ignore_label = label_set(datasets) if kind else (0, 255)
        padding_label = NO_SEGMENT if kind == "panoptic" else ignore_label
        return cls(
            augmentations_from_config(cfg, is_train, ignore_label=ignore_label, padding_label=padding_label),
            targets=kind,
            num_classes=num_classes,
            ignore_label=ignore_label,
            image_format=cfg.INPUT.FORMAT,
            padded_size=cfg.INPUT.PADDED_SIZE if is_train else 0,
            label_resize=cfg.INPUT.LABEL_RESIZE,
            skip_unlabelled=is_train and cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        )

    def __call__(self, record: Record) -> Record | None:
        if self.skip_unlabelled and self.targets and not record.get(_LABEL_KEYS[self.targets]):
            return None
        record = copy.deepcopy(record)
        image = read_image(record["file_name"], self.image_format)
        height, width = image.shape[:2]
        for key, size in (("height", height), ("width", width)):
            if record.setdefault(key, size) != size:
                raise UserError(
                    f"Image {record['file_name']} is {width}x{height}, but the dataset says {key} {record[key]}."
                )
        labels, categories = self._read_labels(record, (height, width))
        void = NO_SEGMENT if self.targets == "panoptic" else self.ignore_label
        if self.skip_unlabelled and labels is not None and (labels == void).all():
            return None

        labelled = LabelledImage(image, labels, self.label_resize, categories)
        T.AugmentationList(list(self.augmentations))(labelled)
        # Flips are negative strides, which torch refuses.
        pixels = np.ascontiguousarray(labelled.image.transpose(2, 0, 1))
        record["image"] = self._padded(torch.from_numpy(pixels), PADDING_VALUE)
        if labelled.labels is not None:
            target = self._padded(torch.from_numpy(np.ascontiguousarray(labelled.labels)), void).numpy()
            if categories is None:
                values = value_counts(target)[0]
                values = values[values != void]
                record["sem_seg"], classes = torch.from_numpy(target.astype(np.int64)), values.astype(np.int64)
            else:
                # The last one is of no segment, whose number is -1.
                values = np.flatnonzero(categories[:-1] != self.ignore_label)
                record["sem_seg"], classes = torch.from_numpy(categories[target]), categories[values]
            instances = Instances((target.shape[0], target.shape[1]))
            instances.gt_classes = torch.from_numpy(classes)
            # NumPy compares numbers of one byte ten times as fast as PyTorch does.
            instances.gt_masks = torch.from_numpy(target == values.astype(target.dtype)[:, None, None])
            record["instances"] = instances
        return record

    def _read_labels(
        self, record: Record, size: tuple[int, int]
    ) -> tuple[NDArray[np.signedinteger] | None, NDArray[np.int64] | None]:
        """(label map, None), or (map of segment numbers, category of each segment and last of no segment)."""
        if self.targets is None:
            return None, None
        key = _LABEL_KEYS[self.targets]
        if key not in record:
            raise UserError(f"Image {record['file_name']} has no {self.targets} labels ({key}): add them or drop it.")
        path = record[key]
        labels = read_labels(path) if self.targets == "semantic" else read_panoptic_ids(path)
        if labels.shape != size:
            raise UserError(
                f"Label map {path} is {labels.shape[1]}x{labels.shape[0]}, but its image {record['file_name']} is "
                f"{size[1]}x{size[0]}."
            )
        if self.targets == "semantic":
            check_labels(labels, self.num_classes, self.ignore_label, path)
            return labels, None
        return self._number_segments(labels, record["segments_info"], path)

    def _number_segments(
        self, ids: NDArray[np.int32], segments: list[dict[str, Any]], path: str
    ) -> tuple[NDArray[np.signedinteger], NDArray[np.int64]]:
        numbers = {segment["id"]: number for number, segment in enumerate(segments)}
        categories = [self.ignore_label if s.get("iscrowd", 0) else s["category_id"] for s in segments]
        wrong = [c for c in categories if c != self.ignore_label and not 0 <= c < self.num_classes]
        if wrong:
            raise UserError(f"Panoptic map {path} has category {wrong[0]}, outside 0..{self.num_classes - 1}.")
        # Neighbours are nearly always of one segment: what is looked up are runs, a hundredth of the pixels.
        pixels = ids.ravel()
        starts = np.append(0, np.flatnonzero(pixels[1:] != pixels[:-1]) + 1)
        present, inverse = np.unique(pixels[starts], return_inverse=True)
        strangers = set(present.tolist()) - numbers.keys() - {0}
        if strangers:
            raise UserError(f"Panoptic map {path} holds segment id {min(strangers)}, which its segments_info lacks.")
        table = np.array([numbers.get(id_, NO_SEGMENT) for id_ in present.tolist()])
        table = table.astype(np.min_scalar_type(-len(segments) - 1))
        numbered = np.repeat(table[inverse], np.diff(starts, append=len(pixels)))
        return numbered.reshape(ids.shape), np.array([*categories, self.ignore_label], dtype=np.int64)

    def _padded(self, values: Tensor, fill: int) -> Tensor:
        if not self.padded_size:
            return values
        height, width = values.shape[-2:]
        if max(height, width) > self.padded_size:
            raise UserError(
                f"An augmented image is {width}x{height}, larger than INPUT.PADDED_SIZE {self.padded_size}: "
                "turn INPUT.CROP on or raise INPUT.PADDED_SIZE."
            )
        return F.pad(values, (0, self.padded_size - width, 0, self.padded_size - height), value=fill)


def check_labels(labels: NDArray[np.integer], num_classes: int, ignore_label: int, path: str) -> None:
    """Raises `UserError` with file and id when a label is neither in 0..num_classes-1 nor the ignore label."""
    # Two reductions are a hundred times cheaper than sorting out the distinct values, which only a fault needs.
    valid = labels != ignore_label
    if labels.min(where=valid, initial=0) >= 0 and labels.max(where=valid, initial=0) < num_classes:
        return
    values = np.unique(labels[valid])
    strangers = values[(values < 0) | (values >= num_classes)]
    if len(strangers):
        raise UserError(
            f"Label map {path} holds id {strangers[0]}, which is neither one of the {num_classes} classes "
            f"(0..{num_classes - 1}) nor the ignore value {ignore_label}."
        )


def label_set(datasets: Sequence[str]) -> tuple[int, int]:
    """(number of classes, ignore label), which all datasets must share."""
    if not datasets:
        raise UserError("No dataset is named: set DATASETS.TRAIN (training) or DATASETS.TEST (evaluation).")
    found = {}
    for name in datasets:
        register(name)
        metadata = MetadataCatalog.get(name)
        found[name] = (len(metadata.stuff_classes), metadata.get("ignore_label", 255))
    if len(set(found.values())) > 1:
        listed = ", ".join(f"{name} ({classes} classes, ignore {ignore})" for name, (classes, ignore) in found.items())
        raise UserError(f"Datasets trained together must share classes and ignore label: {listed}.")
    return next(iter(found.values()))
