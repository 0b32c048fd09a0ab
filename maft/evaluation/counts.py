"""The counts of each image behind an evaluation's table, as a file from which anyone can add it up again."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maft.checkpoint.io import read_metadata, read_state_dict, write_safetensors
from maft.errors import UserError, first_line
from maft.evaluation.mask_accuracy import MaskAccuracyEvaluator
from maft.evaluation.panoptic import PanopticEvaluator
from maft.evaluation.report import Results
from maft.evaluation.semantic import SemanticEvaluator

FILE = "counts.safetensors"
# One entry of the file's metadata, as safetensors writes several in a random order.
_METADATA, _VERSION = "maft.counts", 1
# Tables by task, and their columns beside "image".
_CELLS = ("predicted", "true", "count")
_COLUMNS = {
    "sem_seg": _CELLS,
    "mask_accuracy": _CELLS,
    "panoptic_mask_accuracy": _CELLS,
    "panoptic_seg": ("class", "iou", "true_positives", "false_positives", "false_negatives"),
}
_QUALITY = _COLUMNS["panoptic_seg"][1:]


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation measured on.

    Attributes:
        dataset: its name.
        protocol: ``TEST.PROTOCOL``.
        class_names: of the dataset, in label order.
        ignore_label: value of unlabelled pixels.
        seen: (C,) flags, or None where there is no split.
        things: (C,) flags.
        files: path of each image.
        names: of each image, alike wherever the dataset lies: that of its file, with folders where names occur twice.
        ids: of each image in the dataset.
    """

    dataset: str
    protocol: str
    class_names: tuple[str, ...]
    ignore_label: int
    seen: tuple[bool, ...] | None
    things: tuple[bool, ...]
    files: tuple[str, ...]
    names: tuple[str, ...]
    ids: tuple[int | str, ...]


@dataclass(frozen=True, eq=False)
class Counts:
    """What was counted of each image.

    Attributes:
        of: what was measured on.
        tables: task ("sem_seg", "panoptic_seg", "mask_accuracy", "panoptic_mask_accuracy") -> column -> (n,) tensor,
            see the ``rows`` of `SemanticEvaluator` and `PanopticEvaluator`; the column ``image`` is the place of the
            image in ``of.files``, ascending. ``predicted`` and ``true`` are places among the ``offered`` classes, and
            the number of these for nothing predicted or ignored.
        pictures, annotations: (images, 32) uint8 SHA-256 of each image file and of its annotations, see
            `maft.evaluation.provenance.DataDigests`.
    """

    of: Evaluated
    tables: Mapping[str, Mapping[str, Tensor]]
    pictures: Tensor
    annotations: Tensor

    @property
    def digests(self) -> tuple[Tensor, Tensor]:
        """``pictures`` and ``annotations``."""
        return self.pictures, self.annotations

    @property
    def offered(self) -> list[int]:
        """The classes that were offered to the model, in label order."""
        seen = self.of.seen or (False,) * len(self.of.class_names)
        return [label for label, flag in enumerate(seen) if self.of.protocol == "generalized" or not flag]

    def confusion(self, task: str = "sem_seg") -> Tensor:
        """(C + 1, C + 1) int64 sum over all images, see `maft.evaluation.confusion.ConfusionMatrix`."""
        table, size = self.tables[task], len(self.offered) + 1
        cells = table["predicted"].long() * size + table["true"].long()
        return torch.zeros(size * size, dtype=torch.int64).index_add_(0, cells, table["count"].long()).view(size, size)

    def qualities(self) -> Tensor:
        """(4, C) float64 sum over all images, see ``table`` of `PanopticEvaluator`."""
        table = self.tables["panoptic_seg"]
        values = torch.stack([table[name].double() for name in _QUALITY])
        return values.new_zeros(len(_QUALITY), len(self.of.class_names)).index_add_(1, table["class"].long(), values)

    def results(self) -> Results:
        """The numbers of the evaluation, added up from the counts of the images by the evaluators themselves."""
        results: Results = {}
        of = self.of
        rest: dict[str, Any] = {"seen": self.of.seen, "things": self.of.things, "protocol": self.of.protocol}
        for task in self.tables:
            evaluator: SemanticEvaluator | PanopticEvaluator
            if task == "panoptic_seg":
                evaluator = PanopticEvaluator(of.class_names, of.things)
                evaluator.table = self.qualities()
            else:
                evaluator = (
                    SemanticEvaluator(of.class_names, of.ignore_label, **rest)
                    if task == "sem_seg"
                    else MaskAccuracyEvaluator(
                        of.class_names, of.ignore_label, panoptic=task.startswith("panoptic"), **rest
                    )
                )
                evaluator.confusion.counts = self.confusion(task)
            results.update(evaluator.evaluate())
        return results


def gathered_tables(evaluators: Iterable[Any]) -> dict[str, dict[str, Tensor]]:
    """The tables of `Counts` of those evaluators that count; has to be called by all processes, empty but in one."""
    counting = [one for one in evaluators if isinstance(one, (SemanticEvaluator, PanopticEvaluator))]
    return {one.task: one.rows.gathered() for one in counting}


def image_names(files: Sequence[str]) -> list[str]:
    """A name for the results of each image: that of its file, with its folders where names occur twice.

    Where names still do, they keep their endings.
    """
    names = [Path(file).stem for file in files]
    if _differ(names):
        return names
    paths = [os.path.abspath(file) for file in files]
    folder = os.path.commonpath([os.path.dirname(path) for path in paths])
    whole = [os.path.relpath(path, folder) for path in paths]
    names = [os.path.splitext(name)[0] for name in whole]
    return names if _differ(names) else whole


def _differ(names: Sequence[str]) -> bool:
    return len(set(names)) == len(names)


def write_counts(folder: Path, counts: Counts) -> None:
    """Writes ``counts.safetensors`` into the folder of a dataset's results, whole or not at all."""
    tensors = {f"{task}/{name}": values for task, table in counts.tables.items() for name, values in table.items()}
    tensors |= {"pictures": counts.pictures, "annotations": counts.annotations}
    facts = {"version": _VERSION, **asdict(counts.of)}
    write_safetensors(folder / FILE, tensors, {_METADATA: json.dumps(facts)})


def read_counts(folder: str | os.PathLike[str]) -> Counts:
    """Reads ``counts.safetensors`` of a dataset's results; neither the model nor the images are needed.

    Args:
        folder: ``OUTPUT_DIR/inference/<dataset>``.

    Raises:
        UserError: it is missing, damaged, or of another format.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        raise UserError(f"There is no {path}: evaluate again, which keeps the counts of each image.")
    tensors = read_state_dict(path)
    metadata = read_metadata(path)
    try:
        facts = json.loads(metadata.get(_METADATA, "{}"))
        if facts.get("version") != _VERSION:
            raise UserError(f"{path} is not a file of counts that this version reads: evaluate again.")
        values: dict[str, Any] = {field.name: facts[field.name] for field in fields(Evaluated)}
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        of = Evaluated(**values)
        tables = {
            task: {name: tensors[f"{task}/{name}"] for name in ("image", *columns)}
            for task, columns in _COLUMNS.items()
            if f"{task}/image" in tensors
        }
        counts = Counts(of, tables, tensors["pictures"], tensors["annotations"])
        _check(counts)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({first_line(error)}): evaluate again, or copy it again.") from None
    return counts


def _check(counts: Counts) -> None:
    """Raises ValueError where numbers lead nowhere."""
    images, classes = len(counts.of.files), len(counts.of.class_names)
    for task, table in counts.tables.items():
        limits = {"image": images, "class": classes, **dict.fromkeys(_CELLS[:2], len(counts.offered) + 1)}
        for name, values in table.items():
            if values.shape != table["image"].shape or values.dim() != 1:
                raise ValueError(f"the columns of {task} have several lengths")
            if values.is_floating_point() != (name == "iou") or values.dtype == torch.bool:
                raise ValueError(f"column {name} of {task} holds numbers of type {values.dtype}")
            if len(values) and not 0 <= values.min() <= values.max() < limits.get(name, float("inf")):
                raise ValueError(f"column {name} of {task} holds {values.min()} to {values.max()}")
    per_image = [len(counts.of.names), len(counts.of.ids), len(counts.pictures), len(counts.annotations)]
    if per_image != [images] * 4 or any(len(flags) != classes for flags in (counts.of.things, counts.of.seen) if flags):
        raise ValueError("its lists have several lengths")
    if any(digests.shape != (images, 32) or digests.dtype != torch.uint8 for digests in counts.digests):
        raise ValueError("its hashes have another form")
    if not _differ(counts.of.names):
        raise ValueError("two images have one name")
