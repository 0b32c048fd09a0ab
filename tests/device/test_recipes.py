"""Every method on a GPU that is not there: results and losses need no tensor of another device, and wait for little."""

from pathlib import Path

import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Instances
from host_reads import FakeDevice
from waits import IN_RESULTS, IN_TRAINING, surprises

import maft.building  # noqa: F401 - registers the architectures
from maft.clip.vocabulary import VocabularyEncoder
from maft.config import load_config

QUICKSTART = Path(__file__).resolve().parents[2] / "configs" / "quickstart"
# Mining trains nothing, and a DINO is not shipped.
RECIPES = sorted({path.stem for path in QUICKSTART.glob("*.yaml")} - {"mining", "eomt_dino"})


@pytest.fixture(autouse=True)
def texts_are_known(monkeypatch):
    """Texts are encoded once for a vocabulary, and the first batch is looked at once: neither is part of a step."""
    encode = VocabularyEncoder._rows

    def rows(self, vocabulary, clip, source, learning):
        if learning:
            return encode(self, vocabulary, clip, source, learning)
        count = len(vocabulary)
        return torch.empty(count, clip.embed_dim, device=clip.device), torch.arange(count, device=clip.device)

    monkeypatch.setattr(VocabularyEncoder, "_rows", rows)
    monkeypatch.setattr("maft.segmentor.check_answers", lambda *parts: None)


def built(device, cfg):
    with torch.device("meta"):
        model = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)
    return device.moved(model)


def sample(height, width, count):
    """An image with as many masks, a region with its mask and its name: what any of the mappers hands on."""
    masks = torch.zeros(count, height, width, dtype=torch.bool)
    instances = Instances((height, width), gt_classes=torch.arange(count), gt_masks=masks)
    region = {"region": torch.zeros(3, 96, 96, dtype=torch.uint8), "mask": torch.ones(1, 96, 96, dtype=torch.bool)}
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    return {"image": image, "instances": instances, "category": 1, "text": "a cat", **region}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_training_step_waits_for_the_matching_alone(recipe):
    cfg = load_config(QUICKSTART / f"{recipe}.yaml")
    if cfg.MODEL.PROPOSER.FROZEN and (cfg.MODEL.CLASSIFIER.FROZEN or not cfg.MODEL.LOSSES):
        return
    device = FakeDevice()
    model = built(device, cfg).train()
    batch = device.moved([sample(96, 96, 3), sample(80, 64, 2)])
    with device.noting() as reads:
        losses = model(batch)
    assert losses and all(value.device.type == "cuda" and value.ndim == 0 for value in losses.values())
    assert surprises(reads, IN_TRAINING) == []


@pytest.mark.parametrize("recipe", RECIPES)
def test_results_wait_for_what_is_counted_alone(recipe):
    cfg = load_config(QUICKSTART / f"{recipe}.yaml")
    if cfg.MODEL.META_ARCHITECTURE == "RegionCLIP":
        return
    # MaskCLIP++ makes the embeddings of its prompts itself, whose number values decide.
    if cfg.MODEL.CLASSIFIER.NAME == "MaskCLIPpp":
        return
    device = FakeDevice()
    model = built(device, cfg).eval()
    batch = device.moved([sample(96, 96, 3), sample(80, 64, 2)])
    with device.noting() as reads, torch.no_grad():
        model(batch)
    assert surprises(reads, IN_RESULTS) == []
