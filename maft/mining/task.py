"""What is mined, and the images with their candidate nouns that it stands for."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.utils import comm
from tqdm import tqdm

from maft.data.catalog import dataset
from maft.data.reading import Record, inside
from maft.data.records import load_records
from maft.errors import UserError
from maft.mining.captions import LONGEST_WORD, CaptionedImage, has_overlong_word, image_nouns, read_captions

MASK_SOURCES = ("proposals", "ground_truth")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MiningTask:
    """What is mined; the four variants of the paper's Table 2 differ in ``masks`` and ``captions_per_image``.

    Attributes:
        masks: "proposals" (the config's proposer) or "ground_truth" (the label maps of ``DATASETS.TRAIN``).
        captions: captions file in COCO's format; None: the names of ground-truth masks take the place of nouns.
        captions_per_image: how many captions of each image are read, in the order of their ids.
        images: folder of the images, default that of ``DATASETS.TRAIN``.
        limit: stop after so many images; 0 takes all.
    """

    masks: str
    captions: str | None
    captions_per_image: int = 1
    images: str | None = None
    limit: int = 0

    def __post_init__(self) -> None:
        if self.masks not in MASK_SOURCES:
            raise UserError(f"--masks {self.masks!r} is not one of: {', '.join(MASK_SOURCES)}.")
        if self.captions is None and self.masks != "ground_truth":
            raise UserError("Proposals have no names of their own: give --captions, or --masks ground_truth.")
        if self.captions is not None and self.captions_per_image < 1:
            raise UserError("--captions-per-image must be at least 1; leave --captions out to use ground-truth names.")
        if self.limit < 0:
            raise UserError(f"--limit {self.limit} is no number of images; 0 takes all.")
        if self.images is not None and self.masks == "ground_truth":
            raise UserError(
                "--images has no effect with --masks ground_truth, which takes DATASETS.TRAIN's: leave it out."
            )

    @property
    def variant(self) -> tuple[str, int]:
        """Key of the paper's numbers."""
        return self.masks, self.captions_per_image if self.captions is not None else 0


def check_names(images: list[str]) -> None:
    if double := [image for image, count in Counter(images).items() if count > 1]:
        raise UserError(
            f"{len(double)} names stand for several images, the first is {double[0]!r}: regions are named by it, so "
            "mine their folders one by one."
        )
    if odd := [image for image in images if set(image) & set("\t\r\n")]:
        raise UserError(f"Image {odd[0]!r} has a tab or line break in its name, which a table cannot hold: rename it.")


def find_records(cfg: CfgNode, task: MiningTask) -> list[Record]:
    """The images of a run with their candidate ``nouns`` (empty with ground-truth names)."""
    labelled = {}
    if task.masks == "ground_truth":
        records = load_records(cfg.DATASETS.TRAIN)
        check_names([Path(record["file_name"]).stem for record in records])
        labelled = {Path(record["file_name"]).stem: record for record in records}
    if task.captions is None:
        return [{**record, "nouns": ()} for record in list(labelled.values())[: task.limit or None]]
    captioned = _captioned(task, labelled)
    if task.images:
        root = Path(task.images)
    else:
        row = dataset(cfg.DATASETS.TRAIN[0])
        root = row.root / row.images
    records = [
        labelled[image.stem]
        if labelled
        else {"file_name": str(inside(root, image.file_name, task.captions)), "image_id": image.stem}
        for image in captioned
    ]
    absent = [record["file_name"] for record in records if not Path(record["file_name"]).is_file()]
    if absent:
        raise UserError(
            f"{len(absent)} of {len(records)} captioned images are missing, the first is {absent[0]}: give their "
            "folder with --images."
        )
    return [{**record, "nouns": found} for record, found in zip(records, _nouns(task, captioned))]


def _captioned(task: MiningTask, labelled: dict[str, Record]) -> list[CaptionedImage]:
    assert task.captions is not None
    images = read_captions(task.captions)
    if labelled:
        kept = [image for image in images if image.stem in labelled]
        if not kept:
            raise UserError(f"None of the {len(images)} images of {task.captions} has a label map in DATASETS.TRAIN.")
        if len(kept) < len(images):
            logger.warning("%d captioned images have no label map and are left out.", len(images) - len(kept))
        images = kept
    silent = [image.file_name for image in images if not image.captions]
    if silent:
        logger.warning(
            "%d of %d images have no caption and give no pair, the first is %s.", len(silent), len(images), silent[0]
        )
    return images[: task.limit or None]


def _nouns(task: MiningTask, images: Sequence[CaptionedImage]) -> list[tuple[str, ...]]:
    rank, processes = comm.get_rank(), comm.get_world_size()
    shown = tqdm(
        images[rank::processes], "Tagging captions", unit="image", delay=2, disable=None if rank == 0 else True
    )
    share = [image_nouns(image.captions[: task.captions_per_image]) for image in shown]
    read = ((image, caption) for image in images for caption in image.captions[: task.captions_per_image])
    if overlong := [image.file_name for image, caption in read if has_overlong_word(caption)]:
        logger.warning(
            "%d captions have words of more than %d bytes, which are left out, the first is of %s.",
            len(overlong), LONGEST_WORD, overlong[0],
        )  # fmt: skip
    nouns: list[tuple[str, ...]] = [()] * len(images)
    for other, part in enumerate(comm.all_gather(share)):
        nouns[other::processes] = part
    without = [image for image, found in zip(images, nouns) if image.captions and not found]
    if images and not any(nouns):
        raise UserError(f"No caption of {task.captions} has a noun, so there is nothing to mine: are they English?")
    if without:
        caption = without[0].captions[0].strip()
        logger.warning(
            "%d of %d images have captions without a noun and give no pair, the first is %s (%r).",
            len(without), len(images), without[0].file_name, caption,
        )  # fmt: skip
    return nouns
