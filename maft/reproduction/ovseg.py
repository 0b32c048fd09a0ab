"""What OVSeg does before its segmentor is evaluated: pairs are mined once, then CLIP is tuned on them in stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from maft.config import load_config
from maft.data.catalog import dataset
from maft.files import write_json_atomic
from maft.reproduction.runs import QUICKSTART, Run, call, execute

MINED_IMAGES = 600


@dataclass(frozen=True)
class Stage:
    """A training of CLIP on mined regions and their nouns.

    Attributes:
        name: of its folder; stages that differ need different names.
        config: packaged config, of the folder ``quickstart``.
        overrides: KEY VALUE pairs.
    """

    name: str
    config: str
    overrides: tuple[str, ...] = ()


FINE_TUNING = Stage("fine-tuning", "region_clip.yaml")
PROMPTS = Stage("prompts", "region_clip_prompts.yaml")


def stage_runs(folder: Path, stages: Sequence[Stage], seed: int) -> list[Run]:
    """The trainings of ``stages`` with one seed, each on the CLIP of the one before.

    They lie in ``folder/ovseg_clip``; rows that begin with the same stages share them.
    """
    runs: list[Run] = []
    for count, stage in enumerate(stages, start=1):
        overrides = (*stage.overrides, "DATASETS.TRAIN", f"['pairs:{_pairs(folder) / 'pairs.tsv'}']", "SEED", str(seed))
        if runs:
            overrides += ("MODEL.START_FROM", str([{"FILE": _weights(runs[-1]), "TAKE": "clip"}]))
        name = ", then ".join(earlier.name for earlier in stages[:count])
        slug = name.replace(",", "").replace(" ", "_")
        runs.append(Run(f"{QUICKSTART}/{stage.config}", overrides, folder / "ovseg_clip" / slug / f"seed_{seed}"))
    return runs


def hand_over(runs: Sequence[Run]) -> tuple[str, ...]:
    """KEY VALUE pairs that put the last stage's CLIP, and its mask prompts if it has some, into a segmentor."""
    last = runs[-1]
    depth = load_config(last.config, list(last.overrides)).MODEL.REGION_CLIP.MASK_PROMPT_DEPTH
    rules: list[dict[str, str]] = [
        {"FILE": "configs/quickstart/proposer.safetensors"},
        {"FILE": _weights(last), "TAKE": "clip"},
    ]
    if depth:
        rules.append({"FILE": _weights(last), "TAKE": "mask_prompts", "INTO": "classifier.mask_prompts"})
    return "MODEL.START_FROM", str(rules), "MODEL.CLASSIFIER.MaskedCrops.MASK_PROMPT_DEPTH", str(depth)


def tune_clip(folder: Path, stages: Sequence[Stage], seed: int) -> float:
    """Mines the pairs and trains the stages, as far as that is not done yet.

    Returns:
        seconds of the trainings; the mining, which all rows and seeds share, is not in them.

    Raises:
        UserError: a run failed, or a folder holds another one.
    """
    mine_pairs(folder)
    return sum(float(execute(run)["seconds"]) for run in stage_runs(folder, stages, seed))


def mine_pairs(folder: Path) -> None:
    """Mines pairs from captions of the miniature world's training images, over the nouns of all classes.

    Raises:
        UserError: the mining failed.
    """
    target = _pairs(folder)
    if (target / "run.json").is_file():
        print(f"already done: {target}", flush=True)
        return
    row = dataset("miniature_train")
    captions = (row.root / row.images).parent / "captions.json"
    arguments = ["mine", "--config-file", f"{QUICKSTART}/mining.yaml", "--captions", str(captions)]
    arguments += ["--limit", str(MINED_IMAGES), "--output", str(target)]
    seconds = call(arguments, target)
    write_json_atomic(target / "run.json", {"arguments": arguments, "seconds": seconds})


def _pairs(folder: Path) -> Path:
    return folder / "ovseg_pairs"


def _weights(run: Run) -> str:
    return str(run.folder / "model_final" / "model.safetensors")
