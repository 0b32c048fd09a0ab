"""`maft towers`: every CLIP that open_clip lists is right or refused; the whole is `make towers`."""

import random

import pytest
import torch

from maft import towers
from maft.cli import towers as command
from maft.clip import shrinking
from maft.clip.encoder import CLIPEncoder
from maft.clip.shrinking import listed_clips
from maft.errors import UserError

# One of each kind of tower and of text, and some by chance.
KINDS = [
    "RN50",
    "ViT-L-14-CLIPA",
    "EVA02-B-16",
    "PE-Core-T-16-384",
    "MobileCLIP-S1",
    "coca_ViT-B-32",
    "mt5-base-ViT-B-32",
]
SAMPLE = sorted({*KINDS, *random.Random(11).sample(listed_clips(), 5)})


@pytest.mark.parametrize("name", SAMPLE)
def test_small_copies_agree_with_open_clip(name):
    tower = towers.check(name)
    assert tower.facts and not tower.faults
    assert tower.works


def test_a_copy_has_the_classes_of_its_tower():
    """Both halves of a comparison could be of another kind."""
    small, full = shrinking.small_pair("ViT-B-16-SigLIP")[0], towers.described_clip("ViT-B-16-SigLIP")[0]

    def kinds(model):
        return {type(module) for module in model.modules()}

    assert kinds(small.model) == kinds(full.model)
    assert small.tokenizer.context_length == full.tokenizer.context_length == 64


def altered(method, change):
    """Wraps a method of `CLIPEncoder`."""
    original = getattr(CLIPEncoder, method)
    return lambda self, *arguments, **options: change(original(self, *arguments, **options))


@pytest.mark.parametrize(
    ("method", "change", "fault"),
    [
        ("encode_image", lambda x: x + 1e-4 * x.flip(1), "image embeddings differ"),
        ("encode_text", lambda x: x + 1e-4 * x.flip(1), "text embeddings differ"),
        ("encode_text", lambda x: x * torch.nan, "text embeddings differ by nan"),
        ("tokenize", lambda rows: rows.roll(1, 0), "the tokens are not open_clip's"),
    ],
)
def test_a_mismatch_is_found(monkeypatch, capsys, method, change, fault):
    monkeypatch.setattr(CLIPEncoder, method, altered(method, change))
    assert command.main(["--check", "ViT-S-32-alt"]) == 1
    printed = capsys.readouterr().out
    assert f"FAULT: {fault}" in printed and "1 with faults" in printed


def test_towers_that_tell_nothing_apart_prove_nothing(monkeypatch):
    original = towers.original_embeddings
    monkeypatch.setattr(towers, "original_embeddings", lambda *a: tuple(x[:1].expand(2, -1) for x in original(*a)))
    assert "two images have one embedding, so nothing is proved" in towers.check("ViT-S-32-alt").faults


def test_a_classifier_that_takes_a_tower_and_fails_is_a_fault(monkeypatch):
    def refuse(*_):
        raise UserError("not this size")

    monkeypatch.setattr("maft.classifiers.masked_crops.MaskedCrops.forward", refuse)
    tower = towers.check("ViT-S-32-alt")
    assert tower.faults == ["MaskedCrops was built, but refuses images: not this size"]
    assert "MaskedCrops" not in tower.works


def test_one_line_a_name_and_reasons_for_those_asked_for(monkeypatch, capsys):
    monkeypatch.setattr("maft.clip.hub.try_to_load_from_cache", lambda *_: None)
    assert command.main(["RN50", "ViT-SO400M-14-SigLIP", "roberta-ViT-B-32"]) == 0
    first, *lines, star, count = capsys.readouterr().out.splitlines()
    assert first.split()[:8] == ["RN50", "attention", "pool", "102.0", "M", "224", "x", "224"]
    assert [line.split(":")[0].strip() for line in lines] == [
        "not IPCLIP", "not SAN", "not TextRegion", lines[3], "not MaskCLIPpp", "not SAN", lines[6]
    ]  # fmt: skip
    assert lines[3].startswith("ViT-SO400M-14-SigLIP ") and " 16 " in lines[3] and "latent query" in lines[3]
    assert "M*" in lines[6] and "MaskedCrops" in lines[6]
    assert star.startswith("* the image tower alone")
    assert count == "3 names: 3 usable, 3 of them by more than crops."


def test_a_refused_tower_says_why(monkeypatch):
    def refuse(name):
        raise UserError(f"The image tower of {name} is not supported.")

    monkeypatch.setattr(towers, "described_clip", refuse)
    tower = towers.describe("RN50")
    assert tower.line().endswith("refused: The image tower of RN50 is not supported.")
    cropped = towers.Tower("b", works=["MaskedCrops", "RoIAlignCrops"])
    assert towers.summary([cropped]) == "1 names: 1 usable, 0 of them by more than crops."
    assert towers.summary([tower]) == "1 names: 0 usable, 0 of them by more than crops."


def test_an_unknown_name_is_met_with_the_nearest():
    with pytest.raises(UserError, match="lists no CLIP 'ViT-B-61'. Did you mean ViT-B-16"):
        command.main(["ViT-B-61"])
