"""FC-CLIP, MAFT+ and Mask-Adapter: stages fit the checkpoints their configs name, and so do the released files."""

import json
from functools import cache
from pathlib import Path

import pytest
import torch

from maft.building import build_model, model_shapes
from maft.checkpoint.io import read_state_dict, write_safetensors
from maft.checkpoint.key_map import differences
from maft.checkpoint.loading import InitialWeights
from maft.checkpoint.official.released import convert_released, recognise
from maft.config import load_config, start_from

FOLDER = Path(__file__).resolve().parent.parent / "configs"
ROWS = sorted(
    path.relative_to(FOLDER).as_posix()
    for folder in ("fcclip", "maft_plus", "mask_adapter")
    for path in (FOLDER / folder).glob("*.yaml")
)
MIXED = [f"mask_adapter/{name}.yaml" for name in ("fcclip_convnextl", "maft_plus_convnextb", "maft_plus_convnextl")]
WARM_UP = [f"mask_adapter/maft_plus_convnext{size}_warm-up.yaml" for size in "bl"]
EVALUATIONS = [name for name in ROWS if name.endswith(("_semantic.yaml", "_streets.yaml"))]

# Released file -> the config whose comment, or MODEL_ZOO.md, names it.
RELEASED = {
    "fcclip_cocopan.pth": "fcclip/fcclip_convnextl_coco-panoptic",
    **{f"fcclip_cocopan_{tower}.pth": f"fcclip/fcclip_{tower}_coco-panoptic" for tower in ("r50", "r101", "r50x4")},
    **{f"fcclip_cocopan_{tower}.pth": f"fcclip/fcclip_{tower}_coco-panoptic" for tower in ("r50x16", "r50x64")},
    "maftp_l.pth": "maft_plus/maft_plus_convnextl_coco-stuff",
    "maftp_b.pth": "maft_plus/maft_plus_convnextb_coco-stuff",
    "maftp_l_pano.pth": "maft_plus/maft_plus_convnextl_coco-panoptic",
    "fcclip_convnext_large_maskadapter.pth": "mask_adapter/fcclip_convnextl",
    "maftp_convnext_base_maskadapter.pth": "mask_adapter/maft_plus_convnextb",
    "maftp_convnext_large_maskadapter.pth": "mask_adapter/maft_plus_convnextl",
    "first-phase/fcclip-l-adapter/model_final.pth": "mask_adapter/fcclip_convnextl_warm-up",
    "first-phase/maft_b_adapter/model_final.pth": "mask_adapter/maft_plus_convnextb_warm-up",
    "first-phase/maft_l_adapter/model_final.pth": "mask_adapter/maft_plus_convnextl_warm-up",
}


@cache
def shapes(name):
    return model_shapes(load_config(FOLDER / name))


def config_of(checkpoint):
    """The config whose training leaves this checkpoint."""
    return f"{checkpoint.removeprefix('output/').removesuffix('/model_final')}.yaml"


def taken(name, rule):
    """What a rule takes of the checkpoint that a config leaves."""
    return {key: value for key, value in shapes(name).items() if key.startswith(tuple(f"{p}." for p in rule.take))}


@pytest.mark.parametrize("name", ROWS)
def test_results_go_to_a_folder_of_the_configs_name(name):
    assert f"output/{name.removesuffix('.yaml')}" == load_config(FOLDER / name).OUTPUT_DIR


@pytest.mark.parametrize("name", MIXED)
def test_the_mixed_stage_is_its_host_with_the_classifier_of_its_warm_up(name):
    cfg = load_config(FOLDER / name)
    from_host, from_warm_up = start_from(cfg)
    host, warm_up = config_of(from_host.file), config_of(from_warm_up.file)
    assert from_warm_up.take == ("classifier.head",)
    assert differences(shapes(name), {**taken(host, from_host), **taken(warm_up, from_warm_up)}) == []
    assert (
        load_config(FOLDER / warm_up).DATASETS.TRAIN == cfg.DATASETS.TRAIN == load_config(FOLDER / host).DATASETS.TRAIN
    )


@pytest.mark.parametrize("name", WARM_UP)
def test_the_warm_up_on_maft_plus_takes_its_clip_texts_and_void(name):
    cfg = load_config(FOLDER / name)
    (rule,) = start_from(cfg)
    lines = differences(shapes(name), taken(config_of(rule.file), rule))
    assert lines and all(line.startswith("missing: classifier.head.") for line in lines)


@pytest.mark.parametrize("name", EVALUATIONS)
def test_an_evaluation_runs_the_model_that_the_row_it_names_has_trained(name):
    assert differences(shapes(name), shapes(config_of(load_config(FOLDER / name).MODEL.WEIGHTS))) == []


def test_the_handed_over_tensors_are_those_of_the_right_file(tmp_path):
    adapter = FOLDER / "quickstart/mask_adapter.yaml"
    off = ["MODEL.START_FROM", "[]", "MODEL.VOCABULARY.VOID", "True"]
    host, warm_up = tmp_path / "host.safetensors", tmp_path / "warm_up.safetensors"
    for file, config, overrides, step in (
        (host, FOLDER / "quickstart/mask_pooling.yaml", off, 1.0),
        (warm_up, adapter, [*off, "MODEL.PROPOSER.NAME", "GroundTruth"], 2.0),
    ):
        cfg = load_config(config, ["MODEL.DEVICE", "cpu", *overrides])
        state = build_model(cfg, InitialWeights()).state_dict()
        write_safetensors(file, {name: value + step for name, value in state.items()}, {})
    rules = [{"FILE": str(host)}, {"FILE": str(warm_up), "TAKE": "classifier"}]
    cfg = load_config(adapter, ["MODEL.DEVICE", "cpu", *off[2:], "MODEL.START_FROM", str(rules)])
    mixed = build_model(cfg).state_dict()

    given = {True: read_state_dict(warm_up), False: read_state_dict(host)}
    assert "vocabulary_encoder.void_embedding" in mixed and any(name.startswith("proposer.") for name in mixed)
    for name, value in mixed.items():
        assert torch.equal(value, given[name.startswith("classifier.")][name]), name


@pytest.mark.parametrize("file", RELEASED)
def test_a_released_file_fits_the_config_that_names_it(golden_dir, file):
    record = json.loads((golden_dir / "maskadapter/checkpoint_keys.json").read_text())
    keys = {name: torch.Size(shape[:-1]) for name, shape in record[file]["keys"].items()}
    state = convert_released(keys, recognise(keys), file)
    assert differences(shapes(f"{RELEASED[file]}.yaml"), state) == []
