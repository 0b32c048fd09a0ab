"""What happens beside the optimiser steps: schedule, checkpoints, evaluation, pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.engine import HookBase
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm
from torch import nn

from maft.engine.checkpointer import Checkpointer
from maft.errors import UserError
from maft.interfaces import Trainable


class CompiledParts(HookBase):
    """Sends submodules and methods of a model through torch.compile, in place.

    Args:
        names: of submodules (``proposer.pixel_decoder``) or of methods of one (``classifier.encode_proposals``).

    Raises:
        UserError: the model has no such part; or, after the first iteration, a part was never called, as happens to a
            module whose owner calls its children one by one.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        self.waiting = set(names)
        for name in names:
            owner, attribute = _find(model, name)
            # A compiled module would have other parameter names, and Module.compile cannot tell that it is not called.
            setattr(owner, attribute, self._watched(name, torch.compile(getattr(owner, attribute))))

    def _watched(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.waiting.discard(name)
            return function(*arguments, **options)

        return call

    def after_step(self) -> None:
        if self.waiting:
            raise UserError(
                f"SOLVER.COMPILE names {sorted(self.waiting)[0]!r}, which this model never calls as a whole, so that "
                "nothing of it was compiled: name what calls it, or leave it out."
            )


def _find(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    owner, _, method = name.rpartition(".")
    try:
        return model.get_submodule(name), "forward"
    except AttributeError:
        pass
    try:
        parent = model.get_submodule(owner)
        if callable(getattr(parent, method)):
            return parent, method
    except AttributeError:
        pass
    raise UserError(f"SOLVER.COMPILE names {name!r}, which is no submodule or method of the model.")


def _due(iterations: int, period: int) -> bool:
    return period > 0 and iterations % period == 0


class StepScheduler(HookBase):
    """Steps the learning-rate schedule after every iteration and logs the rate of the largest parameter group."""

    def before_train(self) -> None:
        groups = self.trainer.optimizer.param_groups
        self._largest = max(range(len(groups)), key=lambda index: len(groups[index]["params"]))

    def after_step(self) -> None:
        rate = self.trainer.optimizer.param_groups[self._largest]["lr"]
        self.trainer.storage.put_scalar("lr", rate, smoothing_hint=False)
        self.trainer.scheduler.step()


class AfterOptimizerStep(HookBase):
    """Calls the model's ``after_optimizer_step`` after every step. Register it before the checkpoint's hook: what it
    changes belongs to the iteration that is saved."""

    def __init__(self, model: Trainable) -> None:
        self.model = model

    def after_step(self) -> None:
        self.model.after_optimizer_step()


class PeriodicCheckpoint(HookBase):
    """Saves a resumable checkpoint every ``period`` iterations and after the last one. Register it after the
    scheduler's hook, whose step belongs to the iteration that is saved."""

    def __init__(self, checkpointer: Checkpointer, period: int) -> None:
        self.checkpointer, self.period = checkpointer, period

    def after_step(self) -> None:
        iterations = self.trainer.iter + 1
        last = iterations == self.trainer.max_iter
        if comm.is_main_process() and (last or _due(iterations, self.period)):
            model = self.trainer.plain_model.state_dict()
            self.checkpointer.save(model, self.trainer.checkpoint_state(iterations))
            if last:
                self.checkpointer.save_final(model)
        comm.synchronize()


class PeriodicEvaluation(HookBase):
    """Evaluates every ``period`` iterations and after the last one; numbers go to the event storage.

    Args:
        evaluate: returns nested dicts of numbers by dataset and metric; called in every process.
    """

    def __init__(self, evaluate: Callable[[], Mapping[str, Any]], period: int) -> None:
        self.evaluate, self.period = evaluate, period
        self.results: Mapping[str, Any] = {}

    def after_step(self) -> None:
        iterations = self.trainer.iter + 1
        if _due(iterations, self.period) and iterations != self.trainer.max_iter:
            self._run()

    def after_train(self) -> None:
        # Also reached after an exception, when there is nothing to evaluate.
        if self.trainer.iter == self.trainer.max_iter:
            self._run()

    def _run(self) -> None:
        self.results = self.evaluate() or {}
        flat = flatten_results_dict(dict(self.results))
        numbers = {name: float(value) for name, value in flat.items() if isinstance(value, (int, float))}
        self.trainer.storage.put_scalars(smoothing_hint=False, **numbers)
        comm.synchronize()


class PredictionPictures(HookBase):
    """Puts pictures of predictions into the event storage every ``period`` iterations (TensorBoard shows them).

    Args:
        draw: returns name -> (height, width, 3) uint8 RGB; called in the main process only.
    """

    def __init__(self, draw: Callable[[], Mapping[str, np.ndarray]], period: int) -> None:
        self.draw, self.period = draw, period

    def after_step(self) -> None:
        if _due(self.trainer.iter + 1, self.period):
            if comm.is_main_process():
                for name, picture in self.draw().items():
                    self.trainer.storage.put_image(name, picture.transpose(2, 0, 1))
            comm.synchronize()
