"""Shared config keys take what can be meant and nothing else."""

from functools import reduce
from operator import getitem

import pytest

from maft.config import load_config
from maft.config_checks import _IGNORED, keys_of
from maft.config_keys import default_config
from maft.config_values import _TYPES, check_values
from maft.errors import UserError


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("SOLVER.MAX_ITER", "0", "SOLVER.MAX_ITER is 0, but it must be a whole number of at least 1."),
        ("SOLVER.LOG_PERIOD", "0", "SOLVER.LOG_PERIOD is 0"),
        ("DATALOADER.NUM_WORKERS", "-1", "DATALOADER.NUM_WORKERS is -1, but"),
        ("SOLVER.LR_MULTIPLIERS", "[3]", "SOLVER.LR_MULTIPLIERS takes a list (a list of 2"),
        ("SOLVER.LR_MULTIPLIERS", "[['backbone', 'x']]", "SOLVER.LR_MULTIPLIERS takes"),
        ("SOLVER.LR_MULTIPLIERS", "[['backbone', -1.0]]", "SOLVER.LR_MULTIPLIERS takes"),
        ("INPUT.MIN_SIZE_TRAIN", "[]", "INPUT.MIN_SIZE_TRAIN"),
        ("SOLVER.WEIGHT_DECAY", "-0.1", "SOLVER.WEIGHT_DECAY is -0.1, but it must be a number of at least 0"),
        ("SOLVER.BASE_LR", "nan", "SOLVER.BASE_LR"),
        ("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "-1.0", "must be a number above 0"),
        ("SOLVER.BETAS", "[0.9, 1.5]", "SOLVER.BETAS"),
        ("SEED", "99999999999", "SEED is 99999999999"),
        ("SEED", "None", "SEED"),
        ("SOLVER.LR_SCHEDULER_NAME", "Poly", "SOLVER.LR_SCHEDULER_NAME is 'Poly'; choose one of: WarmupPolyLR"),
        ("TEST.EXPECTED", "[['a', 'mIoU', 'x']]", "TEST.EXPECTED takes"),
        ("TEST.PROTOCOL", "all", "TEST.PROTOCOL is 'all'; choose one of: generalized, unseen_only."),
        ("MODEL.CLIP.PRETRAINED", "None", "MODEL.CLIP.PRETRAINED has no value"),
        ("OUTPUT_DIR", "", "OUTPUT_DIR"),
        ("MODEL.META_ARCHITECTURE", "GeneralizedRCNN", "of: OpenVocabSegmentor, RegionCLIP, PromptLearning."),
        *(
            ("MODEL.DEVICE", name, f"MODEL.DEVICE is {name!r}: use cuda")
            for name in ("mps", "xla", "meta", "cuda:x", "x")
        ),
        ("SOLVER.STEPS", "(5, 3)", "SOLVER.STEPS is [5, 3], but each step must come after the one before it."),
        ("SOLVER.STEPS", "(5, 5)", "SOLVER.STEPS is [5, 5]"),
        ("VERSION", "3", "VERSION is 3, but 2 is the only one here"),
        ("MODEL.INFERENCE.SEEN_PENALTY", "-0.1", "must be a number of at least 0"),
        ("MODEL.INFERENCE.BACKGROUND_BELOW", "1.5", "MODEL.INFERENCE.BACKGROUND_BELOW"),
        ("INPUT.LARGE_SCALE_JITTER.SCALE", "[2.0, 0.1]", "but the smaller one comes first"),
        ("GLOBAL.HACK", "2.0", "this key of Detectron2 has no effect here"),
        ("MODEL.SEM_SEG_HEAD.NUM_CLASSES", "3", "MODEL.SEM_SEG_HEAD.NUM_CLASSES is 3, but this key of Detectron2"),
        ("TEST.DETECTIONS_PER_IMAGE", "3", "use MODEL.INFERENCE.MAX_INSTANCES"),
    ],
)
def test_what_cannot_be_meant_is_refused(tiny_configs, key, value, sentence):
    with pytest.raises(UserError) as raised:
        load_config(tiny_configs / "maft.yaml", [key, value])
    assert sentence in str(raised.value)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            {"INPUT.MIN_SIZE_TRAIN": "(10, 20, 30)", "INPUT.MIN_SIZE_TRAIN_SAMPLING": "range"},
            "INPUT.MIN_SIZE_TRAIN is [10, 20, 30], but INPUT.MIN_SIZE_TRAIN_SAMPLING range takes two sizes",
        ),
        (
            {"INPUT.MIN_SIZE_TRAIN": "(20, 10)", "INPUT.MIN_SIZE_TRAIN_SAMPLING": "range"},
            "takes two sizes, the smaller one first",
        ),
        ({"SOLVER.LR_SCHEDULER_NAME": "WarmupCosineLR", "SOLVER.BASE_LR_END": "1.0"}, "above SOLVER.BASE_LR"),
        (
            {"SOLVER.OPTIMIZER": "SGD", "SOLVER.NESTEROV": "True", "SOLVER.MOMENTUM": "0.0"},
            "set SOLVER.MOMENTUM above 0",
        ),
        ({"INPUT.CROP.ENABLED": "True", "INPUT.CROP.TYPE": "relative", "INPUT.CROP.SIZE": "[2.0, 1.0]"}, "up to 1"),
        (
            {"INPUT.CROP.ENABLED": "True", "INPUT.CROP.TYPE": "absolute", "INPUT.CROP.SIZE": "[0.5, 8.0]"},
            "whole pixels",
        ),
    ],
)
def test_values_that_do_not_go_together(tiny_configs, overrides, sentence):
    with pytest.raises(UserError) as raised:
        load_config(tiny_configs / "maft.yaml", [word for pair in overrides.items() for word in pair])
    assert sentence in str(raised.value) and "\n" not in str(raised.value)


def test_every_number_has_a_range():
    defaults = default_config()
    for key in keys_of(defaults):
        value = reduce(getitem, key.split("."), defaults)
        if type(value) in (int, float) and key not in (*_TYPES, "VERSION"):
            assert any(f"{key}.".startswith(f"{ignored}.") for ignored in _IGNORED), key


def test_every_typed_key_exists_and_its_default_fits():
    defaults = default_config()
    assert set(_TYPES) <= set(keys_of(defaults))
    check_values(defaults, defaults)
