"""Mines mask-noun pairs from captioned images as OVSeg does, over any number of processes.

The paper's release has no miner. What it leaves open is settled here as its statistics suggest: nouns are not
lemmatised and counted once an image; every noun takes the one valid mask whose masked crop CLIP finds most similar to
it, without a threshold; the prompts are ``MODEL.VOCABULARY.TEMPLATES``.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import Tensor
from tqdm import tqdm

from maft.building import build_model
from maft.classifiers.masked_crops import MaskedCrops
from maft.config import component_options
from maft.data.catalog import class_names, dataset
from maft.data.loader import build_test_loader
from maft.data.mappers import SegmentationMapper
from maft.data.reading import Record, inside
from maft.data.records import load_records
from maft.engine.training import set_up
from maft.errors import UserError
from maft.files import held, write_json_atomic
from maft.mining.captions import CaptionedImage, image_nouns, read_captions
from maft.mining.folder import PAPER, MiningFolder, Pair, best_masks, statistics
from maft.registry import CLASSIFIERS, PROPOSERS
from maft.segmentor import OpenVocabSegmentor
from maft.structures import Vocabulary

MASK_SOURCES = ("proposals", "ground_truth")

logger = logging.getLogger(__name__)

Chosen = list[tuple[int, str, float | None]]


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

    @property
    def variant(self) -> tuple[str, int]:
        """Key of the paper's numbers."""
        return self.masks, self.captions_per_image if self.captions is not None else 0


def mine(cfg: CfgNode, task: MiningTask) -> dict[str, float]:
    """Mines into ``OUTPUT_DIR``, going on where an earlier run stopped; has to be called by all processes.

    Returns:
        the statistics of the table, the same in all processes.

    Raises:
        UserError: images, captions, labels or weights cannot be used, the folder holds another task's results, or
            another run writes to it.
    """
    with held(cfg.OUTPUT_DIR, "regions", "shards") if comm.is_main_process() else contextlib.nullcontext():
        set_up(cfg)
        return _mine(cfg, task)


def _mine(cfg: CfgNode, task: MiningTask) -> dict[str, float]:
    records = [{**record, "position": position} for position, record in enumerate(_find_records(cfg, task))]
    images = [Path(record["file_name"]).stem for record in records]
    _check_names(images)
    folder = _folder(cfg, task, images, records)
    if comm.is_main_process():
        folder.claim()
    comm.synchronize()
    todo = [record for image, record in zip(images, records) if not folder.done(record["position"], image)]
    if len(todo) < len(records):
        logger.info("%d of %d images are done already.", len(records) - len(todo), len(records))
    # All processes share out the same list, made before any of them shortens it.
    comm.synchronize()
    if todo:
        # All nouns in one order, also after an interruption: the same batches give the same numbers.
        nouns = sorted({noun for record in records for noun in record["nouns"]})
        _mine_images(cfg, task, nouns, folder, todo)
    comm.synchronize()
    counts = None
    if comm.is_main_process():
        counts = _finish(task, folder, folder.collect(images), len(records))
    return comm.all_gather(counts)[0]


def _check_names(images: list[str]) -> None:
    if double := [image for image, count in Counter(images).items() if count > 1]:
        raise UserError(
            f"{len(double)} names stand for several images, the first is {double[0]!r}: regions are named by it, so "
            "mine their folders one by one."
        )
    if odd := [image for image in images if set(image) & set("\t\r\n")]:
        raise UserError(f"Image {odd[0]!r} has a tab or line break in its name, which a table cannot hold: rename it.")


def _folder(cfg: CfgNode, task: MiningTask, images: list[str], records: list[Record]) -> MiningFolder:
    content = "\n".join(f"{image}: {' '.join(record['nouns'])}" for image, record in zip(images, records))
    model = cfg.MODEL
    settings = {
        "masks": task.masks,
        "captions_per_image": task.variant[1],
        "images_and_nouns": hashlib.sha256(content.encode()).hexdigest()[:16],
        "weights": [model.WEIGHTS, model.START_FROM],
        "clip": [model.CLIP.NAME, model.CLIP.PRETRAINED],
        "templates": model.VOCABULARY.TEMPLATES,
        "proposer": [model.PROPOSER.NAME, component_options(PROPOSERS, model.PROPOSER)],
        "classifier": [model.CLASSIFIER.NAME, component_options(CLASSIFIERS, model.CLASSIFIER)],
        "test_size": [cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST],
    }
    return MiningFolder(Path(cfg.OUTPUT_DIR), settings)


def _find_records(cfg: CfgNode, task: MiningTask) -> list[Record]:
    """The images of a run with their candidate ``nouns`` (empty with ground-truth names)."""
    labelled = {}
    if task.masks == "ground_truth":
        records = load_records(cfg.DATASETS.TRAIN)
        _check_names([Path(record["file_name"]).stem for record in records])
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


def _mine_images(cfg: CfgNode, task: MiningTask, nouns: list[str], folder: MiningFolder, records: list[Record]) -> None:
    model = _model(cfg, task)
    text = model.vocabulary_encoder(Vocabulary(tuple(nouns)), model.clip) if nouns else None
    row = {noun: index for index, noun in enumerate(nouns)}
    names = class_names(cfg.DATASETS.TRAIN[0], cfg.MODEL.VOCABULARY.CLASS_NAMES) if task.captions is None else ()
    targets = cfg.INPUT.MAPPER if task.masks == "ground_truth" else None
    mapper = SegmentationMapper.from_config(cfg, False, targets=targets, datasets=cfg.DATASETS.TRAIN)
    loader = build_test_loader(records, mapper, workers=cfg.DATALOADER.NUM_WORKERS)
    model.proposer.check_records(records)
    with torch.no_grad():
        for batch in tqdm(loader, "Mining", unit="image", mininterval=5, disable=not comm.is_main_process()):
            candidates = batch[0]["nouns"]
            regions, masks = torch.zeros(0, 3, 1, 1, dtype=torch.uint8), torch.zeros(0, 1, 1, dtype=torch.bool)
            chosen: Chosen = []
            if candidates or names:
                rows = None if text is None else text.embeddings[[row[noun] for noun in candidates]]
                regions, masks, chosen = _image_pairs(model, batch, candidates, rows, names)
            folder.save(batch[0]["position"], Path(batch[0]["file_name"]).stem, regions, masks, chosen)


def _model(cfg: CfgNode, task: MiningTask) -> OpenVocabSegmentor:
    model = build_model(cfg).eval()
    if not isinstance(model, OpenVocabSegmentor) or not isinstance(model.classifier, MaskedCrops):
        raise UserError("Mining cuts regions out as MODEL.CLASSIFIER MaskedCrops does: choose a config that has it.")
    if task.masks == "proposals" and not (cfg.MODEL.WEIGHTS or cfg.MODEL.START_FROM):
        logger.warning("MODEL.WEIGHTS and START_FROM are empty: the proposals are those of an untrained proposer.")
    return model


def _image_pairs(
    model: OpenVocabSegmentor,
    batch: list[Record],
    nouns: Sequence[str],
    rows: Tensor | None,
    names: Sequence[str],
) -> tuple[Tensor, Tensor, Chosen]:
    """Regions (M, 3, s, s) uint8, their masks (M, s, s) bool, and (region, noun, score) of each pair of one image."""
    images, classifier = model.padded(batch), model.classifier
    assert isinstance(classifier, MaskedCrops)
    proposals = model.propose(images, batch)
    regions, masks, valid = classifier.regions(images, proposals, 0, model.clip)
    chosen: Chosen = []
    if names:
        assert proposals.labels is not None
        chosen = [(index, names[label], None) for index, label in enumerate(proposals.labels[0, valid].tolist())]
    elif len(regions):
        assert rows is not None
        found = F.normalize(classifier.encode_regions(regions, masks, model.clip).float(), dim=-1)
        scores, best = best_masks(found @ rows.T)
        chosen = list(zip(best.tolist(), nouns, scores.tolist()))
    pixels = regions * model.clip.pixel_std[:, None, None] + model.clip.pixel_mean[:, None, None]
    # The bicubic kernel overshoots at edges.
    return pixels.round().clamp(0, 255).to(torch.uint8).cpu(), (masks[:, 0] > 0).cpu(), chosen


def _finish(task: MiningTask, folder: MiningFolder, pairs: list[Pair], images: int) -> dict[str, float]:
    counts = statistics(pairs, images)
    write_json_atomic(folder.root / "statistics.json", counts)
    paper = PAPER.get(task.variant)
    beside = f" (paper, on 118 K images of COCO: {paper[0]} pairs, {paper[1]} nouns)" if paper else ""
    logger.info(
        "%d pairs with %d unique nouns from %d images%s: %.2f pairs an image, %d regions, %d images without a pair.",
        counts["pairs"], counts["unique_nouns"], images, beside, counts["pairs_per_image"], counts["regions"],
        counts["images_without_pair"],
    )  # fmt: skip
    logger.info("The table is %s; train on it with DATASETS.TRAIN '[\"pairs:%s\"]'.", folder.root / "pairs.tsv",
                folder.root / "pairs.tsv")  # fmt: skip
    return counts
