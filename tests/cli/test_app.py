"""The command that opens the app."""

import sys

import pytest

from maft.cli.app import main
from maft.errors import UserError


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--max-megapixels", "0"], "--max-megapixels is 0.0: give a number above 0"),
        (["--port", "70000"], "--port is 70000"),
        (["--examples", "no/such/folder"], "no/such/folder is no folder"),
        (["--model", "no-such-model"], "no-such-model"),
        (["--config-file", "no/such/config.yaml"], "no/such/config.yaml"),
    ],
)
def test_mistakes_end_before_anything_is_served(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        main(arguments)


def test_without_gradio_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match=r'pip install "maft\[app\]"'):
        main([])
