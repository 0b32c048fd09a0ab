"""Whether alpha bounds false alarms on the miniature world, what it costs, and whether confidence is a probability.

Each world of scenes, of a seed of its own, calibrates a model on 200 scenes (50 for the temperature, 150 for the
thresholds) and tests it on 400 others. Offered are the 24 classes, of which each scene lacks some twenty, or 24 further
words beside them that are in no scene.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from PIL import Image

from maft.calibration import GROUPS, Calibration
from maft.evaluation.calibrate import GroupMeasured, Observed, calibration_error, measured
from maft.evaluation.calibrate_confidence import fit_confidence
from maft.files import atomic_path, read_json, write_json_atomic, write_text_atomic
from maft.miniature import miniature_classes, render_scene
from maft.predictor import Predictor
from maft.predictor.calibrating import Annotated, calibration_from, fitted_temperature, observed, seen_flags
from maft.reproduction.methods import Method
from maft.reproduction.report import spread, table
from maft.reproduction.runs import QUICKSTART
from maft.structures import Vocabulary
from maft.visualize import side_by_side

ALPHAS = (0.02, 0.05, 0.1, 0.2)
_FROZEN = Method("IP-CLIP, frozen", "frozen_clip.yaml", trains=False)
# The shipped model, which has no config of its own, and those that need no training.
MODELS = (
    Method("IP-CLIP, MAFT, as shipped", "", trains=False),
    _FROZEN,
    Method("Mask pooling", "mask_pooling.yaml", trains=False),
    Method("Masked crops", "masked_crops.yaml", trains=False),
)
ABSENT = (
    "cat", "dog", "horse", "sheep", "cow", "elephant", "zebra", "giraffe", "train", "truck", "bench", "umbrella",
    "kite", "bottle", "cup", "fork", "knife", "spoon", "bowl", "banana", "chair", "laptop", "book", "clock",
)  # fmt: skip
OFFERED = {"24 classes": (), "and 24 absent words": ABSENT}
_FOR_TEMPERATURE, _FOR_THRESHOLDS, _FOR_TEST = range(0, 50), range(50, 200), range(200, 600)
# The alpha of the pictures, how many scenes they show, and from how many these are taken.
_DRAWN, _PICTURES, _LOOKED_AT = 0.02, 3, 60


def none_of_these(folder: Path, models: Sequence[Method] = MODELS, seeds: Sequence[int] = (1, 2, 3)) -> str:
    """The tables; what is measured already is not measured again. Writes table.json, table.md and picture.png.

    Args:
        models: some of `MODELS`.
        seeds: of the worlds.
    """
    rows = []
    for model in models:
        file = folder / f"{model.name.lower().replace(', ', '_').replace(' ', '_')}.json"
        if not file.is_file():
            predictor = _predictor(model)
            found = [_world(predictor, seed, words) for words in OFFERED for seed in seeds]
            write_json_atomic(file, [{"model": model.name, **row} for row in found])
        rows += read_json(file)
    text = f"{table(_errors(rows))}\n\n{table(_alarms(rows))}"
    write_json_atomic(folder / "table.json", rows)
    write_text_atomic(folder / "table.md", text + "\n")
    if not (folder / "picture.png").is_file():
        _draw(folder / "picture.png")
    return text


def _predictor(model: Method) -> Predictor:
    if not model.config:
        return Predictor.from_pretrained("miniature")
    return Predictor.from_config(f"{QUICKSTART}/{model.config}")


def _scenes(numbers: Sequence[int], seed: int) -> Iterator[Annotated]:
    for number in numbers:
        scene = render_scene(number, "val", seed)
        yield scene.image, scene.sem_seg.astype(np.int64)


def _world(predictor: Predictor, seed: int, offered: str) -> dict[str, Any]:
    """What one world of scenes says of a model."""
    words = predictor.prepare([*miniature_classes().names, *OFFERED[offered]])
    seen = seen_flags(words)
    found, held = _calibrated(predictor, words, seed)
    confidence = found.confidence
    test = [
        one.calibrated_by(confidence)
        for one in observed(predictor, words, _scenes(_FOR_TEST, seed), confidence.temperature)
    ]
    return {
        "words": offered,
        "seed": seed,
        "temperature": confidence.temperature,
        "error_before": calibration_error(test, calibrated=False),
        "error_after": calibration_error(test, calibrated=True),
        "measured": {
            f"{alpha:g}": {
                group: _numbers(alpha, len(held), one)
                for group, one in measured([(test, found.thresholds(alpha, seen.tolist()))], seen).items()
            }
            for alpha in ALPHAS
        },
    }


def _calibrated(predictor: Predictor, words: Vocabulary, seed: int) -> tuple[Calibration, list[Observed]]:
    """The calibration on the scenes of one world, and what was observed of those of its thresholds."""
    temperature, known = fitted_temperature(predictor, words, _scenes(_FOR_TEMPERATURE, seed))
    tempered = observed(predictor, words, _scenes(_FOR_THRESHOLDS, seed), temperature)
    confidence = fit_confidence(temperature, [known, *(one.judged() for one in tempered)])
    held = [one.calibrated_by(confidence) for one in tempered]
    return calibration_from(predictor, words, f"world {seed}", confidence, len(_FOR_TEMPERATURE), held), held


def _numbers(alpha: float, calibrated: int, found: GroupMeasured) -> dict[str, float]:
    # Both the threshold and the rate are of a sample.
    sigma = found.deviation * math.sqrt(1 / found.pictures + 1 / calibrated)
    return {
        "false_alarms": found.false_alarms,
        "sigma": sigma,
        "above": (found.false_alarms - alpha) / max(sigma, 1e-9),
        "pixels": found.pixels,
        "before": found.before,
        "after": found.after,
    }


def _grouped(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[dict[str, str], list[dict[str, Any]]]]:
    for key in dict.fromkeys((row["model"], row["words"]) for row in rows):
        yield {"model": key[0], "words": key[1]}, [row for row in rows if (row["model"], row["words"]) == key]


def _errors(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            **named,
            "temperature": spread([row["temperature"] for row in worlds], 2),
            "calibration error before": spread([100 * row["error_before"] for row in worlds]),
            "after": spread([100 * row["error_after"] for row in worlds]),
        }
        for named, worlds in _grouped(rows)
    ]


def _alarms(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    lines = []
    for named, worlds in _grouped(rows):
        for alpha in worlds[0]["measured"]:
            line: dict[str, Any] = {**named, "alpha": f"{100 * float(alpha):g} %"}
            for group in GROUPS:
                found = [row["measured"][alpha][group] for row in worlds]
                line[f"{group} false alarms"] = spread([100 * one["false_alarms"] for one in found])
                line[f"{group} above alpha"] = f"{max(one['above'] for one in found):.1f} σ"
                line[f"{group} mIoU"] = " → ".join(
                    f"{100 * fmean(one[when] for one in found):.1f}" for when in ("before", "after")
                )
            lines.append(line)
            # Where nothing is taken away, nothing is under a higher alpha either.
            if all(one["before"] == one["after"] for row in worlds for one in row["measured"][alpha].values()):
                break
    return lines


def _draw(file: Path) -> None:
    """Scenes of which most is unknown under a bound, with the frozen CLIP: image, truth, answer without and with it."""
    predictor = _predictor(_FROZEN)
    words = predictor.prepare(miniature_classes().names)
    rule, _ = _calibrated(predictor, words, 1)
    rejection = rule.rejection(_DRAWN, seen_flags(words).tolist())
    found = []
    for image, truth in _scenes(_FOR_TEST[:_LOOKED_AT], 1):
        assert isinstance(image, np.ndarray)
        result = predictor.result(image, image, words, None, temperature=rule.confidence.temperature)
        before = result["sem_seg_labels"]
        after = rejection.apply(before, rejection.confidence(result))
        # A good picture shows false alarms that go.
        gone = ((after < 0) & (before.numpy() != truth)).float().mean()
        found.append((float(gone), image, truth, before.numpy(), after.numpy()))
    found.sort(key=lambda one: -one[0])
    pictures = [_row(words, *one[1:]) for one in found[:_PICTURES]]
    width = max(picture.shape[1] for picture in pictures)
    padded = [np.pad(one, ((0, 0), (0, width - one.shape[1]), (0, 0)), constant_values=255) for one in pictures]
    with atomic_path(file) as temporary:
        Image.fromarray(np.concatenate(padded)).save(temporary)


def _row(words: Vocabulary, image: np.ndarray, truth: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    maps = {"annotated": truth, "without a bound": before, f"alpha {100 * _DRAWN:g} %": after}
    return side_by_side(image, maps, words.names)
