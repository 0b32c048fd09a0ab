"""Test-time augmentation and sliding windows: the mean of the semantic score maps of an image seen in several ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import Tensor

from maft.data.augmentations import ResizeShortestEdge
from maft.errors import UserError
from maft.inference import has_background, keep_best_proposals, semantic_result
from maft.interfaces import Proposer
from maft.layers.score_maps import Tile, View, window_starts
from maft.registry import PROPOSERS
from maft.segmentor import OpenVocabSegmentor
from maft.structures import Vocabulary
from maft.summed_logits import row_logits, summing_tile

# Tiles that a model sees at once, unless one image has fewer pixels than so many tiles.
_MOST_TILES = 8


def inference_of(cfg: CfgNode, model: OpenVocabSegmentor) -> OpenVocabSegmentor | AveragedInference:
    """The model as ``TEST.AUG`` and ``TEST.SLIDING_WINDOW`` ask for it: itself where both are off.

    Raises:
        UserError: the proposer's masks do not come from the pixels, or other than semantic results are on.
    """
    augmentation, window = cfg.TEST.AUG, cfg.TEST.SLIDING_WINDOW
    if not averaging(cfg):
        return model
    return AveragedInference(
        model,
        short_edges=augmentation.MIN_SIZES if augmentation.ENABLED else (),
        max_size=augmentation.MAX_SIZE,
        flip=augmentation.ENABLED and augmentation.FLIP,
        window=(window.TILE_SIZE, window.OVERLAP) if window.ENABLED else None,
    )


def averaging(cfg: CfgNode) -> dict[str, Any]:
    """What is averaged over, for reports; empty where nothing is."""
    keys = {"test_time_augmentation": cfg.TEST.AUG, "sliding_window": cfg.TEST.SLIDING_WINDOW}
    return {name: dict(node) for name, node in keys.items() if node.ENABLED}


def check_test_time(cfg: CfgNode) -> None:
    """Raises what `inference_of` would, before a model is built."""
    if averaging(cfg):
        options = {key.lower(): value for key, value in cfg.MODEL.INFERENCE.items()}
        _check(PROPOSERS.get(cfg.MODEL.PROPOSER.NAME), options, cfg.TEST.SLIDING_WINDOW.ENABLED)


def _check(proposer: type[Proposer], options: Mapping[str, Any], windows: bool) -> None:
    if not proposer.sees_pixels:
        raise UserError(
            f"The masks of {proposer.__name__} are those of the whole image and follow no copy of it: set "
            "TEST.AUG.ENABLED and TEST.SLIDING_WINDOW.ENABLED False."
        )
    if not options["semantic"] or options["panoptic"] or options["instance"]:
        raise UserError(
            "TEST.AUG and TEST.SLIDING_WINDOW average semantic results alone: set MODEL.INFERENCE.SEMANTIC True, and "
            "PANOPTIC and INSTANCE False."
        )
    if windows and options["resize_before"]:
        raise UserError(
            "TEST.SLIDING_WINDOW averages scores at the size of the image that the model is shown: set "
            "MODEL.INFERENCE.RESIZE_BEFORE False."
        )


class AveragedInference:
    """A model's semantic results, averaged over resized and flipped copies of an image and over windows.

    Args:
        model: in evaluation mode.
        short_edges: a copy of the image for each, its shorter side so long; none: the image as it is.
        max_size: limit of the copies' longer side, which wins.
        flip: every copy also with left and right exchanged.
        window: side of square windows and the share of it that neighbours overlap; None shows the model whole copies.
            An image no longer than the window on a side has one window there, as long as the image.

    Raises:
        UserError: the proposer's masks do not come from the pixels, or other than semantic results are on.
    """

    def __init__(
        self,
        model: OpenVocabSegmentor,
        *,
        short_edges: Sequence[int] = (),
        max_size: int = 0,
        flip: bool = False,
        window: tuple[int, float] | None = None,
    ) -> None:
        _check(type(model.proposer), model.inference_options, window is not None)
        self.model, self.flip, self.window = model, flip, window
        self.resizes = [ResizeShortestEdge([side], max_size, "choice") for side in short_edges]

    def __call__(self, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """ "sem_seg_labels", "sem_seg_confidence" and, unless ``labels_only``, "sem_seg", as the model returns them.

        Args:
            records: Detectron2 dicts, see `OpenVocabSegmentor.forward`. Copies are made of "image".
        """
        return self.predict(records, self.model.vocabulary)

    @torch.no_grad()
    def predict(
        self, records: Sequence[dict[str, Any]], vocabulary: Vocabulary, options: Mapping[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """The same with names of the call's own, see `OpenVocabSegmentor.predict`."""
        options = self.model.inference_options if options is None else options
        return [self._result(record, vocabulary, options) for record in records]

    def _result(self, record: dict[str, Any], vocabulary: Vocabulary, options: Mapping[str, Any]) -> dict[str, Any]:
        model, image = self.model, record["image"]
        size = (int(record.get("height", image.shape[-2])), int(record.get("width", image.shape[-1])))
        views = [self._view(copy, record, vocabulary) for copy in self._copies(image)]
        seen, penalty = vocabulary.seen, None
        if seen is not None and (value := options["seen_penalty"]):
            penalty = torch.tensor(seen, device=model.device) * value
        # Sums over proposals need more digits than the precision that the model may run in.
        with torch.autocast(model.device.type, enabled=False):
            return semantic_result(
                views,
                size,
                penalty,
                labels_only=options["labels_only"],
                background_below=options["background_below"],
                background=has_background(vocabulary),
                temperature=options.get("temperature"),
            )

    def _copies(self, image: Tensor) -> list[Tensor]:
        if not self.resizes:
            return [image]
        pixels = image.permute(1, 2, 0).cpu().numpy()
        resized = [resize.get_transform(pixels).apply_image(pixels) for resize in self.resizes]
        return [torch.from_numpy(np.ascontiguousarray(copy.transpose(2, 0, 1))) for copy in resized]

    def _view(self, image: Tensor, record: dict[str, Any], vocabulary: Vocabulary) -> View:
        exposures = [(False, self._seen(image, record, vocabulary))]
        if self.flip:
            exposures.append((True, self._seen(image.flip(-1), record, vocabulary)))
        size = (int(image.shape[-2]), int(image.shape[-1]))
        return View(size, exposures, bool(self.model.inference_options["resize_before"]))

    def _seen(self, image: Tensor, record: dict[str, Any], vocabulary: Vocabulary) -> list[Tile]:
        height, width = image.shape[-2:]
        boxes = [(0, 0, height, width)]
        if self.window is not None:
            window, overlap = self.window
            rows, columns = window_starts(height, window, overlap), window_starts(width, window, overlap)
            boxes = [(top, left, min(window, height), min(window, width)) for top in rows for left in columns]
        # No more pixels at a time than the image itself would have.
        together = max(1, min(_MOST_TILES, height * width // (boxes[0][2] * boxes[0][3])))
        tiles: list[Tile] = []
        for start in range(0, len(boxes), together):
            tiles += self._tiles(image, boxes[start : start + together], record, vocabulary)
        return tiles

    def _tiles(
        self,
        image: Tensor,
        boxes: list[tuple[int, int, int, int]],
        record: dict[str, Any],
        vocabulary: Vocabulary,
    ) -> list[Tile]:
        model = self.model
        parts = [{**record, "image": image[:, top : top + h, left : left + w]} for top, left, h, w in boxes]
        images = model.padded(parts)
        proposals = model.propose(images, parts, vocabulary)
        classification = model.classify(images, proposals, vocabulary)
        scores = model.class_probabilities(proposals, classification, vocabulary)[..., : len(vocabulary)].float()
        cut = model.inference_options["best_masks_above"]
        tiles = [
            Tile(
                keep_best_proposals(scores[index]) if cut else scores[index],
                proposals.masks[index].float(),
                images.padded_size,
                *box,
                are_logits=proposals.are_logits,
                align_corners=proposals.align_corners,
                cut=cut,
            )
            for index, box in enumerate(boxes)
        ]
        if not model.inference_options.get("sum_logits"):
            return tiles
        rows = row_logits(proposals, classification, len(vocabulary))
        return [summing_tile(tile, rows.image(index)) for index, tile in enumerate(tiles)]
