"""Panoptic quality as COCO's own code counts it, from files through our evaluator."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from PIL import Image
from torch import Tensor

from golden.case import GoldenCase, golden_case
from maft.data.reading import panoptic_colours
from maft.evaluation.panoptic import PanopticEvaluator


@golden_case("panopticapi", "panoptic_quality")
def panoptic_quality(case: GoldenCase) -> dict[str, Tensor]:
    categories = case.config["categories"]
    labels = {category["id"]: label for label, category in enumerate(categories)}
    names, things = [c["name"] for c in categories], [bool(c["isthing"]) for c in categories]
    together, per_image = PanopticEvaluator(names, things), []
    with TemporaryDirectory() as folder:
        for index, image in enumerate(case.record["inputs_json"]["images"]):
            true, found = (
                [{**segment, "category_id": labels[segment["category_id"]]} for segment in image[key]]
                for key in ("gt_segments", "pred_segments")
            )
            file = Path(folder) / f"{index}.png"
            Image.fromarray(panoptic_colours(case.inputs[f"gt/{index}"].cpu().numpy())).save(file)
            record = {"file_name": str(file), "pan_seg_file_name": str(file), "segments_info": true}
            output = {"panoptic_seg": (case.inputs[f"pred/{index}"], found)}
            alone = PanopticEvaluator(names, things)
            for evaluator in (alone, together):
                evaluator.process([record], [output])
            per_image.append(alone.table.T)
    results = together.evaluate()["panoptic_seg"]
    average = [[results[metric + part] / 100 for metric in ("PQ", "SQ", "RQ")] for part in ("", "_th", "_st")]
    return {"per_image": torch.stack(per_image), "average": torch.tensor(average, dtype=torch.float64)}
