"""In which precision the iterations of a training compute."""

from __future__ import annotations

import logging
from contextlib import ExitStack

import torch
from detectron2.engine import HookBase

from maft.layers.precision import float32_products, uses_tf32

logger = logging.getLogger(__name__)


class TensorFloat32(HookBase):
    """Lets iterations, and nothing else, compute products of float32 in TensorFloat-32 where the device has it.

    Evaluations between them compute like those of a model on its own. Register it before all others, which may
    evaluate after a step.

    Args:
        wanted: ``SOLVER.TF32``, see `maft.layers.precision.uses_tf32`.
        device: where the model is.
    """

    def __init__(self, wanted: bool | None, device: torch.device) -> None:
        self.used = uses_tf32(wanted, device)
        self._step = ExitStack()
        if device.type == "cuda":
            logger.info("Products of float32 in training are computed in %s.", "TF32" if self.used else "float32")

    def before_step(self) -> None:
        self._step.enter_context(float32_products(self.used))

    def after_step(self) -> None:
        self._step.close()

    def after_train(self) -> None:
        # A step that raised ends nowhere else.
        self._step.close()
