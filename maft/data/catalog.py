"""The dataset catalogue: ONE table, one row a dataset.

Paths are relative to the folder that the environment variable ``DETECTRON2_DATASETS`` names (default ``datasets``),
read when a dataset is used. Importing :mod:`maft.data` registers every row, under its name and its aliases, in
Detectron2's ``DatasetCatalog`` and ``MetadataCatalog``; no file is touched before a dataset is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from maft.data.folder import FOLDER_PREFIX, folder_label_set, folder_path
from maft.data.label_sets import LabelSet, label_set, overlap, read_class_list
from maft.errors import UserError, closest
from maft.structures import Vocabulary


@dataclass(frozen=True)
class DatasetRow:
    """One dataset.

    Attributes:
        name: our name.
        label_set: name of the label set (classes, their order, split, ignore value).
        split: ``train`` or ``val``.
        images: folder of the images.
        labels: folder of the prepared label maps: contiguous indices, one file an image, same stem.
        label_rule: how raw values became those indices (``maft.data.preparation.labels``).
        images_expected: published number of images with labels; None where none is published.
        prepare: the script of ``datasets/`` that makes ``labels``; empty when the download is used as it is.
        homepage: where the original download is found.
        aliases: names the field knows this dataset by.
        label_suffix, image_suffix: file endings.
        split_by_labels: the image folder is shared by several splits, so the label folder says which belong.
        seen_only: labels hold only the seen classes, renumbered (zero-shot training).
        panoptic_json, panoptic_root: annotation of panoptic segments in COCO's format.
        instances_json: annotation of instances in COCO's format.
    """

    name: str
    label_set: str
    split: str
    images: str
    labels: str
    label_rule: str
    images_expected: int | None
    prepare: str
    homepage: str
    aliases: tuple[str, ...] = ()
    label_suffix: str = ".png"
    image_suffix: str = ".jpg"
    split_by_labels: bool = False
    seen_only: bool = False
    panoptic_json: str = ""
    panoptic_root: str = ""
    instances_json: str = ""

    @property
    def root(self) -> Path:
        """The folder of all datasets, now."""
        return datasets_root()

    @property
    def classes(self) -> LabelSet:
        """All classes of the dataset, the unseen ones included."""
        if self.label_set.startswith(FOLDER_PREFIX):
            return folder_label_set(self.label_set)
        return label_set(self.label_set)

    @property
    def labelled(self) -> tuple[int, ...]:
        """Indices of the classes that the label maps number: all, or the seen ones."""
        return self.classes.seen_indices if self.seen_only else tuple(range(len(self.classes)))

    @property
    def seen(self) -> tuple[bool, ...] | None:
        """Whether each class of the label maps is trained on under the published split; None without a split."""
        return (True,) * len(self.labelled) if self.seen_only else self.classes.seen

    @property
    def things(self) -> tuple[bool, ...]:
        """Whether each class of the label maps is countable."""
        things = set(self.classes.things)
        return tuple(index in things for index in self.labelled)

    @property
    def num_classes(self) -> int:
        """Number of labels in the label maps."""
        return len(self.labelled)

    @property
    def ignore_label(self) -> int:
        """Value of pixels without a class."""
        return self.classes.ignore_label

    @property
    def evaluators(self) -> tuple[str, ...]:
        """What can be measured on it."""
        return ("semantic", "panoptic", "instance") if self.panoptic_json else ("semantic",)


def datasets_root() -> Path:
    """The folder of all datasets: ``DETECTRON2_DATASETS``, or ``datasets`` in the working folder."""
    return Path(os.path.expanduser(os.environ.get("DETECTRON2_DATASETS") or "datasets"))


_COCO = "https://cocodataset.org/#download"
_COCO_STUFF = "https://github.com/nightrome/cocostuff#downloads"
_VOC = "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/"
_ADE_CHALLENGE = "http://sceneparsing.csail.mit.edu/"
_ADE_FULL = "https://groups.csail.mit.edu/vision/datasets/ADE20K/"
_CONTEXT = "https://cs.stanford.edu/~roozbeh/pascal-context/"
_CITYSCAPES = "https://www.cityscapes-dataset.com/downloads/"
_MAPILLARY = "https://www.mapillary.com/dataset/vistas"
_LONG = {"train": "training", "val": "validation"}


def _coco_stuff(name: str, split: str, folder: str, count: int | None, seen: bool, *aliases: str) -> DatasetRow:
    return DatasetRow(
        name, "coco_stuff_171", split, f"coco/{split}2017", f"coco/stuffthingmaps_detectron2/{folder}", "coco_stuff",
        count, "prepare_coco_stuff.py", _COCO_STUFF, aliases, seen_only=seen,
    )  # fmt: skip


def _coco_panoptic(name: str, split: str, count: int, panoptic: bool, *aliases: str) -> DatasetRow:
    return DatasetRow(
        name, "coco_panoptic_133", split, f"coco/{split}2017", f"coco/panoptic_semseg_{split}2017", "coco_panoptic",
        count, "prepare_coco_panoptic.py", _COCO, aliases,
        panoptic_json=f"coco/annotations/panoptic_{split}2017.json" if panoptic else "",
        panoptic_root=f"coco/panoptic_{split}2017" if panoptic else "",
        instances_json=f"coco/annotations/instances_{split}2017.json" if panoptic else "",
    )  # fmt: skip


def _voc(name: str, classes: str, split: str, folder: str, count: int | None, seen: bool, *aliases: str) -> DatasetRow:
    root = "VOCdevkit/VOC2012"
    return DatasetRow(
        name, classes, split, f"{root}/JPEGImages", f"{root}/{folder}/{split}{'_seen' if seen else ''}", "voc",
        count, "prepare_voc.py", _VOC, aliases, split_by_labels=True, seen_only=seen,
    )  # fmt: skip


def _ade150(name: str, split: str, count: int, panoptic: bool, *aliases: str) -> DatasetRow:
    root, folder = "ADEChallengeData2016", _LONG[split]
    return DatasetRow(
        name, "ade20k_150", split, f"{root}/images/{folder}", f"{root}/annotations_detectron2/{folder}", "ade20k_150",
        count, "prepare_ade150.py", _ADE_CHALLENGE, aliases,
        panoptic_json=f"{root}/ade20k_panoptic_{split}.json" if panoptic else "",
        panoptic_root=f"{root}/ade20k_panoptic_{split}" if panoptic else "",
        instances_json=f"{root}/ade20k_instance_{split}.json" if panoptic else "",
    )  # fmt: skip


def _ade847(name: str, split: str, count: int | None, seen: bool, *aliases: str) -> DatasetRow:
    root, folder = "ADE20K_2021_17_01", _LONG[split]
    labels = f"{root}/annotations_detectron2/{folder}{'_seen' if seen else ''}"
    return DatasetRow(
        name, "ade20k_847", split, f"{root}/images_detectron2/{folder}", labels, "ade20k_full",
        count, "prepare_ade847.py", _ADE_FULL, aliases, label_suffix=".tif", seen_only=seen,
    )  # fmt: skip


def _context(name: str, classes: int, split: str, count: int, *aliases: str) -> DatasetRow:
    root = "VOCdevkit/VOC2010"
    return DatasetRow(
        name, f"pascal_context_{classes}", split, f"{root}/JPEGImages", f"{root}/annotations_pc{classes}/{split}",
        "pascal_context", count, "prepare_pascal_context.py", _CONTEXT, aliases, split_by_labels=True,
        label_suffix=".png" if classes == 59 else ".tif",
    )  # fmt: skip


def _cityscapes(name: str, split: str, count: int, panoptic: bool, *aliases: str) -> DatasetRow:
    truth = "cityscapes/gtFine"
    return DatasetRow(
        name, "cityscapes_19", split, f"cityscapes/leftImg8bit/{split}", f"{truth}/{split}", "cityscapes",
        count, "prepare_cityscapes.py", _CITYSCAPES, aliases, image_suffix="_leftImg8bit.png",
        label_suffix="_gtFine_labelTrainIds.png",
        panoptic_json=f"{truth}/panoptic_{split}.json" if panoptic else "",
        panoptic_root=f"{truth}/panoptic_{split}" if panoptic else "",
        instances_json=f"{truth}/instances_{split}.json" if panoptic else "",
    )  # fmt: skip


def _mapillary(name: str, split: str, count: int, *aliases: str) -> DatasetRow:
    folder = _LONG[split]
    return DatasetRow(
        name, "mapillary_65", split, f"mapillary_vistas/{folder}/images", f"mapillary_vistas/{folder}/labels",
        "mapillary", count, "", _MAPILLARY, aliases,
    )  # fmt: skip


def _miniature(name: str, split: str, labels: str, key: str) -> DatasetRow:
    return DatasetRow(
        name, f"miniature_{key}", split, f"miniature/{split}/images", f"miniature/{split}/{labels}", "",
        None, "prepare_miniature.py", "", image_suffix=".png", seen_only=labels != "masks",
    )  # fmt: skip


# name, ..., published number of labelled images, ..., aliases
TABLE: tuple[DatasetRow, ...] = (
    _coco_stuff("coco_stuff_train", "train", "train2017", 118280, False,
                "coco_2017_train_stuff_sem_seg", "openvocab_coco_2017_train_stuff_sem_seg"),
    _coco_stuff("coco_stuff_train_seen", "train", "train2017_seen", None, True, "coco_2017_train_stuff_base_sem_seg"),
    _coco_stuff("coco_stuff_val", "val", "val2017", 5000, False, "coco_2017_val_stuff_sem_seg",
                "coco_2017_test_stuff_sem_seg", "openvocab_coco_2017_val_stuff_sem_seg"),
    _coco_panoptic("coco_panoptic_train", "train", 118287, True, "coco_2017_train_panoptic_with_sem_seg",
                   "openvocab_coco_2017_train_panoptic_with_sem_seg"),
    _coco_panoptic("coco_panoptic_val", "val", 5000, True, "coco_2017_val_panoptic_with_sem_seg",
                   "openvocab_coco_2017_val_panoptic_with_sem_seg"),
    _coco_panoptic("coco_133_train", "train", 118287, False, "openvocab_coco_2017_train_sem_seg"),
    _coco_panoptic("coco_133_val", "val", 5000, False, "openvocab_coco_2017_val_sem_seg"),
    _voc("voc_20_train", "voc_20", "train", "annotations_detectron2", None, False, "voc_sem_seg_train"),
    _voc("voc_20_train_seen", "voc_20", "train", "annotations_detectron2", None, True, "voc_base_sem_seg_train"),
    _voc("voc_20_val", "voc_20", "val", "annotations_detectron2", 1449, False, "voc_sem_seg_val",
         "pascalvoc20_sem_seg_val", "openvocab_pascal20_sem_seg_val"),
    _voc("voc_21_val", "voc_21", "val", "annotations_detectron2_bg", 1449, False, "pascalvoc21_sem_seg_val",
         "openvocab_pascal21_sem_seg_val"),
    _ade150("ade20k_150_train", "train", 20210, False, "ade20k_sem_seg_train"),
    _ade150("ade20k_150_val", "val", 2000, False, "ade20k_sem_seg_val", "openvocab_ade20k_sem_seg_val"),
    _ade150("ade20k_150_panoptic_train", "train", 20210, True, "ade20k_panoptic_train",
            "openvocab_ade20k_panoptic_train"),
    _ade150("ade20k_150_panoptic_val", "val", 2000, True, "ade20k_panoptic_val", "openvocab_ade20k_panoptic_val"),
    _ade847("ade20k_847_train", "train", 25574, False, "ade20k_full_sem_seg_train"),
    _ade847("ade20k_847_train_seen", "train", None, True, "ade20k_full_base_sem_seg_train"),
    _ade847("ade20k_847_val", "val", 2000, False, "ade20k_full_sem_seg_val", "openvocab_ade20k_full_sem_seg_val"),
    _context("pascal_context_59_train", 59, "train", 4996, "pascal_context_59_sem_seg_train"),
    _context("pascal_context_59_val", 59, "val", 5104, "pascal_context_59_sem_seg_val",
             "openvocab_pascal_ctx59_sem_seg_val"),
    _context("pascal_context_459_train", 459, "train", 4996, "pascal_context_459_sem_seg_train"),
    _context("pascal_context_459_val", 459, "val", 5104, "pascal_context_459_sem_seg_val",
             "openvocab_pascal_ctx459_sem_seg_val"),
    _cityscapes("cityscapes_train", "train", 2975, False, "openvocab_cityscapes_fine_sem_seg_train"),
    _cityscapes("cityscapes_val", "val", 500, False, "openvocab_cityscapes_fine_sem_seg_val"),
    _cityscapes("cityscapes_panoptic_train", "train", 2975, True, "openvocab_cityscapes_fine_panoptic_train"),
    _cityscapes("cityscapes_panoptic_val", "val", 500, True, "openvocab_cityscapes_fine_panoptic_val"),
    _mapillary("mapillary_train", "train", 18000, "openvocab_mapillary_vistas_sem_seg_train"),
    _mapillary("mapillary_val", "val", 2000, "openvocab_mapillary_vistas_sem_seg_val"),
    # The unseen split of the miniature world is rotated; hyper-parameters are chosen on the tuning split.
    _miniature("miniature_train", "train", "masks", "0"),
    _miniature("miniature_train_seen", "train", "masks_seen_0", "0"),
    _miniature("miniature_train_seen_1", "train", "masks_seen_1", "1"),
    _miniature("miniature_train_seen_2", "train", "masks_seen_2", "2"),
    _miniature("miniature_train_seen_tuning", "train", "masks_seen_tuning", "tuning"),
    _miniature("miniature_val", "val", "masks", "0"),
    _miniature("miniature_val_1", "val", "masks", "1"),
    _miniature("miniature_val_2", "val", "masks", "2"),
    _miniature("miniature_val_tuning", "val", "masks", "tuning"),
)  # fmt: skip

_BY_NAME = {name: row for row in TABLE for name in (row.name, *row.aliases)}


def dataset(name: str) -> DatasetRow:
    """The row of a dataset, by name, alias or ``folder:/path`` (images/, masks/ and classes.txt of your own).

    Raises:
        UserError: there is no such dataset, or the folder has no usable class list.
    """
    if name.startswith(FOLDER_PREFIX):
        # A folder without a class list is refused here, not in the middle of a run.
        folder_label_set(name)
        folder = folder_path(name)
        return DatasetRow(name, name, "train", str(folder / "images"), str(folder / "masks"), "", None, "", "")
    try:
        return _BY_NAME[name]
    except KeyError:
        choice = closest(name, _BY_NAME) or f" Choose one of {', '.join(row.name for row in TABLE)}."
        raise UserError(f"There is no dataset {name!r}.{choice} Your own data are folder:/path.") from None


def class_names(name: str, variant: str = "plain") -> tuple[str, ...]:
    """Class strings of a dataset in label order, only the seen ones where its labels hold only those.

    Args:
        name: dataset name.
        variant: ``plain``, ``maft``, ``ovseg``, ``fcclip`` (whose strings hold synonyms), another variant of the label
            set, or the path of a text file (``*.txt``) with one class a line.

    Raises:
        UserError: unknown dataset or variant, or a class list whose length differs from the label set.
    """
    row = dataset(name)
    if not variant.endswith(".txt"):
        names = row.classes.names(variant)
        return tuple(names[index] for index in row.labelled)
    names = read_class_list(variant)
    if len(names) != row.num_classes:
        raise UserError(
            f"Class list {variant} has {len(names)} names but the labels of {name} have {row.num_classes} classes: "
            "give one name a class, in label order."
        )
    return names


def vocabulary(
    name: str, variant: str = "plain", seen: str = "split", training_names: Sequence[str] | None = None
) -> Vocabulary:
    """The vocabulary of a dataset.

    Args:
        name: dataset name.
        variant: which class strings, see :func:`class_names`.
        seen: which classes count as seen: ``split`` (the dataset's published split; unknown where there is none),
            ``overlap`` (shares an exact synonym with ``training_names``, FC-CLIP's rule) or ``none`` (unknown).
        training_names: class strings of the training vocabulary, for ``overlap``.

    Raises:
        UserError: see :func:`class_names`; ``seen`` is unknown, or ``overlap`` came without training names.
    """
    row = dataset(name)
    names = class_names(name, variant)
    if seen == "none":
        return Vocabulary(names)
    if seen == "split":
        return Vocabulary(names, row.seen)
    if seen != "overlap":
        raise UserError(f"Seen classes {seen!r} of {name}: choose split, overlap or none.")
    if training_names is None:
        raise UserError(f"Seen classes of {name} by overlap need the class strings of the training vocabulary.")
    return Vocabulary(names, overlap(names, training_names))
