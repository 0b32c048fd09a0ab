"""Another proposer under a trained classifier: a few lines of YAML, and no tool."""

import json
from pathlib import Path

import pytest
import torch

from maft.config import load_config
from maft.data.miniature import ensure_miniature
from maft.engine.training import run

QUICKSTART = Path(__file__).resolve().parent.parent / "configs" / "quickstart"

MAFT_ON_SAM = """
_BASE_: {quickstart}/maft.yaml
MODEL:
  WEIGHTS: {trained}/maft/model_final
  PROPOSER: {{NAME: SAM, SAM: {{PRETRAINED: {sam}, POINTS_PER_SIDE: 4, IOU_THRESHOLD: -9.0}}}}
"""
CROPS_OF_GROUND_TRUTH = """
_BASE_: {quickstart}/masked_crops.yaml
MODEL:
  PROPOSER: {{NAME: GroundTruth}}
"""
MASK_ADAPTER_ON_FILES = """
_BASE_: {quickstart}/mask_adapter.yaml
MODEL:
  WEIGHTS: {trained}/mask_adapter/model_final
  PROPOSER: {{NAME: MaskFiles, MaskFiles: {{PATH: {world}/val/masks}}}}
"""


@pytest.fixture(scope="module")
def places(tmp_path_factory, tiny_sam):
    """A small world, a tiny SAM, and MAFT and Mask-Adapter trained for a step."""
    folder = tmp_path_factory.mktemp("switching")
    places = {
        "quickstart": QUICKSTART,
        "trained": folder,
        "sam": folder / "sam",
        "world": folder / "datasets/miniature",
    }
    ensure_miniature(places["world"], {"train": 8, "val": 2})
    torch.manual_seed(0)
    tiny_sam("sam").save_pretrained(places["sam"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(folder / "datasets"))
        patch.chdir(QUICKSTART.parent.parent)
        for name in ("maft", "maft_siglip", "mask_adapter"):
            short = ["SOLVER.MAX_ITER", "1", "SOLVER.IMS_PER_BATCH", "2", "DATASETS.TEST", "[]", "MODEL.DEVICE", "cpu"]
            run(load_config(QUICKSTART / f"{name}.yaml", [*short, "OUTPUT_DIR", str(folder / name)]))
        yield places


@pytest.mark.parametrize("text", [MAFT_ON_SAM, CROPS_OF_GROUND_TRUTH, MASK_ADAPTER_ON_FILES])
def test_a_few_lines_switch_the_proposer(places, tmp_path, text):
    assert len(text.strip().splitlines()) <= 12
    (tmp_path / "switched.yaml").write_text(text.format(**places))
    cfg = load_config(tmp_path / "switched.yaml", ["MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path)])
    results = run(cfg, eval_only=True)["miniature_val"]
    assert 0 <= results["sem_seg"]["mIoU"] <= 100
    assert json.loads((tmp_path / "inference/miniature_val/results.json").read_text())["dataset"] == "miniature_val"


def test_a_tower_with_a_latent_query_is_trained_and_evaluated_as_shipped(places, tmp_path):
    trained = places["trained"] / "maft_siglip/model_final"
    for name, weights in (("frozen_siglip", []), ("maft_siglip", ["MODEL.WEIGHTS", str(trained)])):
        options = ["MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path / name), *weights]
        results = run(load_config(QUICKSTART / f"{name}.yaml", options), eval_only=True)["miniature_val"]
        assert 0 <= results["sem_seg"]["mIoU"] <= 100
