"""Components by name: what may be registered, how it is built, and how components of one's own are imported."""

import sys
from types import SimpleNamespace

import pytest
from torch import nn

import maft.registry
from maft.building import build_model
from maft.config import load_config
from maft.errors import UserError
from maft.interfaces import Component, Ensemble, Loss
from maft.options import Weight
from maft.registry import ENSEMBLES, LOSSES, Registry, import_components


class Shape(Component):
    def __init__(self, *, name: str = "shape") -> None:
        self.name = name


class Square(Shape):
    """A component that wants something of the context."""

    def __init__(self, unit: float, *, side: float, scale: Weight = 1.0, **common: str) -> None:
        super().__init__(**common)
        self.side = unit * side * scale

    @classmethod
    def from_options(cls, context, **options):
        return cls(context, **options)


class Point(Shape):
    pass


@pytest.fixture
def registry() -> Registry:
    shapes = Registry("shape", "MODEL.SHAPE", Shape, "maft.errors")
    shapes.register()(Square)
    shapes.register("point")(Point)
    return shapes


def test_options_arrive_as_keywords_with_what_the_component_takes_of_the_context(registry):
    square = registry.build("Square", {"SIDE": 3, "SCALE": 2}, 10.0)
    assert square.side == 60 and square.name == "shape"


def test_options_of_the_base_class_are_passed_on(registry):
    assert list(registry.options("Square")) == ["SIDE", "SCALE", "NAME"]
    assert registry.build("Square", {"SIDE": 3, "NAME": "room"}, 1.0).name == "room"
    assert registry.build("point", {"NAME": "origin"}).name == "origin"


def test_names_are_listed_in_order(registry):
    assert list(registry) == ["Square", "point"] and "point" in registry and "Point" not in registry


def test_unknown_component_lists_the_known_ones(registry):
    with pytest.raises(
        UserError, match=r"Unknown shape 'Sqare' in MODEL.SHAPE; .*Square, point.*Did you mean Square"
    ) as e:
        registry.get("Sqare")
    assert str(e.value).endswith("One of your own needs its module under IMPORTS.")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"SIED": 3},
            r"Shape Square has no option 'SIED' \(MODEL.SHAPE.Square.SIED\); .*: SIDE, SCALE, NAME\. Did .* SIDE",
        ),
        ({"SIDE": "3"}, r"MODEL.SHAPE.Square.SIDE takes a number, not the str '3'\."),
        ({"SIDE": 3, "NAME": 4}, r"MODEL.SHAPE.Square.NAME takes a text, not the int 4\."),
        ({"SIDE": 3, "SCALE": -1}, r"MODEL.SHAPE.Square.SCALE is -1, but it must be a number of at least 0\."),
        ({}, r"Shape Square needs MODEL.SHAPE.Square.SIDE to be set\."),
    ],
)
def test_mistakes_in_options_are_named(registry, options, sentence):
    with pytest.raises(UserError, match=sentence):
        registry.build("Square", options, 1.0)


@pytest.mark.parametrize(
    "component", [nn.Identity, Loss, print, lambda: None], ids=["class", "kind", "built-in", "function"]
)
def test_what_lacks_the_base_class_is_refused(registry, component):
    sentence = r"^\S+ is registered as a shape, but is no subclass of Shape: derive it from maft.interfaces.Shape\.$"
    with pytest.raises(UserError, match=sentence):
        registry.register("mine")(component)
    assert "mine" not in registry


@pytest.mark.parametrize("name", [5, "", "no name", Point])
def test_a_name_that_is_none_is_refused(registry, name):
    # @SHAPES.register without parentheses gives the class for a name.
    with pytest.raises(UserError, match=r"A shape cannot be registered under .*write @SHAPES\.register\(\)"):
        registry.register(name)


def test_a_name_is_taken_once(registry):
    class Point(Shape):
        pass

    with pytest.raises(
        UserError, match=r"^Two components of the kind shape are called point: \S+\.Point and \S+; rename"
    ):
        registry.register("point")(Point)
    # A module that is run again defines the same classes anew.
    registry.register("Square")(Square)
    assert registry.get("Square") is Square and registry.get("point") is not Point


SOFTER = '''
from maft.interfaces import Ensemble
from maft.options import Positive
from maft.registry import ENSEMBLES


@ENSEMBLES.register()
class Softer(Ensemble):
    """The proposer's scores at another temperature.

    Args:
        temperature: their divisor.
    """

    def __init__(self, *, temperature: Positive = 2) -> None:
        self.temperature = temperature

    def __call__(self, scores):
        return (scores.proposer / self.temperature).softmax(-1)
'''


@pytest.fixture
def own_components(monkeypatch, tmp_path):
    """Modules and components of a test are forgotten after it."""
    for registry in (ENSEMBLES, LOSSES):
        monkeypatch.setattr(registry, "_components", dict(registry._filled()))
    before = set(sys.modules)
    yield
    # What the test wrote; libraries that it was the first to import register themselves only once.
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.usefixtures("own_components")
class TestImports:
    def test_a_file_registers_what_it_holds_and_may_be_named_twice(self, tmp_path, monkeypatch):
        file = tmp_path / "softer.py"
        file.write_text(f"import sys\nsys.runs = getattr(sys, 'runs', 0) + 1\n{SOFTER}")
        monkeypatch.setattr(sys, "runs", 0, raising=False)
        monkeypatch.chdir(tmp_path)
        import_components([str(file), "softer.py"])
        import_components([str(file)])
        assert sys.runs == 1
        assert ENSEMBLES.build("Softer", {"TEMPERATURE": 3}).temperature == 3
        assert ENSEMBLES.options("Softer")["TEMPERATURE"].text == "their divisor."
        with pytest.raises(UserError, match="ENSEMBLE.Softer.TEMPERATURE is 0, but it must be a whole number"):
            ENSEMBLES.build("Softer", {"TEMPERATURE": 0})

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("import sys\nsys.exit(0)", r"raises SystemExit .*own.py:2\): mend it"),
            ("x = (", r"raises SyntaxError .*own.py:1\): mend it"),
        ],
    )
    def test_a_script_or_a_broken_file_is_named(self, tmp_path, text, sentence):
        (tmp_path / "own.py").write_text(text)
        with pytest.raises(UserError, match=sentence):
            import_components([str(tmp_path / "own.py")])

    def test_two_files_of_one_name_are_two_modules(self, tmp_path):
        for number in (1, 2):
            (tmp_path / f"{number}").mkdir()
            text = SOFTER.replace("class Softer", f"class Softer{number}")
            (tmp_path / f"{number}" / "softer.py").write_text(text)
        import_components([str(tmp_path / "1" / "softer.py"), str(tmp_path / "2" / "softer.py")])
        assert {"Softer1", "Softer2"} <= set(ENSEMBLES)

    def test_two_files_with_one_component_are_refused(self, tmp_path):
        for name in ("one.py", "two.py"):
            (tmp_path / name).write_text(SOFTER)
        with pytest.raises(UserError, match=r"kind ensemble are called Softer: one_\w+\.Softer and two_\w+\.Softer"):
            import_components([str(tmp_path / "one.py"), str(tmp_path / "two.py")])

    def test_a_module_on_the_path(self, tmp_path, monkeypatch):
        (tmp_path / "own_ensembles").mkdir()
        (tmp_path / "own_ensembles" / "__init__.py").write_text("")
        (tmp_path / "own_ensembles" / "softer.py").write_text(SOFTER)
        monkeypatch.syspath_prepend(tmp_path)
        import_components(["own_ensembles.softer"] * 2)
        assert issubclass(ENSEMBLES.get("Softer"), Ensemble)

    def test_a_config_chooses_what_its_file_registers(self, tmp_path, tiny_configs):
        (tmp_path / "softer.py").write_text(SOFTER)
        config = tmp_path / "own.yaml"
        text = f"_BASE_: {tiny_configs}/freeseg.yaml\nIMPORTS: [softer.py]\nMODEL: {{ENSEMBLE: {{NAME: Softer, %s}}}}\n"
        config.write_text(text % "Softer: {TEMPERATURE: 5}")
        # Found beside the config, from any working folder.
        assert build_model(load_config(config)).ensemble.temperature == 5
        config.write_text(text % "Softer: {TEMPERATUR: 5}")
        with pytest.raises(UserError, match=r"no option 'TEMPERATUR'.*Did you mean TEMPERATURE\?"):
            load_config(config)

    @pytest.mark.parametrize(
        ("name", "sentence"),
        [
            ("no_such_module", "IMPORTS names the module 'no_such_module', which Python does not find: install it"),
            ("maft.no_such_module", "IMPORTS names the module 'maft.no_such_module', which Python does not find"),
            ("nowhere/softer.py", "IMPORTS names the file nowhere/softer.py, which does not exist: give its path"),
            ("", "IMPORTS holds ''"),
            (3, "IMPORTS holds 3: list names of modules or paths of .py files"),
        ],
    )
    def test_what_is_not_there_is_named(self, name, sentence):
        with pytest.raises(UserError, match=sentence):
            import_components([name])

    @pytest.mark.parametrize(
        ("text", "what"),
        [
            ("\n1 / 0\n", r"raises ZeroDivisionError while it is imported \(division by zero; {file}:2\)"),
            ("\n\ndef broken(:\n", r"raises SyntaxError while it is imported \(invalid syntax.*; {file}:3\)"),
            ("import no_such_module\n", r"raises ModuleNotFoundError .*\(No module named 'no_such_module'; {file}:1\)"),
            # The line of the file, not the one of the library that it calls.
            ("import json\n\njson.loads('')\n", r"raises JSONDecodeError .*; {file}:3\)"),
        ],
    )
    def test_a_file_that_raises_is_named_with_its_line(self, tmp_path, text, what):
        file = tmp_path / "broken.py"
        file.write_text(text)
        with pytest.raises(UserError, match=f"^IMPORTS names '{file}', which {what.format(file=file)}: mend it or"):
            import_components([str(file)])
        # Once mended, it can be imported without a new process.
        file.write_text(SOFTER)
        import_components([str(file)])
        assert "Softer" in ENSEMBLES

    def test_a_file_whose_component_is_of_the_wrong_kind(self, tmp_path):
        file = tmp_path / "wrong.py"
        file.write_text(SOFTER.replace("ENSEMBLES", "LOSSES"))
        with pytest.raises(UserError, match=r"Softer is registered as a loss, .* derive it from maft.interfaces.Loss"):
            import_components([str(file)])

    def test_an_installed_plug_in_is_loaded_once(self, monkeypatch):
        loads = []

        def load():
            loads.append(list(ENSEMBLES))
            ENSEMBLES.register()(type("Plugged", (Ensemble,), {}))

        self.install(monkeypatch, load)
        assert "Plugged" in ENSEMBLES and "Plugged" in list(ENSEMBLES) and len(loads) == 1

    def test_an_installed_plug_in_that_raises_is_named(self, monkeypatch):
        self.install(monkeypatch, lambda: 1 / 0)
        with pytest.raises(
            UserError, match=r"The installed plug-in mine is mine.parts, which raises ZeroDivisionError"
        ):
            ENSEMBLES.get("ClassifierAlone")

    @staticmethod
    def install(monkeypatch, load):
        entry = SimpleNamespace(name="mine", value="mine.parts", load=load)
        monkeypatch.setattr(maft.registry, "_loaded_plugins", set())
        monkeypatch.setattr(maft.registry, "_plugins", maft.registry._plugins.__wrapped__)
        monkeypatch.setattr(maft.registry, "entry_points", lambda group: [entry] * (group == "maft.components"))
