"""Segments and instances of a model, as a user reads them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from detectron2.structures import Instances

from maft.inference import ResizedMasks, instance_inference
from maft.predictor.prediction import Instance
from maft.structures import Images, Proposals, Vocabulary


def words_in(labels: torch.Tensor, count: int) -> torch.Tensor:
    """(count,) bool, the words that label any pixel of (H, W) labels, -1 for none."""
    return torch.bincount(labels.flatten() + 1, minlength=count + 1)[1:] > 0


def segments_of(
    found: tuple[torch.Tensor, list[dict[str, Any]]],
    words: Vocabulary,
    none_below: float,
    answered: torch.Tensor | None = None,
) -> tuple[np.ndarray, tuple[dict[str, Any], ...]]:
    """(H, W) int32 ids and the segments of `Prediction`, of those of `maft.inference.panoptic_inference`.

    Args:
        none_below: least score.
        answered: (C,) bool, the words that are kept; None: all.
    """
    ids, segments = found
    areas = torch.bincount(ids.flatten(), minlength=len(segments) + 1).tolist()
    kept = [segment for segment in segments if segment["score"] >= none_below]
    if answered is not None:
        kept = [segment for segment in kept if answered[segment["category_id"]]]
    stays = torch.zeros(len(segments) + 1, dtype=torch.bool, device=ids.device)
    stays[[segment["id"] for segment in kept]] = True
    described = tuple(
        {
            "id": segment["id"],
            "label": segment["category_id"],
            "name": words.names[segment["category_id"]],
            "isthing": segment["isthing"],
            "area": areas[segment["id"]],
            "score": segment["score"],
        }
        for segment in kept
    )
    return ids.where(stays[ids], 0).cpu().numpy(), described


def instances_of(
    found: Instances, words: Vocabulary, none_below: float, answered: torch.Tensor | None = None
) -> tuple[Instance, ...]:
    """Those of `maft.inference.instance_inference`, best first; of the names that one mask was given, the best.

    Args:
        none_below: least score.
        answered: (C,) bool, the words that are kept; None: all.
    """
    order = found.scores.argsort(descending=True, stable=True).cpu().numpy()
    _, first = np.unique(found.proposals.cpu().numpy()[order], return_index=True)
    best = found[torch.from_numpy(order[np.sort(first)]).to(found.scores.device)]
    best = best[best.pred_masks.flatten(1).any(1) & (best.scores > 0) & (best.scores >= none_below)]
    if answered is not None:
        best = best[answered[best.pred_classes]]
    masks, boxes = best.pred_masks.cpu().numpy(), best.pred_boxes.tensor.tolist()
    return tuple(
        Instance(label, words.names[label], score, tuple(box), mask)
        for label, score, box, mask in zip(best.pred_classes.tolist(), best.scores.tolist(), boxes, masks, strict=True)
    )


def shown_objects(
    proposals: Proposals, probabilities: torch.Tensor, images: Images, size: tuple[int, int], words: Vocabulary
) -> tuple[Instance, ...]:
    """Every proposal of one image with its best name, in their order.

    Args:
        probabilities: (Q, C) or (Q, C + 1), void last.
        images: a batch of one.
        size: (H, W) of the masks.
    """
    best, labels = probabilities[:, : len(words)].float().max(dim=1)
    masks = ResizedMasks.of(proposals, images.sizes[0], size)
    found = instance_inference(best[:, None], masks, most=len(best))
    found = found[found.proposals.argsort()]
    return tuple(
        Instance(label, words.names[label], score, tuple(box), mask)
        for label, score, box, mask in zip(
            labels.tolist(), found.scores.tolist(), found.pred_boxes.tensor.tolist(), found.pred_masks.cpu().numpy()
        )
    )
