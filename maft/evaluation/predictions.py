"""The predictions of an evaluation as files that the benchmarks' own tools read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from torch import Tensor

from maft.data.catalog import DatasetRow, class_names
from maft.data.preparation.labels import LABEL_RULES
from maft.data.reading import Record
from maft.errors import UserError
from maft.evaluation.counts import image_names
from maft.evaluation.semantic import predicted_labels
from maft.exports.coco import categories, encoded_masks, object_results, segments_info, write_panoptic_map
from maft.exports.label_maps import write_label_map
from maft.files import atomic_path, write_json_atomic
from maft.visualize import palette


class PredictionWriter(DatasetEvaluator):
    """Writes what a model says of each image; of any number of images, one is in the memory.

    - ``semantic/<image>.png``: label maps with the values of the dataset's original ones (255, or 65535 in maps of 16
      bit, is none), see `maft.exports.label_maps.write_label_map`; ``semantic.json`` names the values.
    - ``panoptic/<image>.png`` and ``panoptic.json``: COCO's panoptic format.
    - ``instances.json``: COCO's results of instances, of the countable classes.

    Ids of categories and images are those of the dataset. `evaluate` has to be called by all processes, which write
    into one folder.

    Args:
        folder: where to.
        row: the dataset.
        records: of all its images.
        offered: label of the dataset of each word of the model.
        kinds: which of "semantic", "panoptic" and "instance" the model gives.
    """

    def __init__(
        self, folder: Path, row: DatasetRow, records: Sequence[Record], offered: Sequence[int], kinds: Sequence[str]
    ) -> None:
        self.folder, self.kinds, self.records = folder, kinds, records
        files = [record["file_name"] for record in records]
        self._names = dict(zip(files, image_names(files)))
        self._ids = [row.classes.category_ids[index] for index in row.labelled]
        self._things = row.things if any(row.things) else (True,) * row.num_classes
        self._categories = categories(self._ids, class_names(row.name), row.things)
        self._offered = list(offered)
        offset = LABEL_RULES[row.label_rule].offset if row.label_rule else 0
        values = np.array(self._ids) + offset
        # What the map of labels has for none, -1, finds the last entry.
        self._values = np.append(values[self._offered], -1)
        self._colours = np.zeros((values.max() + 1, 3), dtype=np.uint8)
        self._colours[values] = palette(len(values))
        self._described = [{**category, "id": int(value)} for category, value in zip(self._categories, values)]
        self._begun = False

    def process(self, records: list[Record], outputs: list[dict[str, Any]]) -> None:
        """Writes the maps of a batch, and what the tables will hold into an unfinished file of this process."""
        for record, output in zip(records, outputs, strict=True):
            name, image_id = self._names[record["file_name"]], record["image_id"]
            line: dict[str, Any] = {}
            if "semantic" in self.kinds:
                labels = predicted_labels(output, len(self._offered)).cpu().numpy()
                write_label_map(self.folder / f"semantic/{name}.png", self._values[labels], self._colours)
            if "panoptic" in self.kinds:
                ids, segments = output["panoptic_seg"]
                own = [{**segment, "category_id": self._category(segment["category_id"])} for segment in segments]
                stored = ids.cpu().numpy()
                write_panoptic_map(self.folder / f"panoptic/{name}.png", stored)
                info = segments_info(stored, own)
                line["panoptic"] = {"image_id": image_id, "file_name": f"{name}.png", "segments_info": info}
            if "instance" in self.kinds:
                line["instances"] = self._instances(output["instances"], image_id)
            self._append(json.dumps(line) + "\n")

    def _instances(self, found: Any, image_id: int | str) -> list[dict[str, Any]]:
        labels = found.pred_classes.tolist()
        kept = [place for place, label in enumerate(labels) if self._things[self._offered[label]]]
        return object_results(
            encoded_masks(found.pred_masks[kept].cpu().numpy().astype(bool)),
            [self._category(labels[place]) for place in kept],
            found.scores[kept].tolist(),
            image_id,
        )

    def _category(self, word: int) -> int:
        return self._ids[self._offered[word]]

    def _part(self, rank: int) -> Path:
        return self.folder / f"unfinished_{rank}_of_{comm.get_world_size()}.jsonl"

    def _append(self, text: str) -> None:
        part = self._part(comm.get_rank())
        part.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "a" if self._begun else "w", encoding="utf-8") as file:
            file.write(text)
        self._begun = True

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Joins the parts of all processes, in the order of the images, into the tables; there are no numbers."""
        # Where there are fewer images than processes, too.
        self._append("")
        comm.synchronize()
        if comm.is_main_process():
            self._write_tables()
        comm.synchronize()
        self._part(comm.get_rank()).unlink(missing_ok=True)
        return {}

    def _write_tables(self) -> None:
        if "semantic" in self.kinds:
            write_json_atomic(self.folder / "semantic.json", {"categories": self._described})
        if "panoptic" in self.kinds:
            with atomic_path(self.folder / "panoptic.json") as temporary, open(temporary, "w") as file:
                for start, entries in (
                    ('{"images": ', map(_image, self.records)),
                    (',\n"annotations": ', (line["panoptic"] for line in self._all_lines())),
                    (',\n"categories": ', self._categories),
                ):
                    file.write(start)
                    _write_list(file, entries)
                file.write("}\n")
        if "instance" in self.kinds:
            with atomic_path(self.folder / "instances.json") as temporary, open(temporary, "w") as file:
                _write_list(file, (found for line in self._all_lines() for found in line["instances"]))

    def _all_lines(self) -> Iterator[dict[str, Any]]:
        for rank in range(comm.get_world_size()):
            with open(self._part(rank), "rb") as file:
                yield from map(json.loads, file)

    def state(self) -> dict[str, Tensor]:
        """How far the unfinished file is whole."""
        self._append("")
        return {"bytes": torch.tensor(self._part(comm.get_rank()).stat().st_size)}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continues from the `state` of an earlier run: what was written after it is dropped.

        Raises:
            UserError: what that run had written is gone.
        """
        path, length = self._part(comm.get_rank()), int(state["bytes"])
        if not path.is_file() or path.stat().st_size < length:
            raise UserError(f"{path}, the predictions of the half-finished evaluation, is gone: set TEST.RESUME False.")
        os.truncate(path, length)
        self._begun = True


def _image(record: Record) -> dict[str, Any]:
    name = os.path.basename(record["file_name"])
    return {"id": record["image_id"], "file_name": name, "height": record["height"], "width": record["width"]}


def _write_list(file: TextIO, entries: Iterable[Any]) -> None:
    """Writes a JSON list, of which one entry is in the memory."""
    file.write("[")
    for number, entry in enumerate(entries):
        file.write(f"{',' if number else ''}\n{json.dumps(entry)}")
    file.write("\n]")
