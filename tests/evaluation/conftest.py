"""What every evaluation of these tests is configured with."""

import pytest
from detectron2.config import get_cfg

from maft.config_keys import add_maft_config


@pytest.fixture
def plain_cfg(tmp_path):
    """On the CPU in this process, into ``out``, with class names as they are."""
    cfg = get_cfg()
    add_maft_config(cfg)
    cfg.MODEL.DEVICE, cfg.OUTPUT_DIR, cfg.DATALOADER.NUM_WORKERS = "cpu", str(tmp_path / "out"), 0
    cfg.MODEL.VOCABULARY.CLASS_NAMES = "plain"
    return cfg
