"""What an index says of an image as a prediction, and pictures of the masks that were found in it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from maft.data.pixels import pixels_of
from maft.errors import UserError
from maft.exports.cut_outs import cut_out
from maft.files import atomic_path, sha256
from maft.index import Index
from maft.index.ranking import FoundMask
from maft.inference import label_options
from maft.predictor.merging import merged_results
from maft.predictor.objects import instances_of, segments_of
from maft.predictor.prediction import Prediction
from maft.structures import Proposals, Vocabulary
from maft.visualize import contact_sheet, short_name


@torch.no_grad()
def asked_prediction(
    index: Index, image: int, words: Vocabulary, things: list[bool] | None = None, *, picture: bool = True
) -> Prediction:
    """The prediction of an image, as a `Predictor` with the same words makes it of the file.

    Args:
        image: its number in the index.
        things: of the words, for segments and instances as well; None: labels alone.
        picture: reads the pixels of the file; otherwise they are black, and only overlays are wrong.

    Raises:
        UserError: the file is gone or another one now, or see `Index.result`.
    """
    result = index.result(image, words)
    labels, confidence = result["sem_seg_labels"].cpu().numpy(), result["sem_seg_confidence"].cpu().numpy()
    pixels = pixels_in(index, image) if picture else np.zeros((*labels.shape, 3), np.uint8)
    known: dict[str, Any] = {
        "image": pixels,
        "labels": labels,
        "confidence": confidence,
        "class_names": words.names,
        "unknown_words": index.model.clip.unknown_words(words.names),
    }
    if things is None:
        return Prediction(**known)
    of_objects = _objects(index, image, words, things)
    ids, segments = segments_of(of_objects["panoptic_seg"], words, 0.0)
    instances = instances_of(of_objects["instances"], words, 0.0)
    return Prediction(**known, segment_ids=ids, segments=segments, instances=instances)


def _objects(index: Index, image: int, words: Vocabulary, things: list[bool]) -> dict[str, Any]:
    model, options = index.model, index.model.inference_options
    alone = label_options(options)
    images, proposals, named, record = index.said(image, words)

    def combined(proposals: Proposals, **changed: bool) -> dict[str, Any]:
        return model.combine(images, proposals, named, [record], words, things, {**alone, **changed})[0]

    if options["panoptic"] or options["instance"]:
        return combined(proposals, semantic=False, panoptic=True, instance=True)
    probabilities = model.class_probabilities(proposals, named, words)[0]
    return merged_results(combined, proposals, probabilities, torch.tensor(things, device=model.device))


def pixels_in(index: Index, image: int) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB of the file of an image.

    Raises:
        UserError: it is gone, cannot be read, or is another one than was indexed.
    """
    file, digest = index.files[image], index.entry(image).digest
    try:
        changed = sha256(file) != digest
    except OSError as error:
        raise UserError(
            f"Image {file} of the index cannot be read ({error.strerror}), and its picture is asked for: put it back, "
            "or ask for labels, json, coco or ranking, which need no images."
        ) from error
    if changed:
        raise UserError(
            f"Image {file} is another one now than the one that was indexed, and its masks do not fit it: index the "
            "images again."
        )
    return pixels_of(file)


def write_sheet(index: Index, found: Sequence[FoundMask], path: Path) -> None:
    """Writes a contact sheet of masks that were found, each cut out of its image, with rank, word and score.

    Raises:
        UserError: the file cannot be written, or see `pixels_in`.
    """
    pixels = lru_cache(maxsize=8)(lambda image: pixels_in(index, image))
    tiles = [cut_out(pixels(one.image), coco_mask.decode(one.segmentation).astype(bool)) for one in found]
    captions = [
        " ".join(filter(None, (f"{rank}.", short_name(one.word), f"{one.score:.2f}")))
        for rank, one in enumerate(found, start=1)
    ]
    with atomic_path(path) as temporary:
        Image.fromarray(contact_sheet(tiles, captions)).save(temporary)
