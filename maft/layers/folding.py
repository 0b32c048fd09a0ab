"""Normalisations with fixed statistics folded into the convolutions before them, once for many images."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import Tensor, nn

_WITH_STATISTICS = (FrozenBatchNorm2d, nn.BatchNorm2d, nn.SyncBatchNorm)


class FoldedConv2d(Conv2d):
    """A convolution with Detectron2's normalisation; where no weight has a gradient it is one convolution.

    (W * x + b - m) g / s + a = (W g / s) * x + (b - m) g / s + a, with the mean m, the deviation s, the scale g and the
    shift a of the normalisation. The right side's weights are kept with channels last, which its results then are,
    until one of the tensors that they are made of is written, replaced or moved. Names and values of the state are
    those of Detectron2's convolution.
    """

    _folded: tuple[Any, Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C', h', w'), as `by_definition`."""
        if not self._foldable():
            return self.by_definition(x)
        weight, bias = self._folded_weights()
        x = F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)
        return x if self.activation is None else self.activation(x)

    def by_definition(self, x: Tensor) -> Tensor:
        """Convolution, normalisation and activation one after the other."""
        return super().forward(x)

    def _sources(self) -> list[Tensor]:
        norm: Any = self.norm
        found = [self.weight, norm.weight, norm.bias, norm.running_mean, norm.running_var]
        return found if self.bias is None else [*found, self.bias]

    def _foldable(self) -> bool:
        norm: Any = self.norm
        # What is traced folds by itself, and must not be kept; nor do tensors of inference mode tell their changes.
        if torch.compiler.is_compiling() or (norm.training and not isinstance(norm, FrozenBatchNorm2d)):
            return False
        sources = self._sources()
        if torch.is_grad_enabled() and any(source.requires_grad for source in sources):
            return False
        return all(type(source) in (Tensor, nn.Parameter) and not source.is_inference() for source in sources)

    def _folded_weights(self) -> tuple[Tensor, Tensor]:
        sources = self._sources()
        version = [(source.data_ptr(), source._version, source.dtype, source.device) for source in sources]
        kept = self._folded
        if kept is not None and kept[0] == version:
            return kept[1], kept[2]
        norm: Any = self.norm
        # A later training step may read what is first made in inference mode.
        with torch.inference_mode(False), torch.no_grad():
            scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
            shift = norm.bias - norm.running_mean * scale
            if self.bias is not None:
                shift = shift + self.bias * scale
            weight = (self.weight * scale[:, None, None, None]).contiguous(memory_format=torch.channels_last)
        self._folded = (version, weight, shift)
        return weight, shift


def fold_normalisations(module: nn.Module) -> nn.Module:
    """Makes a `FoldedConv2d` of every convolution of Detectron2's that a normalisation with statistics follows.

    Returns:
        the module, changed in place.
    """
    for conv in module.modules():
        norm: Any = getattr(conv, "norm", None)
        if type(conv) is not Conv2d or not isinstance(norm, _WITH_STATISTICS):
            continue
        if norm.weight is not None and norm.running_var is not None:
            conv.__class__ = FoldedConv2d
    return module
