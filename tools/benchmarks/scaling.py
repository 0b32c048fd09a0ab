"""How the cost of an image's results grows with proposals, classes and pixels, and the picture of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks.inputs import random_mask_logits
from benchmarks.measure import Comparison, Form, compare
from maft.files import atomic_path
from maft.inference import image_result

# What is held while another one grows.
_QUERIES, _CLASSES, _SIDE = 100, 150, 640
AXES: Mapping[str, Sequence[int]] = {
    "proposals": (50, 100, 250, 500, 1000),
    "classes": (20, 100, 500, 1000, 2000, 5000),
    "pixels of a side": (480, 640, 1024, 2048),
}


def run(
    device: torch.device, repeats: int, *, axes: Mapping[str, Sequence[int]] = AXES, side: int = _SIDE
) -> list[Comparison]:
    """Semantic labels, then a panoptic map, of one image for every point of every axis.

    ``side`` is that of the image where proposals or classes grow.
    """
    found = []
    for axis, values in axes.items():
        for value in values:
            held = {"proposals": _QUERIES, "classes": _CLASSES, "pixels of a side": side, axis: value}
            forms = _forms(device, held["proposals"], held["classes"], held["pixels of a side"])
            found.append(compare("scaling", f"{axis}: {value}", forms, device, repeats))
    return found


def _forms(device: torch.device, queries: int, classes: int, side: int) -> list[Form]:
    draws = torch.Generator().manual_seed(0)
    masks = random_mask_logits(queries, (side // 4, side // 4)).to(device)
    probabilities = (8 * torch.randn(queries, classes + 1, generator=draws)).softmax(-1).to(device)
    things = (torch.arange(classes) % 2 == 0).to(device)
    size = (side, side)
    given = partial(
        image_result, probabilities, masks, size, padded_size=size, image_size=size, are_logits=True, classes=classes,
        seen=None, things=things,
    )  # fmt: skip
    options = {
        "instance": False, "best_masks_above": 0.0, "seen_penalty": 0.0, "resize_before": False, "labels_only": True,
        "object_mask_threshold": 0.0, "overlap_threshold": 0.8,
    }  # fmt: skip
    semantic, panoptic = ({**options, "semantic": one, "panoptic": not one} for one in (True, False))

    @torch.no_grad()
    def labels() -> torch.Tensor:
        return given(options=semantic)["sem_seg_labels"]

    @torch.no_grad()
    def segments() -> torch.Tensor:
        return given(options=panoptic)["panoptic_seg"][0]

    return [Form("semantic labels", labels), Form("panoptic map", segments)]


def draw(comparisons: Sequence[Comparison], out: Path) -> None:
    """Writes the curves of `run` as a picture: seconds above, peak memory below, a column an axis."""
    from matplotlib.figure import Figure

    axes = list(dict.fromkeys(comparison.setting.rpartition(": ")[0] for comparison in comparisons))
    figure = Figure(figsize=(4 * len(axes), 6), layout="constrained")
    panels = figure.subplots(2, len(axes), squeeze=False)
    for column, axis in enumerate(axes):
        points = [comparison for comparison in comparisons if comparison.setting.startswith(f"{axis}: ")]
        values = [int(point.setting.rpartition(": ")[2]) for point in points]
        for number, row in enumerate(points[0].rows):
            rows = [point.rows[number] for point in points]
            panels[0][column].plot(values, [one.seconds for one in rows], marker="o", label=row.form)
            peaks = [float("nan") if one.peak_mib is None else one.peak_mib for one in rows]
            panels[1][column].plot(values, peaks, marker="o", label=row.form)
        for panel, what in ((panels[0][column], "seconds"), (panels[1][column], "peak memory, MiB")):
            panel.set_xlabel(axis)
            panel.set_ylabel(what)
            panel.set_xscale("log")
            panel.set_xticks(values, [str(value) for value in values])
            panel.minorticks_off()
            panel.set_ylim(bottom=0)
            panel.grid(alpha=0.3)
    panels[0][0].legend()
    with atomic_path(out) as unfinished:
        figure.savefig(unfinished, format="png", dpi=110)
