"""What surrounds models as pieces of work: mapper, catalogue, texts and counts, on generated inputs."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.inputs import random_mask_logits
from benchmarks.post_processing import RESULTS
from benchmarks.work import Work
from maft.clip import VocabularyEncoder, load_clip
from maft.config import load_config
from maft.data.catalog import class_names, dataset
from maft.data.mappers import SegmentationMapper
from maft.data.records import with_segments
from maft.evaluation.confusion import ConfusionMatrix
from maft.structures import Vocabulary


def lsj_mapper(device: torch.device, *, size: tuple[int, int] = (480, 640), segments: int = 12) -> Work:
    """The mapper of COCO panoptic with large-scale jitter to 1024 x 1024, on one generated image."""
    folder = tempfile.TemporaryDirectory()
    owner = random_mask_logits(segments, size).argmax(0).numpy() + 1
    picture, ids = Path(folder.name) / "image.jpg", Path(folder.name) / "ids.png"
    draws = np.random.default_rng(0)
    coarse = draws.integers(0, 256, (size[0] // 8, size[1] // 8, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((size[1], size[0])).save(picture)
    Image.fromarray(np.stack([owner, owner // 256, owner // 65536], axis=-1).astype(np.uint8)).save(ids)
    present = np.unique(owner).tolist()
    record = {
        "file_name": str(picture),
        "pan_seg_file_name": str(ids),
        "segments_info": [{"id": number, "category_id": number % 133, "iscrowd": 0} for number in present],
    }
    mapper = SegmentationMapper.from_config(load_config("fcclip/fcclip_convnextl_coco-panoptic"), True)

    def run() -> Mapping[str, Tensor]:
        assert folder.name
        np.random.seed(0)
        mapped = mapper(record)
        assert mapped is not None
        instances = mapped["instances"]
        return {"image": mapped["image"], "masks": instances.gt_masks, "classes": instances.gt_classes}

    return Work(f"{size[0]}x{size[1]}, {len(present)} segments, large-scale jitter to 1024x1024", run)


def confusion(device: torch.device, *, classes: int, size: tuple[int, int] = (640, 864)) -> Work:
    """One image's labels counted against their truth."""
    draws = torch.Generator().manual_seed(0)
    truth = torch.randint(classes, size, generator=draws)
    wrong = torch.rand(size, generator=draws) < 0.3
    prediction = torch.where(wrong, torch.randint(classes, size, generator=draws), truth).to(device)
    truth[: size[0] // 20] = 65535

    def run() -> Mapping[str, Tensor]:
        matrix = ConfusionMatrix(classes)
        matrix.update(prediction, truth)
        return {"counts": matrix.counts.cpu()}

    return Work(f"{classes} classes, {size[0]}x{size[1]}", run)


def catalogue(device: torch.device, *, images: int = 29571, segments: int = 11) -> Work:
    """The records of a generated panoptic annotation, read and checked."""
    folder = tempfile.TemporaryDirectory()
    os.environ["DETECTRON2_DATASETS"] = folder.name
    row = dataset("coco_panoptic_train")
    file, maps = row.root / row.panoptic_json, row.root / row.panoptic_root
    file.parent.mkdir(parents=True)
    maps.mkdir(parents=True)
    ids = row.classes.category_ids
    annotations = []
    for number in range(images):
        parts = [
            {"id": number * 97 % 65521 * 200 + part + 1, "category_id": ids[(number + part) % len(ids)], "iscrowd": 0,
             "area": 900 + part, "bbox": [part, part, 30, 30]}
            for part in range(segments)
        ]  # fmt: skip
        annotations.append({"image_id": number, "file_name": f"{number:012}.png", "segments_info": parts})
        (maps / f"{number:012}.png").touch()
    sizes = [{"id": number, "height": 480, "width": 640, "file_name": f"{number:012}.jpg"} for number in range(images)]
    categories = [{"id": id_, "name": name} for id_, name in zip(ids, row.classes.names())]
    file.write_text(json.dumps({"images": sizes, "annotations": annotations, "categories": categories}))

    def run() -> Mapping[str, Tensor]:
        assert folder.name
        records = [{"file_name": f"{number:012}.jpg", "image_id": number} for number in range(images)]
        found = with_segments(row, records)
        return {"segments": torch.tensor([segment["category_id"] for one in found for segment in one["segments_info"]])}

    return Work(f"{images:,} images of {segments} segments", run)


def text_rows(device: torch.device, *, tower: str = "ViT-B-16-quickgelu", classes: int = 24) -> Work:
    """The rows of a vocabulary: every class of ADE20K-847 in 14 templates; the first ones stand for all."""
    torch.manual_seed(0)
    clip = load_clip(tower, "random").to(device).eval()
    names = Vocabulary(class_names("ade20k_847_val")[:classes])

    @torch.no_grad()
    def run() -> Mapping[str, Tensor]:
        # A new encoder has kept nothing of the last run.
        encoder = VocabularyEncoder(clip.embed_dim, clip.text_width, templates="vild", void=False).eval()
        return {"rows": encoder(names, clip).embeddings}

    return Work(f"{tower}, {classes} classes x 14 templates", run, clip)


DATA: dict[str, Callable[[torch.device], Work]] = {
    "lsj-mapper": lsj_mapper,
    **RESULTS,
    "confusion-171": partial(confusion, classes=171),
    "confusion-847": partial(confusion, classes=847),
    "catalogue": catalogue,
    "text-rows": text_rows,
}
