"""What the numbers of an evaluation were made of, as hashes that anyone can compare."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator
from torch import Tensor

import maft
from maft.config import self_contained
from maft.data.reading import Record
from maft.evaluation.image_rows import ImageRows
from maft.files import sha256

_PACKAGE = Path(maft.__file__).parent
# What computes: our own code and the tables it reads.
_CODE = {".py", ".json", ".txt", ".yaml"}
_LIBRARIES = ("torch", "torchvision", "detectron2", "sal-detectron2", "open_clip_torch", "timm", "numpy")
_ANNOTATION_FILES = ("sem_seg_file_name", "pan_seg_file_name")
_ANNOTATIONS = ("segments_info", "annotations")


class DataDigests(DatasetEvaluator):
    """SHA-256 of the files of each image, taken when they have just been read, from the system's memory.

    Args:
        records: of all images.

    Attributes:
        rows: columns ``picture`` and ``annotation``, 32 bytes each: of the image's file, and of its label maps' files
            and listed segments or objects, one after the other.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = {record["file_name"]: record for record in records}
        self.rows = ImageRows({"picture": torch.uint8, "annotation": torch.uint8}, list(self.records))

    def process(self, records: list[Record], outputs: list[dict[str, Any]]) -> None:
        """Takes the digests of a batch; ``outputs`` are not used."""
        for record in records:
            file = record["file_name"]
            self.rows.add(file, picture=_bytes(sha256(file)), annotation=_bytes(annotation_digest(self.records[file])))

    def evaluate(self) -> dict[str, dict[str, float]]:
        """There are no numbers."""
        return {}

    def gathered(self) -> dict[str, Tensor]:
        """``picture`` and ``annotation`` of all images, (images, 32) uint8 in the order of the dataset.

        Has to be called by all processes, and is empty but in the main one.
        """
        return {name: values.view(-1, 32) for name, values in self.rows.gathered().items() if name != "image"}

    def state(self) -> dict[str, Tensor]:
        """What this process has taken so far."""
        return self.rows.state()

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continues from the `state` of an earlier run."""
        self.rows.load_state(state)


def annotation_digest(record: Record) -> str:
    """SHA-256 of what a record says of its image: label maps as files, segments and objects as JSON."""
    digest = hashlib.sha256()
    for key in _ANNOTATION_FILES:
        if key in record:
            digest.update(bytes.fromhex(sha256(record[key])))
    for key in _ANNOTATIONS:
        if key in record:
            digest.update(json.dumps(record[key], sort_keys=True, default=str).encode())
    return digest.hexdigest()


def _bytes(digest: str) -> Tensor:
    return torch.tensor(list(bytes.fromhex(digest)), dtype=torch.uint8)[None]


def provenance(
    cfg: CfgNode, weights: str | None, names: Sequence[str], pictures: Tensor, annotations: Tensor
) -> dict[str, Any]:
    """What ``results.json`` says of where its numbers come from: SHA-256 in hexadecimal.

    - ``config``: every key that says what is computed, see `config_digest`.
    - ``data``: names and files of the images and their annotations, see `data_digest`.
    - ``code``: of this package, see `code`.
    - ``weights``: of the model as it was evaluated, see `maft.checkpoint.fingerprint.fingerprint`; null of an index.

    Args:
        weights: their hash.
        names, pictures, annotations: see `data_digest`.
    """
    data = data_digest(names, pictures, annotations)
    return {"config": config_digest(cfg), "data": data, "code": code(), "weights": weights}


def config_digest(cfg: CfgNode) -> str:
    """SHA-256 of a config as JSON, without where it runs, what it writes beside numbers, and whence its weights."""
    own = self_contained(cfg)
    own.OUTPUT_DIR, own.MODEL.DEVICE, own.DATALOADER.NUM_WORKERS, own.DATASETS.TEST = "", "", 0, []
    own.MODEL.VOCABULARY.CACHE_DIR = ""
    own.TEST.RESUME = own.TEST.SAVE_INDEX = own.TEST.SAVE_PREDICTIONS = False
    own.TEST.VISUALIZE = 0
    # The same values may be written in several ways, where two keys share a list.
    return json_digest(yaml.safe_load(own.dump()))


def data_digest(names: Sequence[str], pictures: Tensor, annotations: Tensor) -> str:
    """SHA-256 over the images, in the order of the dataset: name, zero byte, and the digests of its files.

    Args:
        names: of the images, see `maft.evaluation.counts.image_names`.
        pictures, annotations: (images, 32) uint8, see `DataDigests`.
    """
    digest = hashlib.sha256()
    for name, picture, annotation in zip(names, pictures.numpy(), annotations.numpy(), strict=True):
        digest.update(name.encode() + b"\0" + picture.tobytes() + annotation.tobytes())
    return digest.hexdigest()


def json_digest(facts: Mapping[str, Any]) -> str:
    """SHA-256 of JSON-like facts."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def code() -> dict[str, Any]:
    """``sha256`` of the package's files, its ``version``, the git ``commit`` of a clone (null elsewhere), libraries."""
    digest = hashlib.sha256()
    for path in sorted(path for path in _PACKAGE.rglob("*") if path.suffix in _CODE):
        digest.update(path.relative_to(_PACKAGE).as_posix().encode() + b"\0" + bytes.fromhex(sha256(path)))
    libraries = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            libraries[name] = version(name)
        except PackageNotFoundError:
            continue
    return {"sha256": digest.hexdigest(), "version": maft.__version__, "commit": _commit(), "libraries": libraries}


def _commit() -> str | None:
    # A package in site-packages may lie in a clone of something else.
    if not (_PACKAGE.parent / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(_PACKAGE.parent), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
