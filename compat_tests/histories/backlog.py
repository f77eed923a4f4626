"""How far the copiers of a topic are behind its writers, by offsets; writers go on elsewhere while that is too far.

On a busy machine writers are faster than copiers, whose transactions do more; a fault is over for them sooner. What
they leave to the copiers has to be copied before a history can end.

**Invariant**: no more than `at_most` offsets of the topic are left to copy, but for what was on its way when it came to
that.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Final

from compat_tests.histories.history import Place

AT_MOST: Final = 300
"""Offsets, of all partitions together: some ten transactions of each of two copiers."""


class Backlog:
    """What was written to a topic and is not copied yet. Threads tell it."""

    def __init__(self, topic: str = "", at_most: int = AT_MOST) -> None:
        self._topic, self._at_most = topic, at_most
        self._lock = threading.Lock()
        self._written: dict[int, int] = {}  # by partition: the offset behind the last one
        self._copied: dict[int, int] = {}

    def __repr__(self) -> str:
        return f"<Backlog of {self._topic!r}: {self.offsets} of {self._at_most}>"

    @property
    def offsets(self) -> int:
        with self._lock:
            return sum(max(0, end - self._copied.get(number, 0)) for number, end in self._written.items())

    def written(self, place: Place, offset: int) -> None:
        """A record was stored there, in any topic."""
        self._reach(self._written, place, offset + 1)

    def copied(self, place: Place, end: int) -> None:
        """All before `end` was copied, or is of no transaction that was committed."""
        self._reach(self._copied, place, end)

    def _reach(self, ends: dict[int, int], place: Place, end: int) -> None:
        topic, partition = place
        if topic == self._topic:
            with self._lock:
                ends[partition] = max(end, ends.get(partition, 0))

    def open_of(self, places: Sequence[Place]) -> Sequence[Place]:
        """Those that may be written to now."""
        if self.offsets < self._at_most:
            return places
        return [place for place in places if place[0] != self._topic]
