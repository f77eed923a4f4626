"""When what could not be done is tried again: each of many names after a pause of its own. Pure.

Keeps: a name's first pause is short, however long others have failed; each further one is twice as long, up to
`RETRY_S_MAX`. Pauses differ by chance, so that those whose container has just come back, of all coordinators, do not
come to it in one moment. A name that is being tried is due again, as nobody knows whether it will be told of.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final, NamedTuple

RETRY_S: Final = 0.1
"""The longest first pause."""
RETRY_S_MAX: Final = 2.0


class _Wait(NamedTuple):
    due_s: float
    pause_s: float
    """The next pause, at its longest."""


class Retries:
    """Times are seconds of a clock that does not go back; `uniform` draws between two bounds."""

    def __init__(self, uniform: Callable[[float, float], float] = random.uniform) -> None:
        self._uniform = uniform
        self._waits: dict[str, _Wait] = {}

    def __repr__(self) -> str:
        return f"<Retries of {len(self._waits)}>"

    def __bool__(self) -> bool:
        return bool(self._waits)

    def failed(self, name: str, now_s: float) -> bool:
        """It could not be done. Returns whether that is the first time."""
        if name in self._waits:
            return False  # its next try is set since the last one began
        self._set(name, now_s, RETRY_S)
        return True

    def over(self, name: str) -> None:
        """It is done, or nobody wants it any more."""
        self._waits.pop(name, None)

    def due(self, now_s: float) -> list[str]:
        """The names to be tried now."""
        due = [(name, wait.pause_s) for name, wait in self._waits.items() if wait.due_s <= now_s]
        for name, pause_s in due:
            self._set(name, now_s, pause_s)
        return [name for name, _ in due]

    def wait_s(self, now_s: float) -> float:
        """The time until something is due, unless another name fails meanwhile."""
        first_s = min((wait.due_s for wait in self._waits.values()), default=now_s)
        return max(0.0, first_s - now_s)

    def _set(self, name: str, now_s: float, pause_s: float) -> None:
        self._waits[name] = _Wait(now_s + self._uniform(pause_s / 2, pause_s), min(2 * pause_s, RETRY_S_MAX))
