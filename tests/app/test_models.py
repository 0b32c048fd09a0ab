"""Models are loaded once, when they are asked for."""

import threading

import pytest

from maft.app.models import Models, sources
from maft.errors import UserError
from maft.predictor import Predictor


def test_loaded_once_however_many_ask_and_the_last_stay():
    loaded = []
    models = Models({name: lambda name=name: loaded.append(name) or name for name in "abc"}, most=2)
    threads = [threading.Thread(target=models.get, args=("a",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loaded == ["a"] and models.is_loaded("a") and not models.is_loaded("b")
    models.get("b"), models.get("a"), models.get("c"), models.get("a")
    assert loaded == ["a", "b", "c"]
    models.get("b")
    assert loaded == ["a", "b", "c", "b"]


def test_what_was_given_comes_first_and_the_shipped_model_last():
    found = sources(["quickstart/frozen_clip"], ["MODEL.DEVICE", "cpu"])
    assert list(found) == ["quickstart/frozen_clip", "miniature"]
    assert isinstance(Models(found).get("quickstart/frozen_clip"), Predictor)


def test_what_is_no_model_is_said():
    for name in (None, ["a"], "b"):
        with pytest.raises(UserError, match="has no model .*: choose one of a"):
            Models({"a": lambda: "a"}).get(name)
    with pytest.raises(UserError, match="nothing-of-this-name"):
        Models(sources(["nothing-of-this-name"], [])).get("nothing-of-this-name")
