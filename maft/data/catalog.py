"""The dataset catalogue: ONE table, catalog.json, one row a dataset.

Paths are relative to the folder that the environment variable ``DETECTRON2_DATASETS`` names (default ``datasets``),
read when a dataset is used. Importing :mod:`maft.data` registers every row, under its name and its aliases, in
Detectron2's ``DatasetCatalog`` and ``MetadataCatalog``; no file is touched before a dataset is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from maft.data.folder import FOLDER_PREFIX, folder_label_set, folder_path
from maft.data.label_sets import LabelSet, check_order, label_set, overlap, read_class_list
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
        prepare: what ``maft prepare`` calls it, which makes ``labels``; empty when the download is used as it is.
        homepage: where the original download is found.
        aliases: names the field knows this dataset by.
        label_suffix, image_suffix: file endings.
        split_by_labels: the image folder is shared by several splits, so the label folder says which belong.
        seen_only: labels hold only the seen classes, renumbered (zero-shot training).
        panoptic_json, panoptic_root: annotation of panoptic segments in COCO's format.
        instances_json: annotation of instances in COCO's format.
        instance_suffix: ending of Cityscapes' instance maps, beside the label maps; instances are measured by them.
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
    instance_suffix: str = ""

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
        kinds = {"panoptic": self.panoptic_json, "instance": self.instances_json or self.instance_suffix}
        return ("semantic", *(kind for kind, file in kinds.items() if file))


def datasets_root() -> Path:
    """The folder of all datasets: ``DETECTRON2_DATASETS``, or ``datasets`` in the working folder."""
    return Path(os.path.expanduser(os.environ.get("DETECTRON2_DATASETS") or "datasets"))


# The unseen split of the miniature world is rotated; hyper-parameters are chosen on the tuning split.
TABLE = TypeAdapter(tuple[DatasetRow, ...]).validate_json(Path(__file__).with_suffix(".json").read_bytes())
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


def is_known(name: str) -> bool:
    """Whether `dataset` knows a name: a row of the catalogue or a folder, not what others registered."""
    return name in _BY_NAME or name.startswith(FOLDER_PREFIX)


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
    check_order(names, [row.classes.names()[index] for index in row.labelled], f"Class list {variant}", name)
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
        UserError: see :func:`class_names`; or ``overlap`` came without training names.
    """
    row = dataset(name)
    names = class_names(name, variant)
    if seen == "none":
        return Vocabulary(names)
    if seen == "split":
        return Vocabulary(names, row.seen)
    if training_names is None:
        raise UserError(f"Seen classes of {name} by overlap need the class strings of the training vocabulary.")
    return Vocabulary(names, overlap(names, training_names))
