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
from torch import Tensor, nn

from maft.data.catalog import class_names, dataset
from maft.data.loader import load_records
from maft.data.mappers import SegmentationMapper
from maft.data.reading import read_image, read_labels
from maft.evaluation.semantic import thing_flags
from maft.files import atomic_path
from maft.visualize import side_by_side


def predicted_labels(output: dict[str, Any]) -> Tensor:
    """(H, W) label map of a model output: its ``"sem_seg_labels"``, or the best of its ``"sem_seg"`` scores."""
    return output["sem_seg_labels"] if "sem_seg_labels" in output else output["sem_seg"].argmax(dim=0)


def picture(
    entry: dict[str, Any], output: dict[str, Any], names: Sequence[str], offered: Tensor | None = None
) -> NDArray[np.uint8]:
    """Image, ground truth (if the entry names a label file) and prediction side by side.

    Args:
        entry: dataset dict.
        output: the model's result for it.
        names: all classes of the dataset.
        offered: (K,) classes that predictions index; None means all.
    """
    labels = predicted_labels(output).cpu()
    if offered is not None:
        labels = torch.where(labels < 0, labels, offered[labels])
    maps = {"prediction": labels.numpy()}
    if "sem_seg_file_name" in entry:
        maps = {"ground truth": read_labels(entry["sem_seg_file_name"]), **maps}
    return side_by_side(read_image(entry["file_name"]), maps, names)


def write_picture(folder: Path, entry: dict[str, Any], image: NDArray[np.uint8]) -> None:
    """Writes a PNG named after the image of a dataset entry."""
    # The whole path: images of one name may lie in different folders.
    stem = re.sub(r"[^\w.-]+", "_", str(entry.get("image_id", Path(entry["file_name"]).stem)))
    with atomic_path(folder / f"{stem}.png") as temporary:
        Image.fromarray(image).save(temporary)


def draw_predictions(cfg: CfgNode, model: nn.Module, count: int = 3) -> dict[str, NDArray[np.uint8]]:
    """Pictures of the first training images under the model's present weights, by name; no state is changed.

    The training vocabulary stays in use, so that no text has to be encoded again.
    """
    plain: Any = getattr(model, "module", model)
    name = cfg.DATASETS.TRAIN[0]
    needs_targets = getattr(getattr(plain, "proposer", None), "needs_targets", False)
    mapper = SegmentationMapper.from_config(
        cfg, False, targets=cfg.INPUT.MAPPER if needs_targets else None, datasets=[name]
    )
    names = class_names(name)
    pictures = {}
    words = plain.vocabulary
    with plain.using_vocabulary(words, thing_flags(dataset(name))), inference_context(plain), torch.no_grad():
        for index, record in enumerate(_first_records(name, count)):
            output = plain([mapper(record)])[0]
            if "sem_seg" in output or "sem_seg_labels" in output:
                pictures[f"prediction/{index}"] = picture(record, output, names)
    return pictures


@lru_cache(maxsize=4)
def _first_records(name: str, count: int) -> list[dict[str, Any]]:
    # Listing a large dataset takes seconds, which the training loop should pay once.
    return load_records([name])[:count]
