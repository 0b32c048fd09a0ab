"""Sharded trainings of two processes, in one launch: ``sharded_run.py IMAGES FOLDER``.

FOLDER/sharded is trained from the start, FOLDER/resumed goes on from checkpoints that lie there.
"""

import math
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from engine import tiny_run

from maft.engine import sharding
from maft.engine.launch import Processes, launch
from maft.engine.solver import clip_gradients
from maft.errors import UserError, run_tool
from maft.layers.distributed import rank

OPTIONS = ("MODEL.META_ARCHITECTURE", "ReadFromOutside", "SOLVER.FIND_UNUSED_PARAMETERS", True, "SOLVER.ACCUMULATE", 2)


@META_ARCH_REGISTRY.register()
class ReadFromOutside(tiny_run.TinyRunModel):
    """Reads weights without calling their modules, as classifiers do; one is used by few images, one by none."""

    def __init__(self, cfg):
        super().__init__(cfg)
        self.frozen = nn.Conv2d(3, 3, 1).requires_grad_(False)
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.few, self.nobody = nn.Parameter(torch.tensor([1.0, 2.0, 3.0])), nn.Parameter(torch.ones(5))

    def forward(self, batch):
        losses = super().forward([{**sample, "image": self.frozen(sample["image"].float())} for sample in batch])
        weight = F.normalize(self.head.weight.flatten(1), dim=1)
        losses["loss_images"] = losses["loss_images"] + self.scale.exp() * (weight @ weight.T).square().mean()
        # There are steps in which one of the processes alone has such an image.
        few = [sample for sample in batch if int(Path(sample["file_name"]).stem) % 3 == 0]
        if few:
            losses["loss_images"] = losses["loss_images"] + self.few.square().mean() * len(few) / len(batch)
        return losses

    @torch.no_grad()
    def after_optimizer_step(self):
        self.scale.clamp_(0, 1.5)


def trainings(images, folder):
    # So that even these few weights are several groups.
    sharding.GROUP_BYTES = 128
    for name in ("sharded", "resumed"):
        cfg = tiny_run.config(folder / name, *OPTIONS, "SOLVER.SHARDED", True)
        tiny_run.run_registered(images, cfg, name == "resumed")
    uneven_use()
    clipping()
    unused()


def uneven_use():
    """Between steps each process uses the whole model by itself, as often as it likes."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 7), nn.Linear(7, 1))
    inputs = torch.randn(2, 3)
    expected = model(inputs)
    wrapped = sharding.Sharded(model)
    versions = []
    for _ in range(2):
        with sharding.whole_weights(wrapped), torch.no_grad():
            for _ in range(1 + rank()):
                torch.testing.assert_close(model(inputs), expected, rtol=0, atol=0)
            versions.append(model[0].weight._version)
        assert model[0].weight.to_local().shape[0] == (4 if rank() == 0 else 3)
    assert versions[0] < versions[1]


def clipping():
    torch.manual_seed(1)
    values = [(torch.randn(shape), torch.randn(shape)) for shape in [(3, 4), (1, 2), (5,), ()]]
    clip = tiny_run.config(Path("unused")).SOLVER.CLIP_GRADIENTS.clone()
    clip.defrost()
    mesh = init_device_mesh("cpu", (2,))
    for clip.CLIP_TYPE, clip.NORM_TYPE in [
        ("full_model", 1.0),
        ("full_model", math.inf),
        ("norm", 2.0),
        ("value", 2.0),
    ]:
        whole = [nn.Parameter(value.clone()) for value, _ in values]
        sharded = [nn.Parameter(_shared_out(value, mesh)) for value, _ in values]
        for one, other, (_, gradient) in zip(whole, sharded, values):
            one.grad, other.grad = gradient.clone(), _shared_out(gradient, mesh)
        norms = clip_gradients(whole, clip), clip_gradients(sharded, clip)
        if clip.CLIP_TYPE == "full_model":
            torch.testing.assert_close(*norms)
        for one, other in zip(whole, sharded):
            torch.testing.assert_close(sharding.whole(other.grad), one.grad)


def unused():
    model = sharding.Sharded(tiny_run.TinyRunModel(None))
    model.module.forward = lambda batch: {"loss": model.module.head.weight.square().mean()}
    with pytest.raises(UserError, match="backbone.weight took no part .*FIND_UNUSED_PARAMETERS True"):
        model([])["loss"].backward()


def _shared_out(value, mesh):
    """A copy, sharded unless it is a scalar."""
    return distribute_tensor(value.clone(), mesh, [Shard(0)]) if value.ndim else value.clone()


if __name__ == "__main__":
    arguments = sys.argv[1], Path(sys.argv[2])
    run_tool(lambda: launch(trainings, arguments, Processes("cpu", 2)))
