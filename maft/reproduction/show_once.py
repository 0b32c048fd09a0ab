"""What examples are worth on the miniature world: unseen classes shown once, three or five times, to every classifier.

All six unseen classes have examples at once, drawn from scenes of the training split: beside their words, and in the
place of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from maft.data.records import load_records
from maft.examples import Example
from maft.files import read_json, write_json_atomic, write_text_atomic
from maft.miniature import miniature_classes, render_scene
from maft.miniature.scene import Scene
from maft.predictor import Predictor
from maft.reproduction.classifiers import classifier_rows
from maft.reproduction.methods import Method
from maft.reproduction.miniature import TEST_SET, prepare
from maft.reproduction.report import spread, table
from maft.reproduction.runs import execute, trained
from maft.segmentor import OpenVocabSegmentor
from maft.sharpening import CONSTANTS, Constants, sharpened
from maft.structures import Classification, EmbeddedMasks, Images, Proposals, Vocabulary

# Rows of the table of classifiers, which runs of it in the same folder serve.
NAMES = ("IP-CLIP, frozen", "IP-CLIP, MAFT", "Masked crops", "Mask pooling", "Mask-Adapter")
SHOTS = (1, 3, 5)
_TRAINING_SCENES = 4000
# Of a scene, in pixels; less of an object is hidden behind others than seen.
_LEAST_MASK = 80
_BATCH = 20


@dataclass(frozen=True)
class Setting:
    """What is asked of a model.

    Attributes:
        shots: examples of each unseen class.
        words: whether the words of those classes take part.
    """

    shots: int
    words: bool

    def described(self) -> str:
        """As the table has it."""
        examples = f"{self.shots} example{'s' if self.shots > 1 else ''}"
        return " and ".join([*([examples] if self.shots else []), *(["words"] if self.words else [])])

    def vocabulary(self, words: Vocabulary, examples: dict[str, list[Example]]) -> Vocabulary:
        """All classes; those without words come last."""
        if not self.words:
            kept = [name for name in words.names if name not in examples]
            words = Vocabulary(tuple(kept), (True,) * len(kept))
        for name, masks in examples.items() if self.shots else ():
            words = words.add(name, masks[: self.shots], words=self.words)
        return words


SETTINGS = (Setting(0, True), *(Setting(shots, words) for words in (True, False) for shots in SHOTS))


def methods() -> list[Method]:
    """The rows of the table."""
    return [row for row in classifier_rows() if row.name in NAMES]


def show_once(folder: Path, rows: Sequence[Method], seeds: Sequence[int] = (1, 2, 3)) -> str:
    """The table; what is measured already is not measured again. Writes table.json and table.md.

    Args:
        rows: some of `methods`; what trains is trained in the folder unless it is done.
        seeds: of the drawn examples, and of the model where it trains.
    """
    prepare()
    measured = {row.name: [_once(folder, row, seed) for seed in seeds] for row in rows}
    text = table([line for name, found in measured.items() for line in _lines(name, found)])
    write_json_atomic(folder / "table.json", measured)
    write_text_atomic(folder / "table.md", text + "\n")
    return text


def _once(folder: Path, row: Method, seed: int) -> list[dict[str, Any]]:
    run = row.run(folder, seed)
    file = run.folder.parent / f"{run.folder.name}_examples_{seed}.json"
    if not file.is_file():
        execute(run)
        weights = trained(run).overrides if row.trains else run.overrides
        predictor = Predictor.from_config(run.config, weights)
        write_json_atomic(file, _measured(predictor, seed))
    return read_json(file)


def drawn_examples(names: Sequence[str], seed: int, most: int = max(SHOTS), world: int = 0) -> dict[str, list[Example]]:
    """Examples of classes, the first so many scenes of the training split that show them in an order of the seed."""
    classes = {name: miniature_classes().names.index(name) for name in names}
    found: dict[str, list[Example]] = {name: [] for name in names}
    for number in np.random.default_rng(seed).permutation(_TRAINING_SCENES):
        if all(len(masks) == most for masks in found.values()):
            break
        scene = render_scene(int(number), "train", world)
        for name, index in classes.items():
            mask = scene.sem_seg == index
            if mask.sum() >= _LEAST_MASK and not mask.all() and len(found[name]) < most:
                found[name].append(Example(scene.image, mask))
    return found


@torch.no_grad()
def _measured(predictor: Predictor, seed: int) -> list[dict[str, Any]]:
    names, unseen = miniature_classes().names, miniature_classes().unseen[0]
    words = Vocabulary(names, tuple(name not in unseen for name in names))
    examples = drawn_examples(unseen, seed)
    scenes = [render_scene(number, "val") for number in range(len(load_records([TEST_SET])))]
    batches = list(looked_at(predictor, scenes))
    return [
        {
            "shots": setting.shots,
            "words": setting.words,
            "iou": ious(predictor.model, batches, predictor.asked(setting.vocabulary(words, examples))),
        }
        for setting in SETTINGS
    ]


@dataclass(frozen=True)
class LookedAt:
    """Scenes that a model has looked at, to be named with any words.

    Attributes:
        truths: (B, H, W) class indices.
        records: B mapped records.
        images, proposals, seen: of the model.
    """

    truths: NDArray[np.int64]
    records: list[dict[str, Any]]
    images: Images
    proposals: Proposals
    seen: EmbeddedMasks


def looked_at(predictor: Predictor, scenes: Sequence[Scene]) -> Iterator[LookedAt]:
    """Batches of scenes."""
    model, words = predictor.model, Vocabulary(miniature_classes().names)
    assert model.classifier is not None
    for first in range(0, len(scenes), _BATCH):
        batch = scenes[first : first + _BATCH]
        records = [predictor._record(None, scene.image) for scene in batch]
        images = model.padded(records)
        proposals = model.propose(images, records, words)
        seen = model.classifier.embed(images, proposals, model.clip)
        truths = np.stack([scene.sem_seg for scene in batch]).astype(np.int64)
        yield LookedAt(truths, records, images, proposals, seen)


def ious(
    model: OpenVocabSegmentor, batches: Sequence[LookedAt], vocabulary: Vocabulary, constants: Constants = CONSTANTS
) -> dict[str, float]:
    """IoU of each class of the miniature world, in percent; a class that is not there and is not found has none.

    Args:
        vocabulary: all the classes, in any order, as a predictor has asked for them.
        constants: of what examples add.
    """
    names, classifier = miniature_classes().names, model.classifier
    assert classifier is not None
    # The class of the dataset that each label stands for.
    meant = np.array([names.index(name) for name in vocabulary.names])
    text = model.classifier_text(vocabulary)

    def compare(seen: EmbeddedMasks) -> Classification:
        return classifier.compare(seen, text, model.clip)

    confusion = np.zeros((len(names), len(names) + 1), np.int64)
    for batch in batches:
        named = compare(batch.seen)
        if vocabulary.examples:
            named = sharpened(named, batch.seen, vocabulary, compare, constants)
        proposals = model.scored(batch.proposals, vocabulary)
        results = model.combine(batch.images, proposals, named, batch.records, vocabulary)
        labels = torch.stack([result["sem_seg_labels"] for result in results]).cpu().numpy()
        np.add.at(confusion, (batch.truths, np.where(labels < 0, len(names), meant[labels])), 1)
    return ious_of(confusion, names)


def ious_of(confusion: NDArray[np.int64], names: Sequence[str]) -> dict[str, float]:
    """In percent, of classes that have any; the last column holds pixels without a label."""
    hits = confusion[:, :-1].diagonal()
    union = confusion.sum(1) + confusion[:, :-1].sum(0) - hits
    return {name: float(100 * hit / total) for name, hit, total in zip(names, hits, union, strict=True) if total}


def _lines(name: str, seeds: Sequence[list[dict[str, Any]]]) -> Iterator[dict[str, str]]:
    unseen = miniature_classes().unseen[0]

    def mean(row: dict[str, Any], of_unseen: bool) -> float:
        return float(np.mean([value for key, value in row["iou"].items() if (key in unseen) == of_unseen]))

    for number, setting in enumerate(SETTINGS):
        pairs = [(rows[0], rows[number]) for rows in seeds]
        changes = [[mean(after, flag) - mean(before, flag) for before, after in pairs] for flag in (True, False)]
        yield {
            "classifier": name,
            "unseen classes are known by": setting.described(),
            "unseen mIoU": spread([mean(after, True) for _, after in pairs]),
            "change": spread(changes[0]) if number else "",
            "mIoU of the others": spread([mean(after, False) for _, after in pairs]),
            "change of the others": spread(changes[1]) if number else "",
        }
