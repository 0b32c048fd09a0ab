"""The training loop: one optimiser step per iteration over one global batch."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine import TrainerBase
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from maft.data.loader import TrainingLoader
from maft.engine.schedules import set_iteration
from maft.engine.sharding import share_of, whole_moments
from maft.engine.solver import clip_gradients
from maft.engine.step_numbers import Step, StepNumbers
from maft.engine.stopping import StopRequest, again
from maft.engine.watching import passing
from maft.errors import UserError, first_line

logger = logging.getLogger(__name__)

_NORM = "gradient_norm"


class Trainer(TrainerBase):
    """Detectron2's trainer with accumulation, mixed precision, full-model clipping and exact resume.

    Before each iteration all random generators are seeded by (seed, iteration, rank). Nothing that hooks, workers or
    an interruption do to them can then change the numbers, and a checkpoint needs no generator state.

    Args:
        model: returns a dict of scalar losses in training mode; may be wrapped by DistributedDataParallel or `Sharded`.
        loader: gives this process' part of each global batch.
        optimizer, scheduler: stepped once per iteration.
        seed: base of all random numbers, the same in every process.
        max_iter: number of iterations of the whole training.
        accumulate: micro-batches that a local batch is split into.
        autocast: None, ``torch.float16`` (with loss scaling) or ``torch.bfloat16``.
        clip: ``SOLVER.CLIP_GRADIENTS``.
        log_period: iterations after which the numbers of all are read, see `settle`.
        behind: how many iterations the device may be behind the host between two such; a loss that is not finite, and
            a request to stop another process, is noticed so many later. None: 2 on a GPU, 0 elsewhere.

    Micro-batches count equally. So accumulation equals the step without it exactly (to rounding) for losses that are
    means over the images, and for losses over masks or image-class pairs when every micro-batch has as many of them;
    otherwise a mask in a micro-batch with few masks weighs more, as it does everywhere that accumulates.
    """

    def __init__(
        self,
        model: nn.Module,
        loader: TrainingLoader,
        optimizer: Optimizer,
        scheduler: LRScheduler,
        *,
        seed: int,
        max_iter: int,
        clip: CfgNode,
        accumulate: int = 1,
        autocast: torch.dtype | None = None,
        log_period: int = 20,
        behind: int | None = None,
    ) -> None:
        super().__init__()
        self.model, self.loader, self.optimizer, self.scheduler = model, loader, optimizer, scheduler
        self.seed, self.max_iter, self.clip, self.accumulate, self.autocast = seed, max_iter, clip, accumulate, autocast
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.device = self.parameters[0].device
        self.numbers, self.log_period = StepNumbers(self.device), log_period
        self.behind = (2 if self.device.type == "cuda" else 0) if behind is None else behind
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=autocast is torch.float16)
        self._batches: Iterator[list[dict[str, Any]]] | None = None
        self.request = StopRequest("Stopping once this iteration is done and saved; Ctrl-C once more stops at once.")
        # The signal that asked any of the processes to stop, the same in all of them; 0 for none.
        self.stopping = 0

    def train(self, start_iter: int, max_iter: int) -> None:
        """Trains iterations ``start_iter`` to ``max_iter - 1``.

        After SIGTERM or Ctrl-C in any process the iteration is finished, hooks save it, and all of them end.

        Raises:
            UserError: the data cannot be used, or a loss is not finite.
            SystemExit: with status 128 + signal, as shells expect, after such a request.
        """
        # Detectron2's own loop prints a traceback for every exception, also for a user's mistake.
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        self.loader.start_at(start_iter)
        self.model.train()
        with EventStorage(start_iter) as self.storage:
            try:
                self.before_train()
                with self.request.noted():
                    for self.iter in range(start_iter, max_iter):
                        self.before_step()
                        self.run_step()
                        self.after_step()
                        if self.stopping:
                            logger.warning(
                                "Stopped and saved after %d of %d iterations; go on with: %s",
                                self.iter + 1, max_iter, again("--resume"),
                            )  # fmt: skip
                            raise SystemExit(128 + self.stopping)
                self.iter = max_iter
            except BaseException:
                # What a hook cannot do any more must not hide why the training ends.
                try:
                    self.after_train()
                except Exception as error:
                    logger.warning("The run could not be closed properly: %s", first_line(error))
                raise
            finally:
                self._batches = None
            self.after_train()

    def after_train(self) -> None:
        # Every hook closes what it has opened, whatever happens to one before it, such as a stop in an evaluation.
        self.storage.iter = self.iter
        with contextlib.ExitStack() as stack:
            for hook in reversed(self._hooks):
                stack.callback(hook.after_train)
            stack.callback(self._log_the_rest)

    def run_step(self) -> None:
        start = time.perf_counter()
        if self._batches is None:
            self._batches = iter(self.loader)
        passing(f"reading the batch of iteration {self.iter}")
        batch = next(self._batches)
        passing(f"iteration {self.iter}")
        waited = time.perf_counter() - start
        # Neighbouring integers as seeds would give related streams; hashing them gives unrelated ones.
        mixed = np.random.SeedSequence((self.seed, self.iter, comm.get_rank()))
        seed_all_rng(int(mixed.generate_state(1)[0]))

        self.optimizer.zero_grad()
        losses: dict[str, Tensor] = {}
        size = math.ceil(len(batch) / self.accumulate)
        for first in range(0, len(batch), size):
            last = first + size >= len(batch)
            with self._no_synchronisation(last):
                for name, value in self._backward(batch[first : first + size]).items():
                    losses[name] = losses.get(name, torch.zeros_like(value)) + value
        self.after_backward()

        self.scaler.unscale_(self.optimizer)
        norm = clip_gradients(self.parameters, self.clip)
        values = losses if norm is None else {**losses, _NORM: norm}
        self.numbers.put(self.iter, values, waited, self.request.signal)
        # Whoever writes the log of this iteration waits for it.
        due = (self.iter + 1) % self.log_period == 0 or self.iter + 1 == self.max_iter
        self.settle(0 if due else self.behind)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _backward(self, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        with torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            losses = self.model(batch)
        if wrong := [name for name, value in losses.items() if value.ndim]:
            raise UserError(f"The loss {wrong[0]!r} has shape {tuple(losses[wrong[0]].shape)}: take its mean or sum.")
        # Divided before they are added up, so that the logged losses are those of the whole batch.
        losses = {name: value / self.accumulate for name, value in losses.items()}
        self.scaler.scale(sum(losses.values())).backward()
        return {name: value.detach() for name, value in losses.items()}

    def _no_synchronisation(self, last: bool) -> contextlib.AbstractContextManager[None]:
        """Gradients of all micro-batches are averaged over the processes once, with the last one."""
        if last or not isinstance(self.model, DistributedDataParallel):
            return contextlib.nullcontext()
        return self.model.no_sync()

    def settle(self, behind: int = 0) -> None:
        """Reads the numbers of all iterations but the last ``behind`` ones; in every process at the same places.

        Raises:
            UserError: a loss was not finite.
        """
        for step in self.numbers.take(behind):
            self.stopping = self.stopping or step.signal
            bad = [f"{name} {value}" for name, value in step.values.items() if _is_bad_loss(name, value)]
            if bad:
                raise UserError(
                    f"The loss is not finite at iteration {step.iteration} ({', '.join(bad)}): lower SOLVER.BASE_LR, "
                    "clip gradients (SOLVER.CLIP_GRADIENTS) or turn SOLVER.AMP off."
                )
            self._log(step)

    def _log(self, step: Step) -> None:
        # EventStorage is of the main process: the mean over processes is the loss of the global batch.
        if not comm.is_main_process():
            return
        now, self.storage.iter = self.storage.iter, step.iteration
        self.storage.put_scalar("data_time", step.waited)
        self.storage.put_scalar("total_loss", sum(value for name, value in step.values.items() if name != _NORM))
        self.storage.put_scalars(**step.values)
        self.storage.iter = now

    def _log_the_rest(self) -> None:
        for step in self.numbers.take():
            self._log(step)

    def checkpoint_state(self, iterations: int) -> dict[str, Any]:
        """Everything but the model after ``iterations`` iterations: numbers, tensors and plain containers only.

        Called in every process; of a `Sharded` model the moments are process 0's alone.
        """
        optimizer = self.optimizer.state_dict()
        return {
            "iteration": iterations,
            "seed": self.seed,
            "optimizer": {**optimizer, "state": whole_moments(optimizer["state"])},
            "scaler": self.scaler.state_dict(),
            "loader": self.loader.state_dict(),
        }

    def restore(self, state: Mapping[str, Any]) -> int:
        """Takes over a `checkpoint_state` and returns the iteration to go on with.

        The optimiser's moments are the checkpoint's; rates, decays and all else of the solver are the config's, which
        people resume with to change them. So the schedule is not restored but set to the iteration.

        Raises:
            UserError: the checkpoint is of other parameters or of another optimiser.
        """
        self.optimizer.load_state_dict(self._moments(state["optimizer"]))
        if self.scaler.is_enabled() and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        set_iteration(self.scheduler, state["iteration"])
        now = self.loader.state_dict()
        # Older checkpoints do not say their classes.
        before = {**now, **state["loader"]}
        for label, (old, new) in enumerate(zip_longest(before.pop("classes"), now.pop("classes"))):
            if old != new:
                raise UserError(
                    f"The checkpoint was trained on other classes than DATASETS.TRAIN has: label {label} was "
                    f"{old or 'no class'!r} and is {new or 'no class'!r}; take its weights with MODEL.START_FROM, in "
                    "another OUTPUT_DIR."
                )
        if before != now:
            logger.warning(
                "The checkpoint was trained on other data (%s, now %s): the order of images differs from that of an "
                "unbroken run.", before, now,
            )  # fmt: skip
        return int(state["iteration"])

    def _moments(self, saved: Mapping[str, Any]) -> dict[str, Any]:
        """A state of this optimiser with the moments that another grouping of the same parameters has."""
        own = self.optimizer.state_dict()
        places = [_by_name(groups["param_groups"]) for groups in (own, saved)]
        if places[0].keys() != places[1].keys():
            other = sorted(places[0].keys() ^ places[1].keys())
            raise UserError(
                f"The checkpoint to resume from was trained with other trainable parameters (such as {other[0]}): "
                "resume with the config beside it, or train into another OUTPUT_DIR."
            )
        # Of the groups' keys those of this optimiser alone, such as its momentum, tell it from another one.
        if saved["param_groups"][0].keys() != own["param_groups"][0].keys():
            raise UserError(
                "The checkpoint to resume from was trained with another SOLVER.OPTIMIZER, whose state does not fit: "
                "resume with that one, or train from MODEL.WEIGHTS into another OUTPUT_DIR."
            )
        parameters = _by_name(self.optimizer.param_groups)
        state = {
            places[0][name]: share_of(saved["state"][old], parameters[name])
            for name, old in places[1].items()
            if old in saved["state"]
        }
        return {"param_groups": own["param_groups"], "state": state}


def _is_bad_loss(name: str, value: float) -> bool:
    # Gradients that overflow in half precision are left out by the scaler.
    return name != _NORM and not math.isfinite(value)


def _by_name(groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The parameters of an optimiser's groups, or their numbers in the groups of its state."""
    return {name: parameter for group in groups for name, parameter in zip(group.get("names", ()), group["params"])}
