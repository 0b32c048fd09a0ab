"""A training run of seconds: real mapper, loader, trainer and checkpoints around a model of one convolution.

As a script: ``tiny_run.py IMAGES OUTPUT_DIR [--resume] [--processes N] [KEY VALUE ...]``.
"""

import argparse
import os
import signal
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY
from PIL import Image
from torch import nn

from maft.config_keys import add_maft_config
from maft.engine.launch import Processes, launch
from maft.engine.training import run
from maft.errors import UserError, run_tool
from maft.interfaces import Trainable
from maft.layers.distributed import global_mean, rank

CLASSES = 3
DATASET = "tiny_run_train"


@META_ARCH_REGISTRY.register()
class TinyRunModel(Trainable):
    """Per-pixel class scores; losses that count pairs, as those of the papers do, and losses per image."""

    def __init__(self, cfg):
        super().__init__()
        self.backbone = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.GroupNorm(1, 4)
        self.dropout = nn.Dropout(float(os.environ.get("TINY_DROPOUT", 0)))
        self.head = nn.Conv2d(4, CLASSES, 1)
        self.kill_at = int(os.environ.get("TINY_KILL_AT", -1))
        self.explode_at = int(os.environ.get("TINY_EXPLODE_AT", -1))
        self.steps = 0

    def forward(self, batch):
        chosen = all(
            os.environ.get(name, here) == here
            for name, here in (
                ("TINY_RANK", str(rank())),
                ("TINY_ATTEMPT", os.environ.get("TORCHELASTIC_RESTART_COUNT")),
            )
        )
        if self.steps == self.kill_at and chosen:
            happen(os.environ.get("TINY_EVENT", str(int(signal.SIGKILL))))
        images = torch.stack([sample["image"] for sample in batch]).float().to(self.head.weight.device) / 255
        scores = self.head(self.dropout(F.relu(self.norm(self.backbone(images)))))
        total, pairs = scores.sum() * 0, 0
        for score, sample in zip(scores, batch):
            classes, masks = sample["instances"].gt_classes, sample["instances"].gt_masks
            total = total + (score.sigmoid()[classes] - masks.to(score)).square().mean((1, 2)).sum()
            pairs += len(classes)
        image_loss = scores.square().mean() * (float("nan") if self.steps == self.explode_at else 1)
        self.steps += 1
        return {"loss_pairs": global_mean(total, pairs), "loss_images": 0.1 * image_loss}


def happen(event: str) -> None:
    """What goes wrong: a signal by its number, or an exception by its name."""
    if event.isdecimal():
        os.kill(os.getpid(), int(event))
    else:
        faults = {"UserError": UserError, "ValueError": ValueError, "OutOfMemoryError": torch.cuda.OutOfMemoryError}
        raise faults[event]("this one fails")


def write_images(folder: Path, *, count: int = 7, same_number: bool = False) -> None:
    """Pictures with 1 to 3 classes each, so that parts of a batch differ in their number of masks, or with 2 each.

    Of three, two lie and one stands.
    """
    folder.mkdir(parents=True, exist_ok=True)
    draws = np.random.default_rng(0)
    for index in range(count):
        size = (16, 12) if index % 3 == 1 else (12, 16)
        Image.fromarray(draws.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / f"{index}.jpg")
        labels = np.full(size, 255, dtype=np.uint8)
        for label in range(2 if same_number else 1 + index % CLASSES):
            labels[label * 4 : label * 4 + 4] = label
        Image.fromarray(labels).save(folder / f"{index}.png")


def register(folder: Path) -> None:
    def records():
        found = []
        for file in sorted(folder.glob("*.jpg")):
            with Image.open(file) as image:
                size = {"width": image.width, "height": image.height}
            found.append({"file_name": str(file), "sem_seg_file_name": str(file.with_suffix(".png")), **size})
        return found

    if DATASET in DatasetCatalog:
        DatasetCatalog.remove(DATASET)
        MetadataCatalog.remove(DATASET)
    DatasetCatalog.register(DATASET, records)
    MetadataCatalog.get(DATASET).set(stuff_classes=["a", "b", "c"], ignore_label=255)


def config(output: Path, *overrides):
    cfg = get_cfg()
    add_maft_config(cfg)
    cfg.merge_from_list([
        "MODEL.META_ARCHITECTURE", "TinyRunModel", "MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(output), "SEED", 3,
        "DATASETS.TRAIN", (DATASET,), "DATASETS.TEST", (), "DATALOADER.NUM_WORKERS", 0,
        "INPUT.MIN_SIZE_TRAIN", (12, 14), "INPUT.MAX_SIZE_TRAIN", 20, "INPUT.PADDED_SIZE", 20,
        "SOLVER.IMS_PER_BATCH", 4, "SOLVER.MAX_ITER", 6, "SOLVER.BASE_LR", 0.01, "SOLVER.WARMUP_ITERS", 2,
        "SOLVER.CHECKPOINT_PERIOD", 2, "SOLVER.LOG_PERIOD", 1, "SOLVER.CLIP_GRADIENTS.ENABLED", True,
        "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "full_model", "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 0.5,
    ])  # fmt: skip
    cfg.merge_from_list(list(overrides))
    cfg.freeze()
    return cfg


def run_registered(images: str, cfg, resume: bool) -> None:
    torch.set_num_threads(1)
    register(Path(images))
    run(cfg, False, resume)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("images")
    parser.add_argument("output", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--timeout", type=float, default=30)
    parser.add_argument("opts", nargs="*")
    arguments = parser.parse_intermixed_args()
    cfg = config(arguments.output, *arguments.opts)
    processes = Processes("cpu", arguments.processes, timeout=arguments.timeout)
    launch(run_registered, (arguments.images, cfg, arguments.resume), processes)


if __name__ == "__main__":
    run_tool(main)
