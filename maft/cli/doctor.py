"""``maft doctor``, which has to run where little else does."""

from maft.doctor import main, parser

__all__ = ["main", "parser"]
