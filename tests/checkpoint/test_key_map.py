"""Renaming rules and strict loading."""

import re

import pytest
import torch
from torch import nn

from maft.checkpoint.key_map import KeyMap, differences, explain, load_strictly
from maft.errors import UserError


def test_first_rule_wins_and_none_drops():
    rules = KeyMap([(r"head\.(\d+)\.w", r"layers.\1.weight"), (r"head\..*", None), (r"b", "bias")])
    assert rules.convert({"head.3.w": 1, "head.x": 2, "b": 3}) == {"layers.3.weight": 1, "bias": 3}


def test_unknown_names_are_refused_by_name():
    with pytest.raises(UserError, match=r"my\.pt has 1 unknown tensors \(z\)"):
        KeyMap([("a", "a")]).convert({"a": 1, "z": 2}, "my.pt")


def test_two_names_cannot_become_one():
    with pytest.raises(UserError, match="Two tensors"):
        KeyMap([(".", "a")]).convert({"x": 1, "y": 2})


def test_nested_maps_take_both_prefixes():
    rules = KeyMap.nested([("old.", "new.", [(r"(.*)", r"\1")]), ("gone.", "", [(".*", None)])])
    assert rules.convert({"old.a.b": 1, "gone.c": 2}) == {"new.a.b": 1}
    alternatives = KeyMap.nested([("old.", "new.", [("a|b", "c")])])
    assert alternatives.rename("old.b") == "new.c"
    with pytest.raises(KeyError):
        alternatives.rename("b")


def test_differences_name_every_kind():
    model = {"a": torch.Size([2]), "b": torch.Size([3])}
    state = {"b": torch.zeros(4), "c": torch.zeros(1)}
    assert differences(model, state) == [
        "missing: a (2,)",
        "unexpected: c (1,)",
        "shape of b: (4,) in the checkpoint, (3,) in the model",
    ]


def test_loading_is_all_or_nothing():
    module = nn.Linear(2, 2)
    before = module.weight.detach().clone()
    with pytest.raises(UserError, match="does not fit the model"):
        load_strictly(module, {"weight": torch.ones(2, 2), "bias": torch.ones(3)}, "x.pt")
    assert torch.equal(module.weight, before)


def test_declared_parts_may_be_missing():
    module = nn.ModuleDict({"a": nn.Linear(1, 1), "b": nn.Linear(1, 1)})
    state = {"a.weight": torch.ones(1, 1), "a.bias": torch.ones(1)}
    assert load_strictly(module, state, "x.pt", may_lack=["b."]) == ["b.weight", "b.bias"]
    assert module["a"].weight.item() == 1
    with pytest.raises(UserError, match=r"missing: b\.weight"):
        load_strictly(module, state, "x.pt")


@pytest.mark.parametrize(
    "stored, sentence",
    [
        ({"prefix": (8, 512)}, "it has 8 learned vectors of the kind prefix, not 16; set .*PROMPTS.PREFIX to 8"),
        ({"prefix": (16, 768)}, "for a text tower of width 768 and MODEL.CLIP.NAME has one of 512"),
        ({"prefix": (16, 512), "task": (8, 512)}, "it has 8 learned vectors of the kind task, not 0; set .*TASK to 8"),
        ({"prefix": (8192,)}, r"prompts.prefix has the shape \(8192,\), which is no list of vectors"),
        ({}, "it has no learned prompts; set MODEL.VOCABULARY.TEMPLATES to those"),
    ],
)
def test_prompts_of_another_form_are_explained(stored, sentence):
    model = {"vocabulary_encoder.prompts.prefix": torch.Size([16, 512]), "vocabulary_encoder.void_embedding": (1, 512)}
    state = {f"vocabulary_encoder.prompts.{name}": torch.Size(shape) for name, shape in stored.items()}
    state["vocabulary_encoder.void_embedding"] = torch.Size([1, 512])
    assert re.search(sentence, explain(model, state))
    without = {"vocabulary_encoder.void_embedding": torch.Size([1, 512])}
    assert not stored or "set MODEL.VOCABULARY.TEMPLATES to learned" in explain(without, state)
