"""Blocks of every kind are recomputed by SOLVER.ACTIVATION_CHECKPOINTING with equal losses and gradients."""

from pathlib import Path

import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Instances

import maft.building  # noqa: F401 - registers the architectures
from maft.config import load_config
from maft.engine.parts import recomputed_parts

QUICKSTART = Path(__file__).resolve().parents[2] / "configs" / "quickstart"


def sample(height, width, count):
    labels = torch.arange(height * width).view(height, width) * count // (height * width)
    masks = torch.stack([labels == one for one in range(count)])
    instances = Instances((height, width), gt_classes=torch.arange(count), gt_masks=masks)
    region = {"region": torch.randint(0, 256, (3, 96, 96), dtype=torch.uint8), "mask": torch.ones(1, 96, 96).bool()}
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    return {"image": image, "instances": instances, "category": 1, "text": "a cat", **region}


def losses_and_gradients(model, batch):
    model.zero_grad()
    torch.manual_seed(7)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda value: kept.append(1) or value, lambda value: value):
        losses = model(batch)
        sum(losses.values()).backward()
    gradients = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    return {name: value.detach() for name, value in losses.items()}, gradients, len(kept)


# Called as a whole, taken apart by the tower, by class rows, and copied by a proposer; of a text tower with learned
# prompts; of a convolutional tower that trains.
@pytest.mark.parametrize(
    ("recipe", "names"),
    [
        ("proposer", ["proposer.backbone.res4", "proposer.pixel_decoder.layers", "proposer.decoder.layers"]),
        ("maft", ["classifier.visual.transformer.resblocks"]),
        ("region_clip", ["clip.model.visual.transformer.resblocks"]),
        ("learn_prompts", ["clip.model.transformer.resblocks"]),
        ("maft_plus", ["clip.model.visual.trunk.stages"]),
        ("eomt", ["proposer.blocks"]),
        ("san", ["proposer.side_adapter.blocks"]),
    ],
)
def test_losses_and_gradients_are_equal_and_less_is_kept(recipe, names):
    torch.manual_seed(0)
    cfg = load_config(QUICKSTART / f"{recipe}.yaml", ["MODEL.DEVICE", "cpu"])
    model = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg).train()
    batch = [sample(64, 96, 3), sample(64, 64, 2)]
    expected, wanted, kept = losses_and_gradients(model, batch)
    hook = recomputed_parts(model, names)
    losses, gradients, fewer = losses_and_gradients(model, batch)
    hook.after_step()
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(gradients, wanted)
    assert fewer < kept
