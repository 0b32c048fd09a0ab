"""Mines mask-noun pairs from captioned images as OVSeg does, over any number of processes.

The paper's release has no miner. What it leaves open is settled here as its statistics suggest: nouns are not
lemmatised and counted once an image; every noun takes the one valid mask whose masked crop CLIP finds most similar to
it, without a threshold; the prompts are ``MODEL.VOCABULARY.TEMPLATES``.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import Tensor
from tqdm import tqdm

from maft.building import build_model
from maft.checkpoint.fingerprint import fingerprint
from maft.classifiers.masked_crops import MaskedCrops
from maft.config import component_options
from maft.data.catalog import class_names
from maft.data.loader import build_test_loader
from maft.data.mappers import SegmentationMapper
from maft.data.reading import Record
from maft.engine.stopping import again, stopping_at_once
from maft.engine.training import set_up
from maft.errors import UserError
from maft.files import held, write_json_atomic
from maft.mining.folder import PAPER, MiningFolder, Pair, best_masks, statistics
from maft.mining.task import MiningTask, check_names, find_records
from maft.registry import CLASSIFIERS, PROPOSERS
from maft.segmentor import OpenVocabSegmentor
from maft.structures import Vocabulary

logger = logging.getLogger(__name__)

Chosen = list[tuple[int, str, float | None]]


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
        with stopping_at_once(f"Stopped; images that are done stay so, go on with: {again() or 'the same call'}"):
            return _mine(cfg, task)


def _mine(cfg: CfgNode, task: MiningTask) -> dict[str, float]:
    records = [{**record, "position": position} for position, record in enumerate(find_records(cfg, task))]
    images = [Path(record["file_name"]).stem for record in records]
    check_names(images)
    folder, model = MiningFolder(Path(cfg.OUTPUT_DIR)), _model(cfg, task)
    if comm.is_main_process():
        folder.claim(_settings(cfg, task, model, records))
    comm.synchronize()
    todo = [record for image, record in zip(images, records) if not folder.done(record["position"], image)]
    if len(todo) < len(records):
        logger.info("%d of %d images are done already.", len(records) - len(todo), len(records))
    # All processes share out the same list, made before any of them shortens it.
    comm.synchronize()
    if todo:
        # All nouns in one order, also after an interruption: the same batches give the same numbers.
        nouns = sorted({noun for record in records for noun in record["nouns"]})
        _mine_images(cfg, task, model, nouns, folder, todo)
    comm.synchronize()
    counts = None
    if comm.is_main_process():
        counts = _finish(task, folder, folder.collect(images), len(records))
    return comm.all_gather(counts)[0]


def _settings(cfg: CfgNode, task: MiningTask, model: OpenVocabSegmentor, records: list[Record]) -> dict[str, Any]:
    """What decides the result; the last entry hashes what cannot be shown, above all the weights themselves."""
    parts = cfg.MODEL
    files = [os.path.abspath(record["file_name"]) for record in records]
    whole = {
        "model": {key: value for key, value in parts.items() if key != "DEVICE"},
        "images": [(file, record.get("sem_seg_file_name"), record["nouns"]) for file, record in zip(files, records)],
        "names": _names(cfg, task),
        "mapper": cfg.INPUT.MAPPER,
    }
    return {
        "masks": task.masks,
        "captions_per_image": task.variant[1],
        "datasets": list(cfg.DATASETS.TRAIN),
        "images": os.path.commonpath(map(os.path.dirname, files)),
        "weights": [parts.WEIGHTS, parts.START_FROM],
        "clip": [parts.CLIP.NAME, parts.CLIP.PRETRAINED],
        "templates": parts.VOCABULARY.TEMPLATES,
        "proposer": [parts.PROPOSER.NAME, component_options(PROPOSERS, parts.PROPOSER)],
        "classifier": [parts.CLASSIFIER.NAME, component_options(CLASSIFIERS, parts.CLASSIFIER)],
        "test_size": [cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST],
        "weights_images_and_nouns": fingerprint(model, whole)[:16],
    }


def _names(cfg: CfgNode, task: MiningTask) -> tuple[str, ...]:
    """The names of ground-truth masks where they take the place of nouns, otherwise none."""
    return class_names(cfg.DATASETS.TRAIN[0], cfg.MODEL.VOCABULARY.CLASS_NAMES) if task.captions is None else ()


def _mine_images(
    cfg: CfgNode,
    task: MiningTask,
    model: OpenVocabSegmentor,
    nouns: list[str],
    folder: MiningFolder,
    records: list[Record],
) -> None:
    try:
        text = model.vocabulary_encoder(Vocabulary(tuple(nouns)), model.clip) if nouns else None
    except UserError as error:
        raise UserError(f"The nouns of {task.captions} cannot be encoded: {error}") from error
    row = {noun: index for index, noun in enumerate(nouns)}
    names = _names(cfg, task)
    targets = cfg.INPUT.MAPPER if task.masks == "ground_truth" else None
    mapper = SegmentationMapper.from_config(cfg, False, targets=targets, datasets=cfg.DATASETS.TRAIN)
    loader = build_test_loader(records, mapper, workers=cfg.DATALOADER.NUM_WORKERS)
    model.proposer.check_records(records)
    with torch.no_grad():
        for batch in tqdm(
            loader, "Mining", unit="image", mininterval=5, disable=None if comm.is_main_process() else True
        ):
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
    # The few scattered pixels of a mask may all vanish as it is resized, and an empty mask teaches nothing.
    left = (masks > 0).flatten(1).any(1)
    regions, masks = regions[left], masks[left]
    chosen: Chosen = []
    if names:
        assert proposals.labels is not None
        chosen = [(index, names[label], None) for index, label in enumerate(proposals.labels[0, valid][left].tolist())]
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
