"""Pictures of predictions beside the ground truth, for evaluations and for TensorBoard."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.evaluation import inference_context
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from maft.data.catalog import class_names, dataset
from maft.data.mappers import SegmentationMapper
from maft.data.reading import Record, read_image, read_labels
from maft.data.records import load_records
from maft.evaluation.semantic import predicted_labels
from maft.files import atomic_path
from maft.segmentor import OpenVocabSegmentor
from maft.visualize import side_by_side


def picture(
    record: Record, output: dict[str, Any], names: Sequence[str], offered: Tensor | None = None
) -> NDArray[np.uint8]:
    """Image, ground truth (if the record names a label file) and prediction side by side.

    Args:
        output: the model's result for the image.
        names: all classes of the dataset.
        offered: (K,) classes that predictions index; None means all.
    """
    labels = predicted_labels(output, len(names if offered is None else offered)).cpu()
    if offered is not None:
        labels = torch.where(labels < 0, labels, offered[labels])
    maps = {"prediction": labels.numpy()}
    if "sem_seg_file_name" in record:
        maps = {"ground truth": read_labels(record["sem_seg_file_name"]), **maps}
    return side_by_side(read_image(record["file_name"]), maps, names)


def write_picture(folder: Path, record: Record, image: NDArray[np.uint8]) -> None:
    """Writes a PNG named after the image of a record."""
    # The whole path: images of one name may lie in different folders.
    stem = re.sub(r"[^\w.-]+", "_", str(record.get("image_id", Path(record["file_name"]).stem)))
    with atomic_path(folder / f"{stem}.png") as temporary:
        Image.fromarray(image).save(temporary)


def draw_predictions(cfg: CfgNode, model: OpenVocabSegmentor, count: int = 3) -> dict[str, NDArray[np.uint8]]:
    """Pictures of the first training images under the model's present weights, by name; no state is changed.

    The training vocabulary stays in use, so that no text has to be encoded again.
    """
    name = cfg.DATASETS.TRAIN[0]
    mapper = SegmentationMapper.from_config(
        cfg, False, targets=cfg.INPUT.MAPPER if model.proposer.needs_targets else None, datasets=[name]
    )
    names = class_names(name)
    pictures = {}
    with model.using_vocabulary(model.vocabulary, dataset(name).things), inference_context(model), torch.no_grad():
        for index, record in enumerate(_first_records(name, count)):
            output = model([mapper(record)])[0]
            if "sem_seg" in output or "sem_seg_labels" in output:
                pictures[f"prediction/{index}"] = picture(record, output, names)
    return pictures


@lru_cache(maxsize=4)
def _first_records(name: str, count: int) -> list[Record]:
    # Listing a large dataset takes seconds, which the training loop should pay once.
    return load_records([name])[:count]
