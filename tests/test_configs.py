"""Every shipped config builds its model, without memory, and refuses what it does not know."""

import re
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY
from tiny_dinos import save_dino

import maft.building  # noqa: F401 - registers the architectures
from maft.config import load_config, self_contained, start_from
from maft.data.catalog import dataset
from maft.errors import UserError
from maft.evaluation.report import definition

FOLDER = Path(__file__).resolve().parent.parent / "configs"
FILES = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.yaml") if path.parent.name != "_base_")
MAFT = [name for name in FILES if name.startswith("maft/")]
ZOO = (FOLDER.parent / "MODEL_ZOO.md").read_text(encoding="utf-8")


def build(cfg):
    with torch.device("meta"):
        return META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)


@pytest.fixture(scope="session")
def sam_folder(tiny_sam, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sam")
    tiny_sam("sam2").save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def dino_folder(tmp_path_factory):
    return str(save_dino("dinov2", tmp_path_factory.mktemp("dino"), blocks=12))


@pytest.mark.parametrize("name", FILES)
def test_the_model_builds_and_what_is_frozen_has_no_gradients(name, request):
    cfg = load_config(FOLDER / name)
    if cfg.MODEL.PROPOSER.NAME == "SAM":
        cfg.MODEL.PROPOSER.SAM.PRETRAINED = request.getfixturevalue("sam_folder")
    if "PRETRAINED" in cfg.MODEL.PROPOSER.get("EoMT", {}):
        cfg.MODEL.PROPOSER.EoMT.PRETRAINED = request.getfixturevalue("dino_folder")
    model = build(cfg)
    trains = [key for key, parameter in model.named_parameters() if parameter.requires_grad]
    assert trains or (cfg.MODEL.PROPOSER.FROZEN and cfg.MODEL.CLASSIFIER.FROZEN)
    frozen = {"proposer.": cfg.MODEL.PROPOSER.FROZEN, "classifier.": cfg.MODEL.CLASSIFIER.FROZEN}
    for part, is_frozen in frozen.items():
        assert not is_frozen or not any(key.startswith(part) for key in trains)


@cache
def zoo_rows():
    """The configs that each row of MODEL_ZOO.md's tables names, as written and as files, with the row's numbers."""
    rows = []
    for row in filter(lambda line: line.startswith("|"), ZOO.splitlines()):
        named = re.findall(r"[\w./*-]+\.yaml", row)
        configs = {name for name in FILES for pattern in named if fnmatchcase(f"/{name}", f"*/{pattern}")}
        rows.append((named, configs, [float(number) for number in re.findall(r"\d+\.\d+|\d+", row)]))
    return rows


@pytest.mark.parametrize("name", FILES)
def test_expected_numbers_name_metrics_and_evaluated_datasets_and_stand_in_the_model_zoo(name):
    cfg = load_config(FOLDER / name)
    in_zoo = [number for _, configs, numbers in zoo_rows() if name in configs for number in numbers]
    evaluated = [dataset(entry).name for entry in cfg.DATASETS.TEST]
    for owner, metric, value in cfg.TEST.EXPECTED:
        assert dataset(owner).name in evaluated
        assert definition(metric.rpartition("/")[2]), metric
        assert 0 < value < 100
        # Its tables round to a tenth.
        assert any(abs(number - value) <= 0.0501 for number in in_zoo), (owner, metric, value)
    assert cfg.TEST.REPRODUCES or not cfg.TEST.EXPECTED


def test_the_model_zoo_names_configs_that_exist():
    assert [named for named, configs, _ in zoo_rows() if named and not configs] == []


@pytest.mark.parametrize("name", MAFT)
def test_a_config_of_a_table_says_which_row_it_reproduces_and_writes_to_its_own_folder(name):
    cfg = load_config(FOLDER / name)
    assert cfg.TEST.REPRODUCES
    folder = f"output/{name.removesuffix('.yaml')}"
    assert folder == cfg.OUTPUT_DIR


@pytest.mark.parametrize("name", [name for name in MAFT if name.startswith("maft/maft_")])
def test_stage_two_starts_from_a_stage_one_with_the_same_generator_and_vocabulary(name):
    second = load_config(FOLDER / name)
    (rule,) = start_from(second)
    folder, final = rule.file.rsplit("/", 1)
    assert final == "model_final"
    first = load_config(FOLDER / f"{folder.removeprefix('output/')}.yaml")
    for node in ("BACKBONE", "RESNETS", "CLIP"):
        assert first.MODEL[node] == second.MODEL[node]
    assert first.MODEL.PROPOSER[first.MODEL.PROPOSER.NAME] == second.MODEL.PROPOSER[first.MODEL.PROPOSER.NAME]
    assert first.DATASETS == second.DATASETS
    # All that stage 2 adds to the handed-over tensors is the classifier.
    lacking = build(second).state_dict().keys() ^ build(first).state_dict().keys()
    assert lacking
    assert all(key.startswith("classifier.") for key in lacking)


@pytest.mark.parametrize("name", FILES)
def test_a_wrong_key_is_refused_by_name(name, tmp_path):
    cfg = load_config(FOLDER / name)
    proposer = cfg.MODEL.PROPOSER.NAME
    file = tmp_path / "config.yaml"
    for wrong, text in (
        ("BASE_LEARNING_RATE", "SOLVER: {BASE_LEARNING_RATE: 1.0}"),
        ("NUM_QUERYS", f"MODEL: {{PROPOSER: {{{proposer}: {{NUM_QUERYS: 3}}}}}}"),
        ("START_LAYERS", "MODEL: {CLASSIFIER: {NAME: IPCLIP, IPCLIP: {START_LAYERS: 8}}}"),
    ):
        file.write_text(f"_BASE_: {FOLDER / name}\n{text}\n")
        with pytest.raises(UserError, match=wrong) as raised:
            load_config(file)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["SOLVER", "3"], "SOLVER is a group of keys and cannot be set to a int: set one of its keys."),
        (["SOLVER.BASE_LR", "abc"], "SOLVER.BASE_LR takes a number, not the str 'abc'."),
        (["SOLVER.BASE_LR", "3", "SOLVER.BASE_LR.X", "3"], "Override SOLVER.BASE_LR.X: BASE_LR is a value"),
        (["SOLVER.BASE_LR"], "'SOLVER.BASE_LR' has no value"),
        (["MODEL.PIXEL_MEAN", "[1.0, 2.0, 3.0]"], "proposers and CLIP bring their own normalisation"),
        (
            ["MODEL.INFERENCE.SEMANTICS", "True"],
            "no key MODEL.INFERENCE.SEMANTICS. Did you mean MODEL.INFERENCE.SEMANTIC?",
        ),
        (["MODEL.PROPOSER.NAMES", "SAM"], "is neither a shared key nor a proposer"),
        (["MODEL.PROPOSER.WEIGHTS", "x"], "MODEL.PROPOSER.WEIGHTS is gone: write MODEL.START_FROM [{FILE"),
        (["MODEL.WEIGHTS_MAY_LACK", "[]"], "MODEL.WEIGHTS_MAY_LACK is gone: write MODEL.START_FROM [{FILE"),
        (["MODEL.CLASSIFIER.IPCLIP", "3"], "MODEL.CLASSIFIER.IPCLIP is a group of keys and cannot be set to a int"),
        (["MODEL.CLASSIFIER.IPCLIP.DROP_EMPTY", "nope"], "IPCLIP.DROP_EMPTY takes True or False, not the str 'nope'."),
        (
            ["MODEL.CLASSIFIER.IPCLIP.MASK_THRESHOLD", "1.5"],
            "MASK_THRESHOLD is 1.5, but it must be a number of at least 0",
        ),
    ],
)
def test_an_override_that_cannot_be_is_explained_in_one_sentence(overrides, sentence):
    with pytest.raises(UserError) as raised:
        load_config(FOLDER / "quickstart/maft.yaml", overrides)
    assert sentence in str(raised.value) and "\n" not in str(raised.value)


def test_a_list_may_be_written_as_in_yaml():
    cfg = load_config(
        FOLDER / "quickstart/maft.yaml", ["MODEL.START_FROM", "[{FILE: a b.pth, TAKE: [clip, proposer]}]"]
    )
    assert cfg.MODEL.START_FROM == [{"FILE": "a b.pth", "TAKE": ["clip", "proposer"]}]
    with pytest.raises(UserError, match="while parsing"):
        load_config(FOLDER / "quickstart/maft.yaml", ["MODEL.START_FROM", "[{FILE: a"])


def test_a_start_layer_outside_the_tower_is_refused_before_anything_trains():
    cfg = load_config(FOLDER / "maft/maft_vitb16_coco-stuff-171.yaml", ["MODEL.CLASSIFIER.IPCLIP.START_LAYER", "12"])
    with pytest.raises(
        UserError, match=r"START_LAYER is 12, but the image tower of ViT-B-16-quickgelu has blocks 0 to 11"
    ):
        build(cfg)


def test_a_checkpoints_config_names_no_other_weights():
    cfg = load_config(FOLDER / "maft/maft_vitb16_coco-stuff-171.yaml", ["MODEL.WEIGHTS", "other"])
    own = self_contained(cfg)
    assert cfg.MODEL.WEIGHTS and cfg.MODEL.START_FROM
    assert own.MODEL.WEIGHTS == "" and own.MODEL.START_FROM == []
