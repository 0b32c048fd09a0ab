"""What a run says at its start: which model, what trains or is evaluated on what, for how long, where."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils import comm
from torch import nn

from maft.data.catalog import dataset, is_known
from maft.data.pairs import PAIRS_PREFIX

Row = tuple[str, str]


def training_summary(cfg: CfgNode, model: nn.Module, images: Mapping[str, int], samples: int) -> str:
    """Several lines: model and parameters, data, batch, rate, length, device and output folder.

    Args:
        images: number of images, or of pairs, of each dataset of the config.
        samples: how many of them, or of the regions cut out of them, are one epoch.
    """
    solver = cfg.SOLVER
    batch, processes = solver.IMS_PER_BATCH, comm.get_world_size()
    share = [f"{batch} images"]
    if processes * solver.ACCUMULATE > 1:
        size = batch // (processes * solver.ACCUMULATE)
        share.append(f"{processes} process(es) x {solver.ACCUMULATE} micro-batch(es) x {size}")
    rows = [
        *_model_rows(cfg, model),
        *(("trained on", _data(name, images[name])) for name in cfg.DATASETS.TRAIN),
        *(("tested on", _data(name, images[name])) for name in cfg.DATASETS.TEST),
        ("batch", " = ".join(share)),
        ("rate", f"{solver.BASE_LR:g} (SOLVER.BASE_LR), {solver.OPTIMIZER}, {solver.LR_SCHEDULER_NAME}"),
        ("length", f"{solver.MAX_ITER} iterations = {solver.MAX_ITER * batch / samples:.3g} epochs of {samples}"),
        *_place_rows(cfg, solver.AMP.DTYPE if solver.AMP.ENABLED else "float32"),
    ]
    return _block("Training", rows)


def evaluation_summary(cfg: CfgNode, model: nn.Module, images: Mapping[str, int]) -> str:
    """The same of an evaluation, without what only a training has."""
    tested = [("tested on", _data(name, images[name])) for name in cfg.DATASETS.TEST]
    return _block("Evaluation", [_model_rows(cfg, model)[0], *tested, *_place_rows(cfg, "float32")])


def _block(title: str, rows: list[Row]) -> str:
    width = max(len(name) for name, _ in rows)
    return "\n".join([f"{title}:", *(f"  {name:<{width}}  {text}" for name, text in rows)])


def _model_rows(cfg: CfgNode, model: nn.Module) -> list[Row]:
    counts: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        count = counts.setdefault(name.partition(".")[0], [0, 0])
        count[0] += parameter.numel()
        count[1] += parameter.numel() * parameter.requires_grad
    kinds = {"clip": cfg.MODEL.CLIP.NAME, "proposer": cfg.MODEL.PROPOSER.NAME, "classifier": cfg.MODEL.CLASSIFIER.NAME}
    every, trained = (sum(column) for column in zip(*counts.values()))
    rows = [("model", f"{type(model).__name__}, {_number(every)} parameters, {_number(trained)} of them trainable")]
    for part, (number, trainable) in counts.items():
        kind = f"{kinds[part]}, " if part in kinds else ""
        how = "trained" if trainable == number else f"{_number(trainable)} trained" if trainable else "frozen"
        rows.append((f"  {part}", f"{kind}{_number(number)}, {how}"))
    return rows


def _number(count: int) -> str:
    for factor, unit in ((10**9, " G"), (10**6, " M"), (10**3, " K")):
        if count >= factor:
            return f"{count / factor:.3g}{unit}"
    return str(count)


def _data(name: str, images: int) -> str:
    if name.startswith(PAIRS_PREFIX):
        return f"{name}: {images} regions with their nouns"
    text = f"{name}: {images} images"
    words = MetadataCatalog.get(name).get("stuff_classes")
    if words:
        text += f", {len(words)} classes"
    row = dataset(name) if is_known(name) else None
    if row is not None and row.seen_only:
        text += f" (the seen ones of {len(row.classes)})"
    elif row is not None and row.seen is not None:
        text += f" ({sum(row.seen)} seen, {len(row.seen) - sum(row.seen)} unseen)"
    return text


def _place_rows(cfg: CfgNode, precision: str) -> list[Row]:
    device = cfg.MODEL.DEVICE
    if device.startswith("cuda"):
        device = torch.cuda.get_device_name()
    processes = comm.get_world_size()
    return [
        ("device", f"{device}, {precision}" + (f", {processes} processes" if processes > 1 else "")),
        ("output", cfg.OUTPUT_DIR),
    ]
