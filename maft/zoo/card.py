"""The page of a published model: what it is, how well it did, how to use it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from tabulate import tabulate

from maft.evaluation.report import definition

# The means that papers compare, each also over seen and unseen classes and as their harmonic mean.
_MEANS = ("mIoU", "mIoU_or_predicted", "PQ", "AP", "cityscapes_AP")
_COMPARED = {part + mean for part in ("", "seen_", "unseen_", "harmonic_") for mean in _MEANS}


def model_card(
    cfg: Mapping[str, Any],
    evaluations: Sequence[Mapping[str, Any]],
    repository: str,
    licence: str = "",
    origin: Mapping[str, str] | None = None,
) -> ModelCard:
    """The card of a checkpoint.

    Args:
        cfg: its whole config.
        evaluations: what `maft.evaluation.report.write_results` wrote of it, one a dataset.
        licence: an identifier of the hub, such as ``apache-2.0``; empty when none is stated.
        origin: of a converted release, its ``origin.json``.
    """
    model = cfg["MODEL"]
    proposer, classifier, clip = model["PROPOSER"]["NAME"], model["CLASSIFIER"]["NAME"], model["CLIP"]
    name = repository.rpartition("/")[2]
    rows = [
        (run["dataset"], metric, value, definition(metric))
        for run in evaluations
        for numbers in run["results"].values()
        for metric, value in numbers.items()
        if metric in _COMPARED and value is not None and math.isfinite(value)
    ]
    data = ModelCardData(
        license=licence or None,
        library_name="maft",
        pipeline_tag="image-segmentation",
        tags=["open-vocabulary", "semantic-segmentation", "clip", *(part for part in (proposer, classifier) if part)],
        base_model=clip["NAME"].removeprefix("hf-hub:") if clip["NAME"].startswith("hf-hub:") else None,
        model_name=name,
        eval_results=[
            EvalResult("image-segmentation", dataset, dataset, metric, round(value, 3), metric_name=metric)
            for dataset, metric, value, _ in rows
        ]
        or None,
    )
    trained = ", ".join(cfg["DATASETS"]["TRAIN"]) or "nothing that its config names"
    facts = {
        "masks": f"{proposer}{', frozen' if model['PROPOSER']['FROZEN'] else ''}",
        "names": classifier or "the proposer's own classes",
        "CLIP": f"{clip['NAME']} ({clip['PRETRAINED'] or 'its own weights'}), in the file",
        "trained on": f"{trained}; {cfg['SOLVER']['MAX_ITER']} iterations of {cfg['SOLVER']['IMS_PER_BATCH']} images",
        "licence of the weights": licence or "none stated",
    }
    if cfg["TEST"]["REPRODUCES"]:
        facts["its config reproduces"] = cfg["TEST"]["REPRODUCES"]
    if origin:
        facts["converted from"] = f"{origin['file']} ({origin['link']}; licence: {origin['licence']})"
    if cfg["IMPORTS"]:
        facts["needs"] = f"{', '.join(cfg['IMPORTS'])}, which is not in this repository"
    text = [
        f"# {name}",
        "Open-vocabulary segmentation: it finds masks, and CLIP names them with any words.",
        "\n".join(f"* {what}: {fact}" for what, fact in facts.items()),
        "## Use",
        f"```bash\nmaft predict photo.jpg --model {repository} --words cat 'coffee table' window\n```",
        f'```python\nfrom maft.predictor import Predictor\n\npredictor = Predictor.from_pretrained("{repository}")\n'
        'print(predictor("photo.jpg", ["cat", "coffee table", "window"]).summary())\n```',
        "## Results",
        tabulate(rows, ("dataset", "metric", "%", "definition"), tablefmt="github", floatfmt=".2f")
        if rows
        else "None were measured where this was published.",
    ]
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(text) + "\n")
