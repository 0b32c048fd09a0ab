"""What the tables on the miniature world compare: one row a method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from maft.errors import UserError
from maft.reproduction.ovseg import FINE_TUNING, PROMPTS, Stage, hand_over, stage_runs, tune_clip
from maft.reproduction.runs import QUICKSTART, Run


@dataclass(frozen=True)
class Method:
    """A row of a table.

    Attributes:
        name: as the table prints it.
        config: packaged config, of the folder ``quickstart``.
        overrides: KEY VALUE pairs that make the row.
        trains: False for a frozen baseline, which has no seeds.
        stages: trainings of CLIP on mined pairs, whose result the config's segmentor is evaluated with.
    """

    name: str
    config: str
    overrides: tuple[str, ...] = ()
    trains: bool = True
    stages: tuple[Stage, ...] = ()

    def prepare(self, folder: Path, seed: int) -> float:
        """Does what comes before `run`, as far as it is not done; returns its seconds."""
        return tune_clip(folder, self.stages, seed) if self.stages else 0.0

    def run(self, folder: Path, seed: int) -> Run:
        """The last run of this method with one seed."""
        slug = self.name.lower().replace(" ", "_").replace(",", "").replace("+", "and")
        name = f"{slug}/seed_{seed}" if self.trains else f"{slug}/frozen"
        overrides = (*self.overrides, "SEED", str(seed)) if self.trains else self.overrides
        if self.stages:
            overrides += hand_over(stage_runs(folder, self.stages, seed))
        eval_only = not self.trains or bool(self.stages)
        return Run(f"{QUICKSTART}/{self.config}", overrides, folder / name, eval_only)


FROZEN_CLIP = Method("Frozen CLIP", "frozen_clip.yaml", trains=False)
MAFT = Method("MAFT", "maft.yaml")
MAFT_TABLE = (
    FROZEN_CLIP,
    MAFT,
    Method("MAFT without self-distillation", "maft.yaml", ("MODEL.LOSSES.SelfDistillationLoss.WEIGHT", "0.0")),
    Method("MAFT without mask-aware loss", "maft.yaml", ("MODEL.LOSSES.MaskAwareLoss.WEIGHT", "0.0")),
)
SIGLIP_TABLE = (
    Method("Frozen CLIP, SigLIP tower", "frozen_siglip.yaml", trains=False),
    Method("MAFT, SigLIP tower", "maft_siglip.yaml"),
)
MASK_ADAPTER_TABLE = (
    Method("Mask pooling, ConvNeXt CLIP", "mask_pooling.yaml", trains=False),
    Method("Mask-Adapter, ConvNeXt CLIP", "mask_adapter.yaml"),
)
OVSEG_TABLE = (
    Method("OVSeg, frozen", "masked_crops.yaml", trains=False),
    Method("OVSeg, mask prompts only", "masked_crops.yaml", stages=(PROMPTS,)),
    Method("OVSeg, fine-tuning", "masked_crops.yaml", stages=(FINE_TUNING,)),
    Method("OVSeg, fine-tuning then prompts", "masked_crops.yaml", stages=(FINE_TUNING, PROMPTS)),
)
TABLE = (*MAFT_TABLE, *SIGLIP_TABLE, *MASK_ADAPTER_TABLE, *OVSEG_TABLE)

TUNING = ("DATASETS.TRAIN", "['miniature_train_seen_tuning']", "DATASETS.TEST", "['miniature_val_tuning']")
_START_LAYER = "MODEL.CLASSIFIER.IPCLIP.START_LAYER"
# Hyper-parameters are chosen where four SEEN classes take the place of the unseen ones.
TUNING_TABLE = (
    *(
        Method(f"Frozen CLIP, start layer {layer}", "frozen_clip.yaml", (*TUNING, _START_LAYER, str(layer)), False)
        for layer in (0, 1, 2, 3)
    ),
    *(
        Method(
            f"MAFT, start layer {layer}, learning rate {rate}",
            "maft.yaml",
            (*TUNING, _START_LAYER, str(layer), "SOLVER.BASE_LR", str(rate)),
        )
        for layer, rate in ((0, 0.0003), (0, 0.0005), (0, 0.001), (1, 0.0005), (2, 0.0005))
    ),
    Method("Frozen CLIP, SigLIP tower", "frozen_siglip.yaml", TUNING, False),
    *(
        Method(
            f"MAFT, SigLIP tower, learning rate {rate}",
            "maft_siglip.yaml",
            (*TUNING, "SOLVER.BASE_LR", str(rate)),
        )
        for rate in (0.0002, 0.0005, 0.001)
    ),
    Method("Mask pooling", "mask_pooling.yaml", TUNING, False),
    *(
        Method(
            f"Mask-Adapter, learning rate {rate}, {iterations} iterations",
            "mask_adapter.yaml",
            (*TUNING, "SOLVER.BASE_LR", str(rate), "SOLVER.MAX_ITER", str(iterations)),
        )
        for rate, iterations in ((0.002, 100), (0.002, 300), (0.005, 300))
    ),
    *(
        Method(f"MAFT+, learning rate {rate}", "maft_plus.yaml", (*TUNING, "SOLVER.BASE_LR", str(rate)))
        for rate in (0.00003, 0.0001, 0.0003, 0.001)
    ),
    *(
        Method(
            f"OVSeg, frozen, mask threshold {threshold}",
            "masked_crops.yaml",
            (*TUNING, "MODEL.CLASSIFIER.MaskedCrops.MASK_THRESHOLD", str(threshold)),
            False,
        )
        for threshold in (0.3, 0.5)
    ),
    # Captions name every class, so nothing is held out of these trainings: only the score is of seen classes alone.
    *(
        Method(
            f"OVSeg, {stage.name}, learning rate {rate}",
            "masked_crops.yaml",
            TUNING,
            stages=(Stage(f"{stage.name}, learning rate {rate}", stage.config, ("SOLVER.BASE_LR", str(rate))),),
        )
        for stage, rates in ((FINE_TUNING, (0.0003, 0.001, 0.002)), (PROMPTS, (0.03, 0.1)))
        for rate in rates
    ),
    *(
        Method(
            f"OVSeg, fine-tuning then prompts, learning rate {rate}",
            "masked_crops.yaml",
            TUNING,
            stages=(
                FINE_TUNING,
                Stage(f"prompts, learning rate {rate}", PROMPTS.config, ("SOLVER.BASE_LR", str(rate))),
            ),
        )
        for rate in (0.03, 0.1)
    ),
)


def choose(methods: Sequence[Method], words: Sequence[str]) -> list[Method]:
    """The rows whose name contains one of ``words``, whatever the case; all of them without words.

    Raises:
        UserError: a word is in no name.
    """
    for word in words:
        if not any(word.lower() in method.name.lower() for method in methods):
            known = "; ".join(method.name for method in methods)
            raise UserError(f"No row of the table has {word!r} in its name; the rows are: {known}.")
    return [method for method in methods if not words or any(word.lower() in method.name.lower() for word in words)]
