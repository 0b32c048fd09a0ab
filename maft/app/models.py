"""The models that visitors can choose from, loaded when one is first asked for."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from maft.errors import UserError, shown
from maft.packaged import packaged_config
from maft.predictor import Predictor
from maft.zoo import MINIATURE
from maft.zoo.cache import is_here
from maft.zoo.table import entries


class Models:
    """Loads models by name, each once; the last few that were used stay loaded.

    Args:
        sources: name -> how to load it.
        most: how many stay loaded.
    """

    def __init__(self, sources: Mapping[str, Callable[[], Predictor]], most: int = 2) -> None:
        self._sources, self._most = dict(sources), most
        self._loaded: OrderedDict[str, Predictor] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def names(self) -> list[str]:
        """What can be asked for, in the order given."""
        return list(self._sources)

    def is_loaded(self, name: str) -> bool:
        """Whether `get` answers at once."""
        return name in self._loaded

    def get(self, name: str) -> Predictor:
        """The model of that name.

        Raises:
            UserError: there is none, or it cannot be loaded.
        """
        if name not in self.names:
            raise UserError(f"This app has no model {shown(name)}: choose one of {', '.join(self.names)}.")
        # One at a time: two visitors who ask for one model wait for the same loading.
        with self._lock:
            if name not in self._loaded:
                self._loaded[name] = self._sources[name]()
            self._loaded.move_to_end(name)
            while len(self._loaded) > self._most:
                self._loaded.popitem(last=False)
            return self._loaded[name]


def sources(given: Sequence[str], overrides: Sequence[str]) -> dict[str, Callable[[], Predictor]]:
    """How to load what was asked for and, after it, the shipped model and the released ones that were fetched.

    Args:
        given: names of released models, checkpoints, configs, or ids on the hub.
        overrides: KEY VALUE pairs for each of them.
    """
    found: dict[str, Callable[[], Predictor]] = {name: partial(_load, name, overrides) for name in given}
    for name in (MINIATURE, *(name for name, entry in entries().items() if is_here(entry))):
        found.setdefault(name, partial(Predictor.from_pretrained, name))
    return found


def _load(name: str, overrides: Sequence[str]) -> Predictor:
    of_config = name.endswith((".yaml", ".yml")) or packaged_config(name) is not None
    return (Predictor.from_config if of_config else Predictor.from_pretrained)(name, overrides)
