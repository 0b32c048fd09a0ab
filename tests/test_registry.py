"""Registries check names and options against real signatures."""

import pytest

from maft.errors import UserError
from maft.registry import Registry


@pytest.fixture
def registry() -> Registry:
    shapes = Registry("shape", "MODEL.SHAPE", "maft.errors")

    @shapes.register()
    class Square:
        def __init__(self, side: float) -> None:
            self.side = side

        @classmethod
        def from_options(cls, unit: float, *, side: float, scale: float = 1.0) -> "Square":
            return cls(unit * side * scale)

    @shapes.register("point")
    def point() -> str:
        return "point"

    return shapes


def test_options_arrive_as_keywords_after_the_context(registry):
    assert registry.build("Square", {"SIDE": 3, "SCALE": 2}, 10.0).side == 60


def test_a_function_is_a_component_too(registry):
    assert registry.build("point", {}) == "point"


def test_unknown_component_lists_the_known_ones(registry):
    with pytest.raises(UserError, match=r"Unknown shape 'Sqare' in MODEL.SHAPE; .*Square, point.*Did you mean Square"):
        registry.get("Sqare")


def test_misspelt_option_names_component_and_options(registry):
    with pytest.raises(UserError, match=r"Square has no option 'SIED' \(MODEL.SHAPE.Square.SIED\).*SIDE, SCALE"):
        registry.build("Square", {"SIED": 3}, 1.0)


def test_missing_option_is_named(registry):
    with pytest.raises(UserError, match=r"needs MODEL.SHAPE.Square.SIDE"):
        registry.build("Square", {}, 1.0)


def test_a_name_is_taken_once(registry):
    with pytest.raises(ValueError, match="registered twice"):
        registry.register("point")(print)
