"""Options from constructors: what a type is called, where its documentation stands, and which values it takes."""

import math
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import AfterValidator, BaseModel, Field
from typing_extensions import TypedDict

from maft.errors import UserError
from maft.options import (
    REQUIRED,
    Fraction,
    NonNegative,
    Option,
    Positive,
    Rgb,
    Weight,
    check_options,
    describe,
    options_of,
)
from maft.registry import CLASSIFIERS, ENSEMBLES, LOSSES, PROPOSERS

Rule = Literal["none", "all"]


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (int, "a whole number"),
        (float, "a number"),
        (bool, "True or False"),
        (str, "a text"),
        (Positive, "a whole number of at least 1"),
        (Fraction, "a number of at least 0 and at most 1"),
        (Annotated[float, Field(gt=0, lt=1)], "a number above 0 and below 1"),
        (Annotated[int, Field(ge=4, multiple_of=4)], "a whole number of at least 4 and a multiple of 4"),
        (Rule, "one of none, all"),
        (Rgb, "a list of 3 (a number each)"),
        (tuple[str, float], "a list of 2 (a text, a number)"),
        (tuple[Positive, ...], "a list (a whole number of at least 1 each)"),
        (Positive | None, "a whole number of at least 1 or None"),
        (str | tuple[str, ...], "a text or a list (a text each)"),
    ],
)
def test_types_have_words(annotation, words):
    assert describe(annotation) == words


def test_an_option_says_its_default_or_that_it_must_be_set():
    assert Option("scale", Weight, 1.0).describe() == "a number of at least 0, default 1.0"
    assert Option("path", str, REQUIRED).describe() == "a text, must be set"


@pytest.mark.parametrize(
    ("annotation", "given", "taken"),
    [
        (int, -3, -3),
        (float, 3, 3.0),
        (bool, False, False),
        (str, "1", "1"),
        (Rule, "all", "all"),
        (Fraction, 1, 1.0),
        (Rgb, [1, 2.5, 3], (1.0, 2.5, 3.0)),
        (tuple[int, ...], [], ()),
        (tuple[tuple[int, ...], ...], [[1], [2, 3]], ((1,), (2, 3))),
        (Positive | None, None, None),
        (Positive | None, 2, 2),
        (str | tuple[str, ...], "clip", "clip"),
        (str | tuple[str, ...], ["clip", "proposer"], ("clip", "proposer")),
        (Any, {"a": 1}, {"a": 1}),
    ],
)
def test_values_that_fit(annotation, given, taken):
    value = Option("x", annotation, None).checked(given, "KEY")
    assert value == taken and type(value) is type(taken)


@pytest.mark.parametrize(
    ("annotation", "given", "sentence"),
    [
        (int, 3.0, "KEY takes a whole number, not the float 3.0."),
        (int, True, "KEY takes a whole number, not the bool True."),
        (int, None, "KEY takes a whole number, not the NoneType None."),
        (float, "abc", "KEY takes a number, not the str 'abc'."),
        # YAML reads a number in this form, without a dot, as a text.
        (float, "1e-4", "KEY takes a number, not the str '1e-4'."),
        (float, True, "KEY takes a number, not the bool True."),
        (float, math.nan, "KEY is nan, but it must be a finite number."),
        (Weight, math.nan, "KEY is nan, but it must be a finite number."),
        (float | None, -math.inf, "KEY is -inf, but it must be a finite number."),
        (bool, 1, "KEY takes True or False, not the int 1."),
        (bool, "true", "KEY takes True or False, not the str 'true'."),
        (str, 3, "KEY takes a text, not the int 3."),
        (NonNegative, -1, "KEY is -1, but it must be a whole number of at least 0."),
        (Fraction, 1.5, "KEY is 1.5, but it must be a number of at least 0 and at most 1."),
        (Annotated[float, Field(gt=0)], 0, "KEY is 0, but it must be a number above 0."),
        (Annotated[int, Field(le=5)], 6, "KEY is 6, but it must be a whole number of at most 5."),
        (Rule, "some", "KEY is 'some'; choose one of: none, all."),
        (Rule, 3, "KEY is 3; choose one of: none, all."),
        (Rule | None, "some", "KEY is 'some'; choose one of: none, all or None."),
        (Rgb, [1, 2], "KEY takes a list of 3 (a number each), not the list [1, 2]."),
        (Rgb, [1, 2, "x"], "KEY takes a list of 3 (a number each), not the list [1, 2, 'x'], because of 'x'."),
        (Rgb, [1, 2, math.nan], "KEY takes a list of 3 (a number each), not the list [1, 2, nan], because of nan."),
        (
            tuple[Positive, ...],
            [1, 0],
            "KEY takes a list (a whole number of at least 1 each), not the list [1, 0], because of 0.",
        ),
        # A text is no list of its characters.
        (tuple[str, ...], "ab", "KEY takes a list (a text each), not the str 'ab'."),
        (Positive | None, 0, "KEY is 0, but it must be a whole number of at least 1 or None."),
        (Positive | None, "x", "KEY takes a whole number of at least 1 or None, not the str 'x'."),
        (str | tuple[str, ...], ["a", 3], "KEY takes a text or a list (a text each), not the list ['a', 3]."),
    ],
)
def test_values_that_do_not_fit(annotation, given, sentence):
    with pytest.raises(UserError) as caught:
        Option("x", annotation, None).checked(given, "KEY")
    assert str(caught.value) == sentence


class Shape:
    """A shape.

    Args:
        x, y: where it is.
        name: what it is called, a text that
            takes two lines.

            A second paragraph is no part of it.

    Raises:
        UserError: name: never.
    """

    def __init__(self, *, x: float = 0.0, y: float = 0.0, name: str = "shape") -> None:
        pass


class Circle(Shape):
    """A circle.

    Args:
        unit: not an option.
        name: what the circle is called.
    """

    def __init__(self, unit: float, *, name: str = "circle", **common: Any) -> None:
        """Documented at the constructor.

        Args:
            radius: not an option either: it is no parameter.
        """

    @classmethod
    def from_options(cls, context: Any, *, radius: "Weight", **options: Any) -> "Circle":
        """Built from options.

        Args:
            radius: how large it is.
        """
        return cls(1.0, **options)


class Dot(Circle):
    def __init__(self, *, x: float = 1.0) -> None:
        super().__init__(1.0, x=x)


def test_options_are_keyword_only_and_followed_to_the_base_class():
    options = options_of(Circle)
    assert list(options) == ["RADIUS", "NAME", "X", "Y"]
    assert options["NAME"].default == "circle" and options["X"].default == 0.0
    # An annotation in quotes counts like any other.
    assert options["RADIUS"].default is REQUIRED and options["RADIUS"].annotation is Weight


def test_a_constructor_that_passes_nothing_on_ends_the_search():
    assert list(options_of(Dot)) == ["RADIUS", "X"] and options_of(Dot)["X"].default == 1.0
    assert list(options_of(Shape)) == ["X", "Y", "NAME"]


def test_documentation_is_found_where_it_stands():
    shape, circle, dot = options_of(Shape), options_of(Circle), options_of(Dot)
    assert shape["NAME"].text == "what it is called, a text that takes two lines."
    assert shape["X"].text == shape["Y"].text == "where it is."
    # Inherited, replaced and written at from_options.
    assert circle["Y"].text == "where it is." and circle["NAME"].text == "what the circle is called."
    assert circle["RADIUS"].text == dot["RADIUS"].text == "how large it is."


@pytest.mark.parametrize("registry", [PROPOSERS, CLASSIFIERS, LOSSES, ENSEMBLES], ids=lambda registry: registry.node)
def test_every_option_of_every_component_is_documented_and_takes_its_default(registry):
    for name in registry:
        for key, option in registry.options(name).items():
            assert option.text, f"{name}.{key} has no documentation"
            if option.default is not REQUIRED:
                assert option.checked(option.default, key) == option.default


def test_options_become_keyword_arguments():
    known = options_of(Circle)
    assert check_options({"RADIUS": 2, "X": 1}, known, "Circle", "NODE") == {"radius": 2.0, "x": 1.0}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "Circle needs NODE.RADIUS to be set."),
        ({"RADIUS": -1}, "NODE.RADIUS is -1, but it must be a number of at least 0."),
        (
            {"RADUIS": 1},
            "Circle has no option 'RADUIS' (NODE.RADUIS); its options are: RADIUS, NAME, X, Y. Did you mean RADIUS?",
        ),
        # The positional parameters are no options, nor are the names of keyword arguments themselves.
        ({"UNIT": 1}, "Circle has no option 'UNIT' (NODE.UNIT); its options are: RADIUS, NAME, X, Y."),
        ({"COMMON": 1}, "Circle has no option 'COMMON' (NODE.COMMON); its options are: RADIUS, NAME, X, Y."),
    ],
)
def test_mistakes_in_a_group_of_options(options, sentence):
    with pytest.raises(UserError) as caught:
        check_options(options, options_of(Circle), "Circle", "NODE")
    assert str(caught.value) == sentence


@dataclass
class Settings:
    a: int = 0


class Typed(TypedDict):
    a: int


class Loose(BaseModel):
    a: int


class Colour(Enum):
    RED = "red"


def _never(value):
    raise RuntimeError("never")


@pytest.mark.parametrize(
    "annotation",
    [Settings, Typed, Colour, Path, dict[str, int], set[int], Literal[Colour.RED], tuple[Path, ...], int | Path, Loose],
)
def test_types_that_no_config_can_express_are_refused_by_component_and_option(annotation):
    class Odd:
        def __init__(self, *, size): ...

    Odd.__init__.__annotations__["size"] = annotation
    with pytest.raises(UserError, match=r"The option SIZE of .*Odd.__init__ has the type .* no config can express"):
        options_of(Odd)


@pytest.mark.parametrize("text", ["Foo[", "int[3", "1 / 0", "Positive.gone", "NoSuchName", "int | 'x'"])
def test_annotations_that_cannot_be_evaluated_are_refused_by_component_and_option(text):
    class Odd:
        def __init__(self, *, size): ...

    Odd.__init__.__annotations__["size"] = text
    with pytest.raises(
        UserError, match=r"The option SIZE of .*Odd.__init__ has (the annotation|a type that)"
    ) as raised:
        options_of(Odd)
    assert "\n" not in str(raised.value)


def test_a_check_of_somebody_s_own_that_raises_is_named():
    option = Option("x", Annotated[int, AfterValidator(_never)], 0)
    with pytest.raises(UserError, match=r"^KEY cannot be checked: .* raises RuntimeError \(never\) at 3; correct its"):
        option.checked(3, "KEY")
    with pytest.raises(UserError, match="KEY cannot be checked"):
        Option("x", Annotated[int, Field(ge="a")], 0).checked(3, "KEY")
