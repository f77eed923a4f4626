"""Where the time of one piece of work goes: the stations that it has passed, with the milliseconds on the way to each.

Keeps: the times add up to that from its beginning to its last station.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping


class Stations:
    """See the module. It begins when it is made; `clock` gives seconds that never go back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last_s = clock()
        self._ms: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"<Stations {self.told()}>"

    def reached(self, station: str) -> None:
        """The work is here now. A station that is passed again takes the time of each way to it."""
        now_s = self._clock()
        self._ms[station] = self._ms.get(station, 0.0) + (now_s - self._last_s) * 1000
        self._last_s = now_s

    def told(self) -> Mapping[str, float]:
        """Milliseconds on the way to each station, for a log line."""
        return {station: round(ms, 1) for station, ms in self._ms.items()}
