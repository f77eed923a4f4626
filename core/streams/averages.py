"""The averages of what a slot gets: over which windows they are taken, and where they are kept. Pure.

`core.scaling.rates` takes them; a slot only carries them.
"""

from __future__ import annotations

from typing import Final, NamedTuple

MINUTE_S: Final = 60.0
WINDOWS_S: Final = (10.0, 2 * MINUTE_S, 5 * MINUTE_S, 10 * MINUTE_S, 20 * MINUTE_S)
"""The first is for people to watch, the others are the scaler's."""
WATCHED, TWO, FIVE, TEN, TWENTY = range(len(WINDOWS_S))

FADED: Final = 12 * WINDOWS_S[TWENTY]
"""After so long without an entry a slot's averages are below one in 100,000 of what they were, and are dropped."""

Averages = tuple[float, ...]
"""One for each window, a second."""
NOTHING: Final[Averages] = (0.0,) * len(WINDOWS_S)


class Rate(NamedTuple):
    """What comes just now."""

    bytes_s: float
    events_s: float


class SlotRate:
    """One slot's averages, as of `at`."""

    __slots__ = ("at", "bytes", "events")

    def __init__(self, at: float) -> None:
        self.at = at
        self.bytes = list(NOTHING)
        self.events = list(NOTHING)
