"""A wrong type or range of any option is one sentence, before anything is built; generated from the option lists."""

from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest

from maft.config import load_config
from maft.errors import UserError
from maft.registry import CLASSIFIERS, ENSEMBLES, LOSSES, PROPOSERS

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "quickstart" / "maft.yaml"


def wrong_values(annotation: Any) -> list[Any]:
    """Values that the annotation refuses: another type, and what lies outside its range or choices."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        rules = [rule for field in arguments[1:] for rule in getattr(field, "metadata", [field])]
        beyond = [rule.ge - 1 for rule in rules if hasattr(rule, "ge")] + [
            rule.le + 1 for rule in rules if hasattr(rule, "le")
        ]
        beyond += [rule.lt for rule in rules if hasattr(rule, "lt")]
        return wrong_values(arguments[0]) + (beyond if arguments[0] in (int, float) else [[]])
    if origin is Literal:
        return ["no_such_choice", 3]
    if origin is tuple:
        return [[3] if str in arguments else ["x"], 3]
    if origin is not None and type(None) in arguments:
        return wrong_values(next(kind for kind in arguments if kind is not type(None)))
    if origin is UnionType:
        # What no kind of it takes.
        return [value for value in wrong_values(arguments[0]) if not isinstance(value, list)]
    return {bool: ["nope", 2], int: ["abc", 1.5, True], float: ["abc", [1.0], float("inf")], str: [3, ["x"]]}[
        annotation
    ]


def cases():
    for registry in (PROPOSERS, CLASSIFIERS, LOSSES, ENSEMBLES):
        for name in registry:
            for key, option in registry.options(name).items():
                for value in wrong_values(option.annotation):
                    yield pytest.param(registry, name, key, value, id=f"{name}.{key}={value}")


CASES = list(cases())


def test_there_are_many():
    assert len({(case.values[1], case.values[2]) for case in CASES}) >= 50


@pytest.mark.parametrize(("registry", "name", "key", "value"), CASES)
def test_one_sentence(registry, name, key, value):
    choice = [] if registry is LOSSES else [f"{registry.node}.NAME", name]
    # MaskFiles has one option that must be set.
    required = [f"{registry.node}.{name}.PATH", "x"] if name == "MaskFiles" and key != "PATH" else []
    with pytest.raises(UserError) as raised:
        load_config(CONFIG, [*choice, *required, f"{registry.node}.{name}.{key}", str(value)])
    sentence = str(raised.value)
    assert f"{registry.node}.{name}.{key}" in sentence and "\n" not in sentence and sentence.endswith(".")
