"""The one rule for weights: which file gives which part of a model."""

import logging

import pytest
import torch
from detectron2.config import get_cfg
from torch import nn

from maft.checkpoint.io import write_safetensors
from maft.checkpoint.loading import InitialWeights
from maft.config import start_from
from maft.config_keys import add_maft_config
from maft.errors import UserError

HOST = ("clip.model.visual.a", "clip.model.b", "proposer.a", "vocabulary_encoder.a", "classifier.text_transfer.a")
ADAPTER = ("vocabulary_encoder.a", "classifier.text_transfer.a", "classifier.head.a")
ALL = tuple(dict.fromkeys((*HOST, *ADAPTER)))


def module(names):
    """A model with one parameter of each name, all 0."""
    root = nn.Module()
    for name in names:
        *parts, last = name.split(".")
        owner = root
        for part in parts:
            if part not in dict(owner.named_children()):
                owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        owner.register_parameter(last, nn.Parameter(torch.zeros(1)))
    return root


@pytest.fixture
def write(tmp_path):
    """Function: writes a checkpoint in which every tensor has one value, and returns its path."""

    def write(file, names, value):
        write_safetensors(tmp_path / f"{file}.safetensors", {name: torch.full((1,), value) for name in names}, {})
        return str(tmp_path / f"{file}.safetensors")

    return write


@pytest.fixture
def files(write):
    return {"host": write("host", HOST, 1.0), "warm_up": write("warm_up", ADAPTER, 2.0)}


def loaded(names=ALL, *, weights="", rules=(), own=()):
    """Value by name of a model after loading, and what no file gave."""
    cfg = get_cfg()
    add_maft_config(cfg)
    cfg.MODEL.WEIGHTS, cfg.MODEL.START_FROM = weights, list(rules)
    model = module(names)
    left = InitialWeights.from_config(cfg).load_into(model, own)
    return {name: value.item() for name, value in model.state_dict().items()}, left


def refused(sentence, *arguments, **options):
    with pytest.raises(UserError, match=sentence) as raised:
        loaded(*arguments, **options)
    assert "\n" not in str(raised.value)


def test_every_part_comes_from_the_file_that_is_named_for_it(files):
    rules = [
        {"FILE": files["host"], "TAKE": ["clip", "vocabulary_encoder", "proposer", "classifier.text_transfer"]},
        {"FILE": files["warm_up"], "TAKE": "classifier.head"},
    ]
    values, left = loaded(rules=rules)
    assert left == []
    assert values == {**dict.fromkeys(HOST, 1.0), "classifier.head.a": 2.0}


def test_the_first_file_of_the_list_wins_and_others_fill_what_it_leaves(files):
    rules = [{"FILE": files["warm_up"]}, {"FILE": files["host"]}]
    values, _ = loaded(rules=rules)
    assert values == {**dict.fromkeys(HOST, 1.0), **dict.fromkeys(ADAPTER, 2.0)}


def test_a_trained_model_is_read_without_the_files_it_was_started_from(write):
    trained = write("trained", ALL, 3.0)
    gone = [
        {"FILE": "/gone/host", "TAKE": ["proposer"]},
        {"FILE": "/gone/R-103.pkl", "INTO": "proposer"},
        {"FILE": "/gone"},
    ]
    values, _ = loaded(weights=trained, rules=gone)
    assert set(values.values()) == {3.0}


def test_a_file_that_is_needed_and_missing_is_refused_by_name(files):
    refused(
        "/gone/warm_up does not exist", rules=[{"FILE": files["host"], "TAKE": ["proposer"]}, {"FILE": "/gone/warm_up"}]
    )


def test_a_whole_file_goes_into_a_part(write):
    values, left = loaded(("proposer.backbone.stem.a", "proposer.b"), rules=[
        {"FILE": write("backbone", ["stem.a"], 4.0), "INTO": "proposer.backbone"},
    ])  # fmt: skip
    assert values == {"proposer.backbone.stem.a": 4.0, "proposer.b": 0.0}
    assert left == ["proposer.b"]


def test_a_part_goes_into_another_one(write):
    rules = [{"FILE": write("prompts", ["mask_prompts.tokens", "clip.x"], 5.0), "TAKE": "mask_prompts",
              "INTO": "classifier.mask_prompts"}]  # fmt: skip
    values, _ = loaded(("classifier.mask_prompts.tokens",), rules=rules)
    assert values == {"classifier.mask_prompts.tokens": 5.0}


def test_another_kind_of_proposer_is_left_out_with_a_line(files, caplog):
    with caplog.at_level(logging.WARNING):
        values, _ = loaded(
            ("classifier.text_transfer.a", "proposer.model.sam"), weights=files["host"], own=["proposer"]
        )
    assert values == {"classifier.text_transfer.a": 1.0, "proposer.model.sam": 0.0}
    assert "another kind of proposer: its 1 tensors are left out" in caplog.text
    assert "a clip: its 2 tensors are left out" in caplog.text


def test_what_a_trained_model_leaves_open_is_refused_with_the_cure(files):
    refused(r"lacks 1 of its tensors \(classifier\.head\.a\).*START_FROM.*'TAKE': 'classifier'", weights=files["host"],
            names=(*HOST[:-1], "classifier.head.a"))  # fmt: skip
    refused(r"does not fit the model.*missing: classifier\.head\.a", weights=files["host"])


def test_start_from_may_fill_what_a_trained_model_lacks(files):
    names = (*HOST[:-1], "classifier.head.a")
    values, left = loaded(names, weights=files["host"], rules=[{"FILE": files["warm_up"], "TAKE": "classifier.head"}])
    assert left == [] and values["classifier.head.a"] == 2.0 and values["proposer.a"] == 1.0


def test_what_may_lack_is_allowed_to(files):
    refused(r"missing: classifier\.head\.a", rules=[{"FILE": files["host"], "TAKE": "classifier"}])
    rules = [{"FILE": files["host"], "TAKE": "classifier", "MAY_LACK": ["classifier.head"]}]
    values, left = loaded(("classifier.text_transfer.a", "classifier.head.a"), rules=rules)
    assert values["classifier.text_transfer.a"] == 1.0 and left == ["classifier.head.a"]


def test_the_text_tower_of_a_classifier_s_own_clip_may_lack_as_a_whole(write):
    tower, text = "classifier.clip.model.visual.a", ("classifier.clip.model.b", "classifier.clip.model.c")
    names = (tower, "classifier.clip.model.visual.d", *text, "classifier.similarity.a")
    image_tower = write("image_tower", (*names[:2], names[-1]), 3.0)
    values, left = loaded(names, rules=[{"FILE": image_tower, "TAKE": "classifier"}])
    assert values[tower] == values["classifier.similarity.a"] == 3 and sorted(left) == sorted(text)
    for kept in ((tower, names[-1]), (*names[:3], names[-1])):
        refused("differences", names, rules=[{"FILE": write("a_part", kept, 3.0), "TAKE": "classifier"}])


def test_a_rule_that_takes_nothing_is_refused(files):
    refused(r"has nothing called classifier\.heads.*it has classifier, clip, proposer, vocabulary_encoder",
            (*ALL, "classifier.heads.a"), rules=[{"FILE": files["host"], "TAKE": "classifier.heads"}])  # fmt: skip


def test_a_rule_that_takes_a_single_tensor_says_what_to_take(files):
    refused(
        "takes classifier.text_transfer.a from .*, which is a single tensor: .* belongs to, classifier.text_transfer",
        rules=[{"FILE": files["host"], "TAKE": "classifier.text_transfer.a"}],
    )


def test_a_misspelt_part_that_may_lack_is_said(files, caplog):
    rules = [{"FILE": files["host"], "TAKE": "classifier", "MAY_LACK": ["classifier.head", "classifer.head"]}]
    loaded(("classifier.text_transfer.a", "classifier.head.a"), rules=rules)
    assert "MAY_LACK classifer.head of" in caplog.text and "Did you mean classifier.head?" in caplog.text
    assert "MAY_LACK classifier.head" not in caplog.text


def test_a_rule_for_a_part_that_the_model_lacks_is_refused(files):
    refused(
        "is for proposer.backbone, which this model does not have",
        rules=[{"FILE": files["host"], "INTO": "proposer.backbone"}],
    )


@pytest.mark.parametrize("rule", [{"TAKE": "proposer"}, {"INTO": "proposer.backbone"}])
@pytest.mark.parametrize(("names", "own"), [((), ()), (("proposer.model.sam",), ("proposer",))])
def test_a_proposer_without_need_of_weights_takes_the_place_of_one_that_the_base_config_feeds(
    files, caplog, rule, names, own
):
    with caplog.at_level(logging.WARNING):
        values, left = loaded(("classifier.head.a", *names), rules=[{"FILE": files["host"], **rule}], own=own)
    assert set(values.values()) == {0.0} and left == ["classifier.head.a"]
    assert "left out" in caplog.text or "is not read: this model's proposer has no such weights" in caplog.text


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (torch.ones(1, dtype=torch.int8), "holds torch.int8 under proposer.a, where the model has weights"),
        (torch.ones(1, dtype=torch.bool), "holds torch.bool under proposer.a, where the model has weights"),
        (torch.full((1,), float("nan")), "holds numbers that are not finite under proposer.a"),
        (torch.full((1,), float("-inf")), "holds numbers that are not finite under proposer.a"),
    ],
)
def test_weights_that_are_none_are_refused(tmp_path, value, sentence):
    write_safetensors(tmp_path / "w.safetensors", {"proposer.a": value})
    refused(sentence, ("proposer.a",), weights=str(tmp_path / "w.safetensors"))


def test_a_file_of_another_architecture_is_called_so(write):
    refused("belongs to another architecture", weights=write("other", [f"layer{i}.a" for i in range(9)], 1.0))


def test_a_whole_clip_is_found_wherever_it_is_given(files, write):
    cfg = get_cfg()
    add_maft_config(cfg)
    cfg.MODEL.START_FROM = [{"FILE": files["warm_up"]}, {"FILE": files["host"], "TAKE": ["proposer", "clip"]}]
    assert set(InitialWeights.from_config(cfg).clip()) == {"model.visual.a", "model.b"}
    cfg.MODEL.START_FROM = [{"FILE": files["host"], "TAKE": ["proposer"]}]
    assert InitialWeights.from_config(cfg).clip() == {}
    # A pruned trained model does not send for the files it was started from.
    cfg.MODEL.WEIGHTS, cfg.MODEL.START_FROM = write("pruned", HOST[2:], 1.0), [{"FILE": "/gone"}]
    assert InitialWeights.from_config(cfg).clip() == {}


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ("host.safetensors", r"START_FROM\[0\] is 'host.safetensors', but it must be of the form"),
        ({"TAKE": "proposer"}, r"needs MODEL.START_FROM\[0\].FILE to be set"),
        ({"FILE": ""}, r"START_FROM\[0\].FILE"),
        ({"FILE": "a", "TAKES": "proposer"}, "has no option 'TAKES'.*Did you mean TAKE"),
        ({"FILE": "a", "TAKE": 3}, r"START_FROM\[0\].TAKE takes a text or a list \(a text each\), not the int 3"),
        ({"FILE": "a", "TAKE": ["clip", "proposer"], "INTO": "clip"}, "takes 2 parts INTO one, clip"),
    ],
)
def test_a_misspelt_rule_is_explained_when_the_config_is_read(entry, sentence):
    cfg = get_cfg()
    add_maft_config(cfg)
    cfg.MODEL.START_FROM = [entry]
    with pytest.raises(UserError, match=sentence):
        start_from(cfg)
