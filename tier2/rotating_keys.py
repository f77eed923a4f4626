"""The keys that sign requests to an S3 server; they may be replaced while the process runs.

Invariants: keys are read again when a server refuses them, at most once every `LOOK_EVERY_S`, and never in an event
loop; if they cannot be read, the former ones stay. No repr shows a key.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

LOOK_EVERY_S: Final = 1.0
"""Least time between two readings, seconds: refused requests must not read a file each time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """One identity."""

    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


ReadKeys = Callable[[], Keys | None]
"""Reads the keys from their source; None when it cannot be read. May block."""


class RotatingKeys:
    """The newest known keys. May be used from several threads."""

    def __init__(self, first: Keys, read_again: ReadKeys | None) -> None:
        self.current = first
        self._read_again = read_again
        self._lock = threading.Lock()
        self._looked_s: float | None = None

    def are_newer_than(self, refused: Keys) -> bool:
        """Whether there are newer keys than the refused ones; reads them again if that is due. Blocks."""
        with self._lock:
            if self.current == refused and self._read_again is not None and self._may_look():
                self.current = self._read_again() or refused
            return self.current != refused

    def _may_look(self) -> bool:
        now = time.monotonic()
        if self._looked_s is not None and now < self._looked_s + LOOK_EVERY_S:
            return False
        self._looked_s = now
        return True
