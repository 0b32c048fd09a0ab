"""What naming the regions of one image costs on one CPU core."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import torch

from maft.data.catalog import class_names
from maft.data.reading import read_image
from maft.data.records import load_records
from maft.files import read_json, write_json_atomic
from maft.predictor import Predictor
from maft.reproduction.memory import peak_since, start_peak
from maft.reproduction.runs import Run

_PICTURES = 20


def cost(run: Run, dataset: str) -> dict[str, float | None]:
    """See `measured`; of the model of an evaluation, with the class names of a dataset on its first images.

    It is kept in the run's folder, and found there the next time.
    """
    file = run.folder / "cost.json"
    if not file.is_file():
        pictures = [record["file_name"] for record in load_records([dataset], "DATASETS.TEST")[:_PICTURES]]
        predictor = Predictor.from_config(run.config, run.overrides, device="cpu")
        write_json_atomic(file, measured(predictor, pictures, class_names(dataset)))
    return read_json(file)


def measured(predictor: Predictor, files: Sequence[str | Path], words: Sequence[str]) -> dict[str, float | None]:
    """Seconds and memory of a predictor on the CPU, by one thread, with words that it has met before.

    Returns:
        ``seconds``, the median over the pictures of the time that the core was busy, which other processes on the
        machine change little; ``mib``, the most memory in use above that of the waiting model, None where the platform
        does not tell.
    """
    threads, device = torch.get_num_threads(), torch.device("cpu")
    pictures = [read_image(file) for file in files]
    torch.set_num_threads(1)
    try:
        predictor(pictures[0], words)
        gc.collect()
        before, seconds = start_peak(device), []
        for picture in pictures:
            started = time.process_time()
            predictor(picture, words)
            seconds.append(time.process_time() - started)
        return {"seconds": median(seconds), "mib": peak_since(before, device)}
    finally:
        torch.set_num_threads(threads)
