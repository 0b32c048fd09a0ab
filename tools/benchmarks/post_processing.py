"""From masks and class probabilities to the results of an image as pieces of work, on generated inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from benchmarks.inputs import random_mask_logits
from benchmarks.work import Work
from maft.inference import image_result

# Which results, as ``MODEL.INFERENCE`` names them.
_ALL = ("semantic", "panoptic", "instance")


def results(
    device: torch.device,
    *,
    kinds: tuple[str, ...],
    queries: int = 250,
    classes: int = 133,
    seen: tuple[int, int] = (640, 864),
    size: tuple[int, int] | None = None,
) -> Work:
    """The results of one image.

    Args:
        kinds: semantic labels, panoptic segments or instances, or several of them.
        seen: (height, width) at which the model saw the image, four times as large as its masks.
        size: (H, W) of the output; None: as seen.
    """
    draws = torch.Generator().manual_seed(0)
    size = size or seen
    masks = random_mask_logits(queries, (seen[0] // 4, seen[1] // 4)).to(device)
    probabilities = (8 * torch.randn(queries, classes + 1, generator=draws)).softmax(-1).to(device)
    things = (torch.arange(classes) < classes * 3 // 5).to(device)
    options = {
        **{kind: kind in kinds for kind in _ALL}, "labels_only": True, "resize_before": False, "seen_penalty": 0.0,
        "best_masks_above": 0.0, "object_mask_threshold": 0.0, "overlap_threshold": 0.8, "max_instances": 100,
    }  # fmt: skip

    @torch.no_grad()
    def run() -> Mapping[str, Tensor]:
        result = image_result(
            probabilities, masks, size, padded_size=seen, image_size=seen, are_logits=True, classes=classes, seen=None,
            things=things, options=options,
        )  # fmt: skip
        found: dict[str, Tensor] = {}
        if "semantic" in kinds:
            found["labels"] = result["sem_seg_labels"]
        if "panoptic" in kinds:
            found["segments"], infos = result["panoptic_seg"]
            found["classes"] = torch.tensor([info["category_id"] for info in infos])
        if "instance" in kinds:
            # In no order, so that rounding does not show as another one.
            found["instance scores"] = result["instances"].scores.sort().values
        return found

    return Work(f"{queries} masks, {classes} classes, seen at {seen[0]}x{seen[1]}, output {size[0]}x{size[1]}", run)


RESULTS: dict[str, Callable[[torch.device], Work]] = {
    "panoptic-results": partial(results, kinds=("panoptic",)),
    "semantic-171": partial(results, kinds=("semantic",), queries=100, classes=171, size=(480, 640)),
    "semantic-847": partial(results, kinds=("semantic",), queries=100, classes=847, size=(480, 640)),
    "large-results": partial(results, kinds=_ALL, classes=847, seen=(2048, 2048)),
}
