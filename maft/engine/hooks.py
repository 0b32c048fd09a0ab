"""What happens beside the optimiser steps and is not among Detectron2's hooks."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from detectron2.engine import HookBase
from detectron2.engine.hooks import EvalHook
from detectron2.utils import comm
from torch import nn

from maft.engine.checkpointer import Checkpointer
from maft.engine.sharding import whole_state, whole_weights
from maft.engine.watching import meet
from maft.errors import UserError


def _due(iterations: int, period: int) -> bool:
    return period > 0 and iterations % period == 0


class PeriodicCheckpoint(HookBase):
    """Saves a resumable checkpoint of ``model`` (without its data-parallel wrapper).

    It does so every ``period`` iterations, after the last one, when the run is asked to stop, and every
    ``evaluation_period`` iterations, so that the evaluation that follows may be broken off. Register it after the hooks
    that change what belongs to the iteration that is saved.

    Raises:
        UserError: the weights, or a loss that nobody had looked at, are not finite; they are not saved.
    """

    def __init__(self, model: nn.Module, checkpointer: Checkpointer, period: int, evaluation_period: int = 0) -> None:
        self.model, self.checkpointer, self.periods = model, checkpointer, (period, evaluation_period)

    def after_step(self) -> None:
        iterations = self.trainer.iter + 1
        last = iterations == self.trainer.max_iter
        if not (last or self.trainer.stopping or any(_due(iterations, period) for period in self.periods)):
            return
        self.trainer.settle()
        # Both in every process, as each may have a share alone.
        model, state = whole_state(self.model), self.trainer.checkpoint_state(iterations)
        # In every process: where one alone raised, the others would wait for it.
        if not torch.stack([value.isfinite().all() for value in model.values()]).all():
            raise UserError(
                f"The weights are not finite after iteration {iterations - 1} and were not saved: resume from the last "
                "checkpoint with a lower SOLVER.BASE_LR, clipped gradients or SOLVER.AMP off."
            )
        if comm.is_main_process():
            self.checkpointer.save(model, state)
            if last:
                self.checkpointer.save_final(model)
        meet("the checkpoint")


class PeriodicEvaluation(EvalHook):
    """Detectron2's, but nothing is evaluated after an exception, even if it came in the last iteration."""

    def after_train(self) -> None:
        if self.trainer.iter == self.trainer.max_iter:
            super().after_train()


class PredictionPictures(HookBase):
    """Puts pictures of predictions into the event storage every ``period`` iterations (TensorBoard shows them).

    Args:
        draw: returns name -> (height, width, 3) uint8 RGB; called in the main process only.
    """

    def __init__(self, draw: Callable[[], Mapping[str, np.ndarray]], period: int) -> None:
        self.draw, self.period = draw, period

    def after_step(self) -> None:
        if _due(self.trainer.iter + 1, self.period):
            with whole_weights(self.trainer.model):
                if comm.is_main_process():
                    for name, picture in self.draw().items():
                        self.trainer.storage.put_image(name, picture.transpose(2, 0, 1))
                meet("the pictures")
