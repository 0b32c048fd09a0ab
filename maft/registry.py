"""Registries of the interchangeable parts: proposers, mask classifiers, losses and score ensembles.

A component is one class in one file, in this package or in anybody's own: a module that a config names under
``IMPORTS``, or an installed package with an entry point in the group ``maft.components``.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from maft.errors import UserError, closest, first_line, shown
from maft.interfaces import BuildContext, Component, Ensemble, Loss, MaskClassifier, Proposer
from maft.options import REQUIRED, Option, check_options, options_of

Base = TypeVar("Base", bound=Component)
Class = TypeVar("Class", bound=type)

ENTRY_POINTS = "maft.components"
_LIBRARIES = (*(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")), "<frozen ", __file__)


class Registry(Generic[Base]):
    """Named components of one kind.

    Args:
        kind: what the components are, in words used by error messages, such as ``"proposer"``.
        node: the config node that chooses among them, such as ``"MODEL.PROPOSER"``.
        base: what they must be.
        package: where those of this project live; imported at the first look-up, so that the light modules (the doctor,
            the config) can be imported where Detectron2 or open_clip are missing.
    """

    def __init__(self, kind: str, node: str, base: type[Base], package: str) -> None:
        self.kind, self.node, self.base, self.package = kind, node, base, package
        self._components: dict[str, type[Base]] = {}

    def register(self, name: str | None = None) -> Callable[[Class], Class]:
        """Decorator that adds a class under ``name`` (default: its own name).

        Raises:
            UserError: the class lacks the base class, the name is none, or another one has it.
        """
        if name is not None and (not isinstance(name, str) or not name.isidentifier()):
            raise UserError(
                f"A {self.kind} cannot be registered under {shown(name)}: write @{self.node.rpartition('.')[2]}S"
                ".register() for the name of the class, or a name in quotes between the parentheses."
            )

        def add(component: Class) -> Class:
            place = f"{component.__module__}.{component.__qualname__}"
            if not (isinstance(component, type) and issubclass(component, self.base)):
                raise UserError(
                    f"{place} is registered as a {self.kind}, but is no subclass of {self.base.__name__}: derive it "
                    f"from maft.interfaces.{self.base.__name__}."
                )
            key = name or component.__name__
            known = self._components.get(key)
            if known is not None and f"{known.__module__}.{known.__qualname__}" != place:
                raise UserError(
                    f"Two components of the kind {self.kind} are called {key}: {known.__module__}.{known.__qualname__} "
                    f"and {place}; rename one of them."
                )
            self._components[key] = component
            return cast(Class, component)

        return add

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._filled()))

    def __contains__(self, name: object) -> bool:
        return name in self._filled()

    def get(self, name: str) -> type[Base]:
        """The component called ``name``; raises `UserError` listing the known ones."""
        known = self._filled()
        if name not in known:
            raise UserError(
                f"Unknown {self.kind} {name!r} in {self.node}; the known ones are: {', '.join(self)}."
                f"{closest(str(name), known)} One of your own needs its module under IMPORTS."
            )
        return known[name]

    def options(self, name: str) -> dict[str, Option]:
        """The options of a component by their upper-case names."""
        return options_of(self.get(name))

    def arguments(self, name: str, options: Mapping[str, Any], *, complete: bool = True) -> dict[str, Any]:
        """Checks the options of a component and returns them as keyword arguments.

        Args:
            complete: whether options that must be set may not be missing.

        Raises:
            UserError: an option is unknown, missing, of another type or out of range.
        """
        kind = f"{self.kind.capitalize()} {name}"
        known = self.options(name)
        if not complete:
            known = {key: option for key, option in known.items() if key in options or option.default is not REQUIRED}
        return check_options(options, known, kind, f"{self.node}.{name}")

    def build(self, name: str, options: Mapping[str, Any], context: BuildContext | None = None) -> Any:
        """Constructs a component from its options; losses and ensembles do without the context."""
        return self.get(name).from_options(context, **self.arguments(name, options))  # type: ignore[arg-type]

    def _filled(self) -> dict[str, type[Base]]:
        importlib.import_module(self.package)
        _load_plugins()
        return self._components


def import_components(names: Sequence[str]) -> None:
    """Imports the modules of a config's ``IMPORTS``, which register components of somebody's own.

    Args:
        names: modules that Python finds, or paths of ``.py`` files.

    Raises:
        UserError: there is no such module or file, or it raises.
    """
    for name in names:
        if not isinstance(name, str) or not name:
            raise UserError(f"IMPORTS holds {name!r}: list names of modules or paths of .py files.")
        with _explained(f"IMPORTS names {name!r}"):
            if name.endswith(".py"):
                _import_file(name)
            else:
                _import_module(name)


def _import_module(name: str) -> None:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise UserError(
                f"IMPORTS names the module {name!r}, which Python does not find: install it, put its folder into "
                "PYTHONPATH, or give the path of a .py file."
            ) from None
        raise


def _import_file(name: str) -> None:
    path = Path(os.path.expanduser(name)).absolute()
    if not os.path.isfile(path):
        raise UserError(f"IMPORTS names the file {name}, which does not exist: give its path.")
    module_name = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if module_name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[module_name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise


@contextmanager
def _explained(beginning: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    # A script ends the process where a module would return.
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        # The line of the module itself, not that of a library it calls.
        last = ([frame for frame in frames if not frame.filename.startswith(_LIBRARIES)] or frames)[-1]
        where = f"{last.filename}:{last.lineno}"
        if isinstance(error, SyntaxError):
            where = f"{error.filename}:{error.lineno}"
        raised = f"{type(error).__name__} while it is imported ({first_line(error)}; {where})"
        raise UserError(f"{beginning}, which raises {raised}: mend it or leave it out.") from error


_loaded_plugins: set[str] = set()


@cache
def _plugins() -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=ENTRY_POINTS))


def _load_plugins() -> None:
    for entry in _plugins():
        if entry.value not in _loaded_plugins:
            with _explained(f"The installed plug-in {entry.name} is {entry.value}"):
                # Noted before it is loaded, for what it imports may ask the registry again.
                _loaded_plugins.add(entry.value)
                entry.load()


PROPOSERS = Registry("proposer", "MODEL.PROPOSER", Proposer, "maft.proposals")  # type: ignore[type-abstract]
CLASSIFIERS = Registry("mask classifier", "MODEL.CLASSIFIER", MaskClassifier, "maft.classifiers")
LOSSES = Registry("loss", "MODEL.LOSSES", Loss, "maft.losses")
ENSEMBLES = Registry("ensemble", "MODEL.ENSEMBLE", Ensemble, "maft.ensembles")
