"""What visitors' browsers may still ask for: photos and answers, in memory only, bounded in bytes and in time."""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any


@dataclass
class _Entry:
    value: Any
    size: int
    used: float


class Memory:
    """Keeps values under names that cannot be guessed, until they are old or newer ones need their room.

    Args:
        most_bytes: of all values together; the newest is always kept.
        seconds: how long a value is kept after its last use.
    """

    def __init__(self, most_bytes: int = 2**30, seconds: float = 3600) -> None:
        self._most_bytes, self._seconds = most_bytes, seconds
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, value: Any, size: int) -> str:
        """Keeps a value of so many bytes; returns the name under which `get` finds it."""
        token = secrets.token_urlsafe(16)
        with self._lock:
            self._entries[token] = _Entry(value, size, time.monotonic())
            self._forget_old()
            total = sum(entry.size for entry in self._entries.values())
            while total > self._most_bytes and len(self._entries) > 1:
                _, oldest = self._entries.popitem(last=False)
                total -= oldest.size
        return token

    def get(self, token: str | None) -> Any | None:
        """The value, or None where there never was one or it is no longer kept."""
        with self._lock:
            self._forget_old()
            entry = self._entries.get(token or "")
            if entry is None:
                return None
            entry.used = time.monotonic()
            self._entries.move_to_end(token or "")
            return entry.value

    def drop(self, token: str | None) -> None:
        """Forgets a value, if it is there."""
        with self._lock:
            self._entries.pop(token or "", None)

    def _forget_old(self) -> None:
        now = time.monotonic()
        # The order is that of the last use.
        while self._entries and now - next(iter(self._entries.values())).used > self._seconds:
            self._entries.popitem(last=False)
