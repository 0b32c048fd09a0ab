"""Training and evaluation runs as child processes, each done once."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maft.config import load_config
from maft.config_keys import default_config
from maft.errors import UserError
from maft.files import write_json_atomic

# Packaged configs, by name.
QUICKSTART = "quickstart"
_RECORD = "run.json"


@dataclass(frozen=True)
class Run:
    """One call of ``maft train`` or ``maft evaluate``.

    Attributes:
        config: file or name.
        overrides: KEY VALUE pairs, without OUTPUT_DIR.
        folder: OUTPUT_DIR.
        eval_only: evaluate instead of training.
    """

    config: str
    overrides: tuple[str, ...]
    folder: Path
    eval_only: bool = False

    def arguments(self) -> list[str]:
        """Command and arguments; an interrupted training is resumed."""
        command = ["evaluate"] if self.eval_only else ["train", "--resume"]
        return [*command, "--config-file", self.config, *self.overrides, "OUTPUT_DIR", str(self.folder)]


def execute(run: Run) -> dict[str, Any]:
    """Does a run unless it is done already.

    Returns:
        ``results`` (dataset -> task -> metric -> percentage) and ``seconds`` of wall time.

    Raises:
        UserError: the folder holds another run, or the run failed.
    """
    chosen = fingerprint(run)
    record = _read(run.folder / _RECORD)
    if record and record["fingerprint"] != chosen:
        raise UserError(f"{run.folder} holds a run of another config: delete that folder, or choose another --output.")
    if record and "results" in record:
        print(f"already done: {run.folder}", flush=True)
        return record
    write_json_atomic(run.folder / _RECORD, {"fingerprint": chosen, "arguments": run.arguments()})
    seconds = call(run.arguments(), run.folder)
    reports = [_read(file) for file in sorted(run.folder.glob("inference/*/results.json"))]
    results = {report["dataset"]: report["results"] for report in reports}
    record = {
        "fingerprint": chosen,
        "arguments": run.arguments(),
        "seconds": seconds,
        "results": results,
    }
    write_json_atomic(run.folder / _RECORD, record)
    return record


def call(arguments: Sequence[str], folder: Path) -> float:
    """Runs a command ``maft`` as a child process and returns its seconds.

    Raises:
        UserError: it failed.
    """
    print(f"$ maft {' '.join(arguments)}", flush=True)
    start = time.perf_counter()
    status = subprocess.run([sys.executable, "-m", "maft", *arguments], check=False).returncode
    if status:
        raise UserError(f"The run in {folder} failed with exit status {status}: see its messages above.")
    return time.perf_counter() - start


def fingerprint(run: Run) -> str:
    """Of what the config sets, so that a new key with a default does not make old runs strange."""

    def flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
        entries: dict[str, str] = {}
        for key, value in node.items():
            entries |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: repr(value)}
        return entries

    defaults = flat(default_config())
    chosen = {k: v for k, v in flat(load_config(run.config, list(run.overrides))).items() if defaults.get(k) != v}
    return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()


def scores(record: Mapping[str, Any], dataset: str) -> dict[str, float]:
    """Seen, unseen and harmonic mean IoU of a run on a dataset, in percent."""
    values = record["results"][dataset]["sem_seg"]
    return {
        "sIoU": values["seen_mIoU"],
        "uIoU": values["unseen_mIoU"],
        "hIoU": values["harmonic_mIoU"],
    }


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def use_datasets(folder: Path) -> None:
    """Lets this process and its children find datasets in ``folder``, unless DETECTRON2_DATASETS names another."""
    os.environ.setdefault("DETECTRON2_DATASETS", str(folder.absolute()))


def trained(run: Run) -> Run:
    """The evaluation of what a run has trained, in its folder; an evaluation is its own."""
    if run.eval_only:
        return run
    weights = ("MODEL.WEIGHTS", str(run.folder / "model_final"))
    return Run(run.config, (*run.overrides, *weights), run.folder, eval_only=True)


def ground_truth_masks(run: Run, *overrides: str) -> Run:
    """The evaluation of a trained run on ground-truth masks instead of proposals: the oracle column."""
    return Run(
        run.config,
        (*trained(run).overrides, "MODEL.PROPOSER.NAME", "GroundTruth", *overrides),
        run.folder.with_name(run.folder.name + "_ground_truth_masks"),
        eval_only=True,
    )


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean."""
    return sum(values) / len(values)
