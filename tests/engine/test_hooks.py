import numpy as np
import pytest
from detectron2.engine import TrainerBase
from torch import nn

from maft.engine.hooks import PeriodicEvaluation, PredictionPictures
from maft.errors import UserError


class Idle(TrainerBase):
    def __init__(self, fail_at=-1):
        super().__init__()
        self.fail_at, self.model = fail_at, nn.Identity()

    def run_step(self):
        if self.iter == self.fail_at:
            raise UserError("stop")


def test_evaluation_runs_periodically_and_once_at_the_end():
    trainer, seen = Idle(), []

    def evaluate():
        seen.append(trainer.iter)
        return {"world": {"sem_seg": {"mIoU": 40.0 + len(seen)}}}

    trainer.register_hooks([PeriodicEvaluation(2, evaluate)])
    trainer.train(0, 6)
    assert seen == [1, 3, 6]
    assert trainer.storage.latest()["world/sem_seg/mIoU"][0] == 43.0


def test_a_failed_training_is_not_evaluated():
    trainer, seen = Idle(fail_at=3), []
    trainer.register_hooks([PeriodicEvaluation(0, lambda: seen.append(1))])
    with pytest.raises(UserError, match="stop"):
        trainer.train(0, 4)
    assert seen == []


def test_pictures_reach_the_event_storage_as_channels_first():
    trainer = Idle()
    trainer.register_hooks([PredictionPictures(lambda: {"first": np.zeros((4, 6, 3), np.uint8)}, 3)])
    trainer.train(0, 7)
    assert [(name, picture.shape, iteration) for name, picture, iteration in trainer.storage._vis_data] == [
        ("first", (3, 4, 6), 2),
        ("first", (3, 4, 6), 5),
    ]
