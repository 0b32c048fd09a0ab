"""Tiny runs of everything that takes long in earnest, and what of their output has to be the same in every run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

import maft.evaluation.progress
from maft.data.miniature import ensure_miniature

_TINY = (
    "MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", 0, "MODEL.PROPOSER.Mask2Former.NUM_POINTS", 64,
    "SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 5, "SOLVER.CHECKPOINT_PERIOD", 2, "SOLVER.KEEP_CHECKPOINTS", 1,
    "SOLVER.LOG_PERIOD", 1, "TEST.VISUALIZE", 3, "TEST.RESUME", True,
)  # fmt: skip
_TRAIN = ("tools/train_net.py", "--config-file", "configs/quickstart/proposer.yaml")
_MINE = ("tools/mine_mask_nouns.py", "--config-file", "configs/quickstart/mining.yaml")
# Lines of time, and files whose names hold a time or a process.
_VARYING = ("log.txt", ".lock", "events.out.", ".prepare_")
_TIMED = ("metrics.json", "results.json")
_TIMES = ("time", "data_time", "eta_seconds", "seconds_per_image", "images_per_second", "peak_memory_mib")


@dataclass(frozen=True)
class Program:
    """A script whose run can be broken.

    Attributes:
        name: of its output folder below the work folder.
        arguments: of a work folder, the script and its command line; the same to begin and to go on.
        prepare: lays what is converted in place into the output folder.
        first: called in the child before the script.
    """

    name: str
    arguments: Callable[[Path], tuple[object, ...]]
    prepare: Callable[[Path], None] = Path.mkdir
    first: Callable[[], None] | None = None


def save_each_image() -> None:
    """The counts of an evaluation are written after each image and not once a minute."""
    maft.evaluation.progress.SAVE_SECONDS = 0.0


def draw(datasets: Path) -> None:
    """The miniature world of the programs."""
    ensure_miniature(datasets / "miniature", {"train": 8, "val": 3})


def draw_cityscapes(root: Path) -> None:
    """20 images a split in the layout of the download."""
    draws = np.random.default_rng(0)
    for split in ("train", "val"):
        for number in range(20):
            stem = f"aachen/aachen_{number:06d}_000019"
            classes = draws.integers(7, 34, (16, 24)).astype(np.uint16)
            for part, kind, pixels in (
                ("leftImg8bit", "leftImg8bit", np.zeros((16, 24, 3), np.uint8)),
                ("gtFine", "gtFine_labelIds", classes.astype(np.uint8)),
                ("gtFine", "gtFine_instanceIds", np.where(classes < 24, classes, classes * 1000)),
            ):
                file = root / "cityscapes" / part / split / f"{stem}_{kind}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(file)


PROGRAMS = [
    Program("train", lambda work: (*_TRAIN, *_TINY, "OUTPUT_DIR", work / "train", "--resume"), first=save_each_image),
    Program("evaluate", lambda work: (*_TRAIN, *_TINY, "OUTPUT_DIR", work / "evaluate", "--eval-only",
            "MODEL.START_FROM", "[{'FILE': 'configs/quickstart/proposer.safetensors'}]"), first=save_each_image),
    Program("mine", lambda work: (*_MINE, "--captions", work / "datasets/miniature/train/captions.json",
            "--output", work / "mine", "MODEL.DEVICE", "cpu")),
    Program("prepare", lambda work: ("datasets/prepare_cityscapes.py", "--root", work / "prepare", "--workers", 2),
            prepare=draw_cityscapes),
]  # fmt: skip


def contents(folder: Path) -> dict[str, bytes]:
    """What every run writes alike, by path: all files, hidden ones too; of JSON files with times all but these."""
    found = {str(file.relative_to(folder)): file for file in sorted(folder.rglob("*")) if file.is_file()}
    return {
        path: _without_times(file) if file.name in _TIMED else file.read_bytes()
        for path, file in found.items()
        if not file.name.startswith(_VARYING)
    }


def _without_times(file: Path) -> bytes:
    text = file.read_text()
    values = [json.loads(line) for line in text.splitlines()] if file.name == "metrics.json" else [json.loads(text)]
    kept = [{key: value for key, value in each.items() if key not in _TIMES} for each in values]
    return "\n".join(map(json.dumps, kept)).encode()


def difference(found: dict[str, bytes], expected: dict[str, bytes]) -> list[str]:
    """Paths that are in one alone or not the same in both.

    Of metrics.json one line may be missing: that of the iteration whose checkpoint was written when the run was killed,
    which follows it.
    """
    return sorted(
        path
        for path in found.keys() | expected.keys()
        if found.get(path) != expected.get(path)
        and not (path == "metrics.json" and _lacks_one_line(found.get(path, b""), expected.get(path, b"")))
    )


def _lacks_one_line(found: bytes, expected: bytes) -> bool:
    lines, wanted = found.splitlines(), expected.splitlines()
    return any(lines == wanted[:place] + wanted[place + 1 :] for place in range(len(wanted)))
