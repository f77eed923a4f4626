"""The changes of a container since the last checkpoint.

**Invariant**: changes that a checkpoint took and did not save are put back, so that the next checkpoint saves them.
"""

from __future__ import annotations

from collections.abc import Container as Holder
from typing import NamedTuple

from core.container.arrivals import Place
from core.streams.live import Slot


class Taken(NamedTuple):
    """The changes that one checkpoint saves: slots, rows by table and key, the ids of streams that are gone, and slots
    that have left."""

    slots: list[Slot]
    rows: set[tuple[str, bytes]]
    dead_streams: list[int]
    gone: set[Place]


class Unsaved:
    """The changes of one container. For the event loop, or recovery."""

    def __init__(self) -> None:
        self._slots: list[Slot] = []
        self._rows: set[tuple[str, bytes]] = set()
        self._dead_streams: list[int] = []  # their keys are still in the applied state
        self._gone: set[Place] = set()  # likewise

    def mark(self, slot: Slot) -> None:
        """Note that a slot's durable state changed."""
        if not slot.dirty:
            slot.dirty = True
            self._slots.append(slot)

    def mark_row(self, table: str, key: bytes) -> None:
        """Note that a row was put or deleted."""
        self._rows.add((table, key))

    def mark_dead(self, stream_id: int) -> None:
        """Note that a stream is gone."""
        if not self._dead_streams or self._dead_streams[-1] != stream_id:
            self._dead_streams.append(stream_id)

    def mark_gone(self, place: Place) -> None:
        """Note that a slot has left the container."""
        self._gone.add(place)

    def has_gone(self, place: Place) -> bool:
        """Whether the applied state may still have a slot that has left."""
        return place in self._gone

    def rows_are_saved(self) -> None:
        """Forget all changed rows: they come from the applied state itself."""
        self._rows.clear()

    def take(self, live: Holder[int]) -> Taken:
        """Take all changes, for a checkpoint. The log has brought back the streams in `live`, though a slot's value may
        have reached the disk before its stream's."""
        dead = [one for one in self._dead_streams if one not in live]
        taken = Taken(self._slots, self._rows, dead, self._gone)
        self._slots, self._rows, self._dead_streams, self._gone = [], set(), [], set()
        return taken

    def put_back(self, taken: Taken) -> None:
        """Put back the changes of a checkpoint that failed."""
        for slot in taken.slots:
            self.mark(slot)
        self._rows |= taken.rows
        self._dead_streams += taken.dead_streams
        self._gone |= taken.gone
