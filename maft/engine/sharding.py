"""Training whose gradients and optimiser state are shared out over the processes (FSDP2, ``SOLVER.SHARDED``).

What a process holds of T bytes of trained weights, with N processes and AdamW: between steps 3T/N (its share of the
weights and of the two moments), in a step T more for the weights and up to T for the gradients, until they are
reduced to its share of them. DistributedDataParallel holds 3T and 2T more in a step. Frozen weights are held whole.

Parts of a model read each other's weights outside of ``forward`` (a classifier walks through the blocks of a tower).
FSDP2 gathers a module's weights when that module is called, so it cannot be told by module. Here groups of parameters
are gathered before the model is called and shared out again after the backward pass, whatever reads them in between.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

from maft.errors import UserError
from maft.layers.distributed import rank, world_size

try:
    from torch.distributed.tensor import DTensor, distribute_tensor
except ImportError:  # PyTorch 2.4
    from torch.distributed._tensor import DTensor, distribute_tensor

# Gathered and reduced at once: what is needed beside weights and gradients for a moment.
GROUP_BYTES = 1 << 28


def check_sharded(solver: CfgNode) -> None:
    """Raises UserError where ``SOLVER.SHARDED`` does not go with another option."""
    if solver.AMP.ENABLED and solver.AMP.DTYPE == "float16":
        raise UserError(
            "SOLVER.SHARDED True goes without the loss scaling of float16: set SOLVER.AMP.DTYPE bfloat16, or "
            "SOLVER.AMP.ENABLED False."
        )
    if solver.COMPILE:
        raise UserError("SOLVER.SHARDED True goes without compiled parts: set SOLVER.COMPILE to [].")


class _Group(nn.Module):
    """What fully_shard takes for one group: it sees the whole model through it, and never a call of its forward."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model


class Sharded(nn.Module):
    """A model that trains sharded, as DistributedDataParallel wraps one that does not.

    The trainable parameters of ``module`` become DTensors under their names, sharded over the first dimension: build
    the optimiser afterwards. They are those of process 0. Scalars, which FSDP2 cannot divide, stay
    whole, and their gradients are averaged.

    Args:
        module: the same in every process, with something to train.
        allow_unused: a trainable parameter may take no part in a step; costs one exchange each.

    Raises:
        UserError: this PyTorch is too old.
    """

    def __init__(self, module: nn.Module, *, allow_unused: bool = False) -> None:
        super().__init__()
        # Here, as other trainings need not wait for this import.
        from torch.distributed import fsdp

        fully_shard: Any = getattr(fsdp, "fully_shard", None)
        if fully_shard is None or "ignored_params" not in inspect.signature(fully_shard).parameters:
            raise UserError(
                f"SOLVER.SHARDED needs PyTorch 2.7 or newer, and this is {torch.__version__}: update it, or set "
                "SOLVER.SHARDED False."
            )
        self.module, self.allow_unused = module, allow_unused
        device = next(module.parameters()).device
        for parameter in module.parameters():
            # Neither the exchange nor fully_shard takes other strides.
            parameter.data = parameter.data.contiguous()
            dist.broadcast(parameter.data, 0)
        shard = partial(fully_shard, mesh=init_device_mesh(device.type, (world_size(),)))
        groups = []
        for chosen in _groups(module):
            group = _Group(module)
            shard(group, reshard_after_forward=False, ignored_params=set(module.parameters()) - set(chosen))
            groups.append(group)
        self.groups: Any = nn.ModuleList(groups)
        shard(self, ignored_params=set(module.parameters()))

    def forward(self, records: list[dict[str, Any]]) -> dict[str, Tensor]:
        """The losses of ``module``; their backward pass leaves each parameter its share of the mean gradient.

        Raises:
            UserError: in the backward pass, when a parameter takes no part in it and that is not allowed.
        """
        self.gather()
        losses = self.module(records)
        settled: list[bool] = []
        for loss in losses.values():
            if loss.requires_grad:
                # Before FSDP's hook on the same tensor, so that its reduction comes after this one's.
                loss.register_hook(lambda gradient: self._settle_first(settled))
        return losses

    def _settle_first(self, settled: list[bool]) -> None:
        if not settled:
            settled.append(True)
            torch.autograd.Variable._execution_engine.queue_callback(self._settle)

    @torch.no_grad()
    def _settle(self) -> None:
        """What FSDP2 expects of whole gradients, once they are all there: the same parameters in every process."""
        parameters = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        if self.allow_unused:
            _fill_unused(list(parameters.values()))
        elif unused := [name for name, parameter in parameters.items() if parameter.grad is None]:
            raise UserError(
                f"The trainable parameter {unused[0]} took no part in the losses of a step: set "
                "SOLVER.FIND_UNUSED_PARAMETERS True, or freeze the part."
            )
        for parameter in parameters.values():
            if not parameter.ndim and parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad /= world_size()

    def gather(self) -> None:
        """Makes every parameter of ``module`` a whole, plain tensor; in every process."""
        for group in self.groups:
            group.unshard()
        for parameter in self.module.parameters():
            if parameter.requires_grad:
                # What is kept by the version of a weight would not notice that it was gathered anew.
                torch.autograd.graph.increment_version(parameter)

    def share_out(self) -> None:
        """Leaves each process its share of the parameters; others need not take part."""
        for group in self.groups:
            group.reshard()


def _groups(module: nn.Module) -> Iterator[list[nn.Parameter]]:
    """The trainable parameters that can be divided, in order, in groups of about ``GROUP_BYTES``."""
    group: list[nn.Parameter] = []
    size = 0
    for parameter in module.parameters():
        if not parameter.requires_grad or not parameter.ndim:
            continue
        if group and size + parameter.nbytes > GROUP_BYTES:
            yield group
            group, size = [], 0
        group.append(parameter)
        size += parameter.nbytes
    if group:
        yield group


def _fill_unused(parameters: Sequence[Tensor]) -> None:
    """Zeros for the gradients that other processes have; those that nobody has stay None, and the weights as they are.

    A parameter without a gradient is then left alone by the optimiser, as in one process.
    """
    used = [parameter.grad is not None for parameter in parameters]
    anywhere = torch.tensor(used, dtype=torch.int32, device=parameters[0].device)
    dist.all_reduce(anywhere, op=dist.ReduceOp.MAX)
    for parameter, there in zip(parameters, anywhere.tolist()):
        if there and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


@contextmanager
def whole_weights(model: nn.Module) -> Iterator[None]:
    """For the length of a with block a `Sharded` model's parameters are plain tensors; in every process.

    Within it each process may use the model by itself, as an evaluation does; another model is left alone.
    """
    if not isinstance(model, Sharded):
        yield
        return
    model.gather()
    try:
        yield
    finally:
        model.share_out()


def whole(value: Any) -> Any:
    """A sharded tensor in one piece; everything else as it is. In every process."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """``model.state_dict()`` of a model that may be sharded, as one process has it; in every process."""
    return {name: whole(value) for name, value in model.state_dict().items()}


def whole_moments(state: Mapping[int, Mapping[str, Any]]) -> dict[int, dict[str, Any]]:
    """The "state" of an optimiser over parameters that may be sharded, as one process has it; in every process.

    Sharded tensors come to the host of process 0, one at a time; the others get empty ones in their place.
    """
    return {index: {name: _moment(value) for name, value in moments.items()} for index, moments in state.items()}


def _moment(value: Any) -> Any:
    if not isinstance(value, DTensor):
        return value
    tensor = value.full_tensor()
    return tensor.cpu() if rank() == 0 else tensor.new_empty(0)


def share_of(moments: Mapping[str, Any], parameter: Tensor) -> dict[str, Any]:
    """This process' share of an optimiser's whole ``moments`` of one parameter; as they are where it is not sharded."""
    if not isinstance(parameter, DTensor):
        return dict(moments)
    mesh, placements = parameter.device_mesh, parameter.placements
    return {
        name: distribute_tensor(value.to(parameter.device), mesh, placements, src_data_rank=None)
        if isinstance(value, Tensor) and value.shape == parameter.shape
        else value
        for name, value in moments.items()
    }


@torch.no_grad()
def clip_joint_norm(parameters: Sequence[nn.Parameter], most: float, kind: float) -> Tensor:
    """`torch.nn.utils.clip_grad_norm_` where sharded and whole parameters mix: the joint norm before clipping."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    shares = [gradient.to_local() for gradient in gradients if isinstance(gradient, DTensor)]
    if not shares:
        return nn.utils.clip_grad_norm_(parameters, most, norm_type=kind)
    others = [gradient for gradient in gradients if not isinstance(gradient, DTensor)]
    norm = torch.linalg.vector_norm(torch.stack([_norm_of_all(shares, kind), *torch._foreach_norm(others, kind)]), kind)
    torch._foreach_mul_([*shares, *others], (most / (norm + 1e-6)).clamp(max=1.0))
    return norm


def _norm_of_all(shares: Sequence[Tensor], kind: float) -> Tensor:
    """The joint norm over the processes of tensors of which each has a share, by one exchange."""
    filled = [share for share in shares if share.numel()]
    own = torch.zeros((), device=shares[0].device)
    if filled:
        own = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(filled, kind)), kind)
    if math.isinf(kind):
        dist.all_reduce(own, op=dist.ReduceOp.MAX)
        return own
    total = own**kind
    dist.all_reduce(total)
    return total ** (1 / kind)
