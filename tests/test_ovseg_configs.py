"""OVSeg: what its configs train, and what they hand over from stage to stage."""

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from golden.engine import learning_rates
from torch import nn

from maft.building import build_model, model_shapes
from maft.checkpoint.key_map import differences
from maft.checkpoint.loading import InitialWeights
from maft.checkpoint.official.released import convert_released, recognise
from maft.config import load_config, start_from
from maft.engine.schedules import build_scheduler

FOLDER = Path(__file__).resolve().parent.parent / "configs"
RATES = json.loads((FOLDER.parent / "tests/golden/ovseg/lr_schedules.json").read_text(encoding="utf-8"))
OVSEG = sorted(path.stem for path in (FOLDER / "ovseg").glob("*.yaml"))
DEMO = "ovseg_swinb_vitl14_demo"
EVALUATIONS = [name for name in OVSEG if name.startswith("ovseg_") and name != DEMO]
SEGMENTATION = {"segmentation_r101c_vitb16": "R101c", "segmentation_swinb_vitl14": "swinB"}
FINE_TUNING = {
    "region_clip_vitl14": "ft_vitL_1cap",
    "region_clip_vitb16": "ft_vitB_1cap",
    "region_clip_prompts_vitl14": "mpt_vitL_1cap",
}
RELEASED = {
    "ovseg_swinbase_vitL14_ft_mpt.pth": "ovseg_swinb_vitl14",
    "ovseg_swinbase_vitL14_mpt_only.pt": "ovseg_swinb_vitl14",
    "ovseg_R101c_vitB16_ft_mpt.pth": "ovseg_r101c_vitb16",
}


def config(name, *overrides):
    return load_config(FOLDER / f"ovseg/{name}.yaml", list(overrides))


@cache
def shapes(name):
    return model_shapes(config(name))


@pytest.mark.parametrize("name", OVSEG)
def test_results_go_to_a_folder_of_the_configs_name(name):
    assert f"output/ovseg/{name}" == config(name).OUTPUT_DIR


@pytest.mark.parametrize(
    ("name", "millions"), [("segmentation_r101c_vitb16", 60.72), ("segmentation_swinb_vitl14", 102.84)]
)
def test_as_many_parameters_train_as_in_the_official_model(name, millions):
    with torch.device("meta"):
        cfg = config(name)
        cfg.MODEL.DEVICE = "meta"
        model = build_model(cfg, InitialWeights())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert trained / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize(("name", "record"), [*SEGMENTATION.items(), *FINE_TUNING.items()])
def test_the_learning_rate_is_that_of_the_official_run_at_every_recorded_step(name, record):
    recorded = {**RATES["warmup_poly"], **RATES["clip_cosine"]}[record]
    cfg = config(name)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=cfg.SOLVER.BASE_LR)
    steps = recorded.get("iters") or recorded["steps"]
    rates = [group[0] for group in learning_rates(build_scheduler(cfg, optimizer), steps)]
    assert rates == pytest.approx(recorded["lr"], rel=1e-6)


@pytest.mark.parametrize("name", [*EVALUATIONS, DEMO])
def test_an_evaluation_joins_its_segmentor_with_a_clip_tuned_for_it(name):
    cfg = config(name)
    from_segmentor, *from_clip = start_from(cfg)
    segmentor, (clip,) = Path(from_segmentor.file).parts[-2], {Path(rule.file).parts[-2] for rule in from_clip}
    for earlier, rule in ((segmentor, from_segmentor), *((clip, rule) for rule in from_clip)):
        assert f"{config(earlier).OUTPUT_DIR}/model_final" == rule.file
    assert config(clip).MODEL.CLIP.NAME == cfg.MODEL.CLIP.NAME == config(segmentor).MODEL.CLIP.NAME
    given = {key: shape for key, shape in shapes(segmentor).items() if key.partition(".")[0] in from_segmentor.take}
    assert from_segmentor.take == ("vocabulary_encoder", "proposer")
    # CLIP and prompts are the whole of what the fine-tuning leaves.
    given |= {key.replace("mask_prompts.", "classifier.mask_prompts."): s for key, s in shapes(clip).items()}
    assert differences(shapes(name), given) == []
    assert {rule.take[0] for rule in from_clip} == {key.partition(".")[0] for key in shapes(clip)}


@pytest.mark.parametrize("name", EVALUATIONS)
def test_every_label_set_has_its_ensemble_weight(name):
    cfg = config(name)
    weights = {"ade20k": 0.7, "pascal": 0.6, "voc": 0.45}
    assert {cfg.MODEL.ENSEMBLE.OVSegEnsemble.WEIGHT} == {weights[test.split("_")[0]] for test in cfg.DATASETS.TEST}
    assert {owner for owner, _, _ in cfg.TEST.EXPECTED} == set(cfg.DATASETS.TEST)


def test_the_demo_cuts_masks_as_its_crops_are_cut_and_leaves_the_naming_to_clip():
    cfg = config(DEMO)
    assert cfg.MODEL.INFERENCE.BEST_MASKS_ABOVE == cfg.MODEL.CLASSIFIER.MaskedCrops.MASK_THRESHOLD == 0.35
    assert cfg.MODEL.ENSEMBLE.OVSegEnsemble.WEIGHT == 0
    assert not cfg.DATASETS.TEST and not cfg.TEST.EXPECTED


@pytest.mark.parametrize("file", RELEASED)
def test_a_released_file_fits_the_config_that_names_it(golden_dir, file):
    record = json.loads((golden_dir / "ovseg/checkpoint_keys.json").read_text())
    keys = {name: torch.Size(shape[:-1]) for name, shape in record[file]["keys"].items()}
    assert differences(shapes(RELEASED[file]), convert_released(keys, recognise(keys), file)) == []
