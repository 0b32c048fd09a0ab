"""Shared config keys take what can be meant and nothing else."""

import pytest

from maft.config import load_config
from maft.config_checks import keys_of
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
        ("MODEL.SEM_SEG_HEAD.NUM_CLASSES", "3", "MODEL.SEM_SEG_HEAD.NUM_CLASSES is 3, but this key of Detectron2"),
        ("TEST.DETECTIONS_PER_IMAGE", "3", "use MODEL.INFERENCE.MAX_INSTANCES"),
    ],
)
def test_what_cannot_be_meant_is_refused(tiny_configs, key, value, sentence):
    with pytest.raises(UserError) as raised:
        load_config(tiny_configs / "maft.yaml", [key, value])
    assert sentence in str(raised.value)


def test_every_typed_key_exists_and_its_default_fits():
    defaults = default_config()
    assert set(_TYPES) <= set(keys_of(defaults))
    check_values(defaults, defaults)
