"""The options of a component: keyword-only parameters, written once, with their types, ranges and documentation.

A constructor's keyword-only parameters are the options that a config may set, under their names in upper case. What
stands in the annotation (``Literal``, ``Annotated`` with a range) is checked by pydantic when the config is read, and
what stands in the docstring's ``Args`` is the documentation.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from maft.errors import UserError, closest, first_line, shown

Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
# Modules of a model, and the width of one: more of either is a slip that would be built for hours or fill any memory.
Layers = Annotated[int, Field(ge=0, le=1000)]
PositiveLayers = Annotated[int, Field(ge=1, le=1000)]
Channels = Annotated[int, Field(ge=1, le=1 << 16)]
# Detectron2's names of normalisations.
Norm = Literal["", "BN", "SyncBN", "FrozenBN", "GN", "nnSyncBN", "naiveSyncBN", "LN"]
# Sides of images for CLIP, in pixels.
Side = Annotated[int, Field(ge=1, le=8192)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]
AboveZero = Annotated[float, Field(gt=0)]
Rgb = tuple[float, float, float]
PositiveRgb = tuple[AboveZero, AboveZero, AboveZero]

REQUIRED = inspect.Parameter.empty

_STRICT = ConfigDict(strict=True, allow_inf_nan=False)
_WORDS = {int: "a whole number", float: "a number", bool: "True or False", str: "a text", type(None): "None"}
_BOUNDS = {
    "ge": "at least",
    "gt": "above",
    "le": "at most",
    "lt": "below",
    "multiple_of": "a multiple of",
    "min_length": "with a length of at least",
}
_DOCUMENTED = re.compile(r"^ {4}(?P<names>\w+(?:, \w+)*): (?P<text>.*(?:\n {8,}.*)*)", re.MULTILINE)


@dataclass(frozen=True)
class Option:
    """One option of a component.

    Attributes:
        name: in lower case; a config spells it in upper case.
        annotation: its type.
        default: `REQUIRED` where there is none.
        text: what the docstring says of it.
    """

    name: str
    annotation: Any
    default: Any
    text: str = ""

    def checked(self, value: Any, key: str) -> Any:
        """The value as its type has it.

        Args:
            value: as a config gives it; lists stand for tuples.
            key: the full config key, for the message.

        Raises:
            UserError: another type, or a value out of range.
        """
        try:
            adapter = TypeAdapter(self.annotation, config=_STRICT)
            try:
                return adapter.validate_python(_as_tuples(value))
            except ValidationError:
                # An annotation of lists takes none of the tuples that stand for a config's lists.
                with suppress(ValidationError):
                    return adapter.validate_python(value)
                raise
        except ValidationError as error:
            raise UserError(self._complaint(value, key, error)) from None
        except UserError:
            raise
        # A check in the annotation is somebody's code.
        except Exception as error:
            raise UserError(
                f"{key} cannot be checked: the type of this option raises {type(error).__name__} "
                f"({first_line(error)[:200]}) at {shown(value)}; correct its annotation."
            ) from error

    def _complaint(self, value: Any, key: str, error: ValidationError) -> str:
        found = error.errors()
        # Of a union every member complains: the one about the range is of the right type.
        first = next((item for item in found if not item["type"].endswith(("_type", "_required"))), found[0])
        within = any(isinstance(part, int) for part in first["loc"])
        if not within and first["type"] == "literal_error":
            return f"{key} is {shown(value)}; choose one of: {describe(self.annotation).removeprefix('one of ')}."
        if not within and any(name in first.get("ctx", {}) for name in _BOUNDS):
            return f"{key} is {shown(value)}, but it must be {describe(self.annotation)}."
        if not within and first["type"] == "finite_number":
            return f"{key} is {value}, but it must be a finite number."
        entry = f", because of {shown(first['input'])}" if within and first["input"] != _as_tuples(value) else ""
        value = list(value) if isinstance(value, tuple) else value
        return f"{key} takes {describe(self.annotation)}, not the {type(value).__name__} {shown(value)}{entry}."

    def describe(self) -> str:
        """Type and default in words."""
        default = "must be set" if self.default is REQUIRED else f"default {self.default!r}"
        return f"{describe(self.annotation)}, {default}"


def describe(annotation: Any) -> str:
    """A type of an option in words, such as ``a whole number of at least 1``."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        bounds = [
            f"{word} {getattr(rule, name)}"
            for field in arguments[1:]
            for rule in getattr(field, "metadata", [field])
            for name, word in _BOUNDS.items()
            if hasattr(rule, name)
        ]
        return f"{describe(arguments[0])} {' and '.join(bounds)}".replace("number at", "number of at").replace(
            "number a mul", "number and a mul"
        )
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin in (Union, UnionType):
        return " or ".join(map(describe, arguments))
    if origin is tuple and arguments[-1] is not Ellipsis:
        kinds = ", ".join(dict.fromkeys(map(describe, arguments)))
        return f"a list of {len(arguments)} ({kinds}{' each' if len(set(arguments)) == 1 else ''})"
    if origin is not None and arguments:
        return f"a list ({describe(arguments[0])} each)"
    return _WORDS.get(annotation, str(getattr(annotation, "__name__", annotation)))


def options_of(component: type) -> dict[str, Option]:
    """The options of a component by their names in a config (upper case).

    They are the keyword-only parameters of ``from_options``, and where that takes ``**options``, of the constructor; a
    constructor with ``**options`` passes them on to its base class, whose options then count as well.
    """
    text = dict(_documentation(component))
    found: dict[str, Option] = {}
    for function in _signatures(component):
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY and parameter.name.upper() not in found:
                annotation = _evaluated(parameter.annotation, function, parameter.name)
                if not _expressible(annotation):
                    raise UserError(
                        f"{_place(function, parameter.name)} has the type {shown(annotation)}, which no config can "
                        "express: make it a number, a text, a flag, a Literal, or a tuple or list of these."
                    )
                option = Option(parameter.name, annotation, parameter.default, text.get(parameter.name, ""))
                found[parameter.name.upper()] = option
    return found


def check_options(options: Mapping[str, Any], known: Mapping[str, Option], kind: str, node: str) -> dict[str, Any]:
    """Checks options as a config gives them and returns them as keyword arguments.

    Args:
        options: by upper-case name.
        known: see `options_of`.
        kind: whose they are, in words, for the message.
        node: config key of the group.

    Raises:
        UserError: an option is unknown, a required one is missing, or a value does not fit.
    """
    checked = {}
    for name, value in options.items():
        if name not in known:
            listed = ", ".join(known) or "none"
            raise UserError(
                f"{kind} has no option {name!r} ({node}.{name}); its options are: {listed}.{closest(str(name), known)}"
            )
        checked[known[name].name] = known[name].checked(value, f"{node}.{name}")
    missing = [name for name, option in known.items() if option.default is REQUIRED and name not in options]
    if missing:
        raise UserError(f"{kind} needs {node}.{missing[0]} to be set.")
    return checked


def _signatures(component: type) -> Iterator[Callable[..., Any]]:
    builder = getattr(component, "from_options", None)
    if builder is not None:
        yield builder
        if not _passes_on(builder):
            return
    for base in component.__mro__:
        if "__init__" in vars(base):
            yield vars(base)["__init__"]
            if not _passes_on(vars(base)["__init__"]):
                return


def _passes_on(function: Callable[..., Any]) -> bool:
    return any(p.kind is inspect.Parameter.VAR_KEYWORD for p in inspect.signature(function).parameters.values())


def _place(function: Callable[..., Any], name: str) -> str:
    return f"The option {name.upper()} of {function.__module__}.{function.__qualname__}"


def _evaluated(annotation: Any, function: Callable[..., Any], name: str) -> Any:
    if annotation is inspect.Parameter.empty:
        return Any
    if not isinstance(annotation, str):
        return annotation
    try:
        # The text of an annotation in the component's own source, as typing.get_type_hints evaluates it.
        return eval(annotation, vars(sys.modules[function.__module__]))
    except NameError as error:
        raise UserError(
            f"{_place(function, name)} has a type that cannot be found ({error}): import it outside TYPE_CHECKING."
        ) from error
    except Exception as error:
        raise UserError(
            f"{_place(function, name)} has the annotation {shown(annotation)}, which raises {type(error).__name__} "
            f"({first_line(error)[:200]}): correct it."
        ) from error


def _expressible(annotation: Any) -> bool:
    """Whether a config can hold values of a type: plain ones, lists of them, and choices among them."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _expressible(arguments[0])
    if origin is Literal:
        return all(type(choice) in _WORDS for choice in arguments)
    if origin in (Union, UnionType, tuple, list, Sequence):
        return all(part is Ellipsis or _expressible(part) for part in arguments)
    return annotation in (*_WORDS, Any, None, list, tuple)


def _documentation(component: type) -> Iterator[tuple[str, str]]:
    """(parameter, text) of the ``Args`` of a component and its base classes, a base class first."""
    for base in reversed(component.__mro__):
        functions = (vars(base).get(name) for name in ("__init__", "from_options"))
        for documented in (base, *(getattr(f, "__func__", f) for f in functions)):
            text = inspect.cleandoc(getattr(documented, "__doc__", None) or "")
            _, _, arguments = text.partition("Args:\n")
            arguments = re.split(r"\n\S", arguments)[0]
            for match in _DOCUMENTED.finditer(arguments):
                for name in match["names"].split(", "):
                    yield name, " ".join(match["text"].split())


def _as_tuples(value: Any) -> Any:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(_as_tuples(item) for item in value)
    return value
