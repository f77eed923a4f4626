"""What of a container changed since the last checkpoint took it.

**Invariant**: what was taken and not saved is put back, so that no change waits for none.
"""

from __future__ import annotations

from collections.abc import Container as Holder
from typing import NamedTuple

from core.streams.live import Slot


class Taken(NamedTuple):
    """What one checkpoint saves: slots, rows by table and key, and the ids of streams that are gone."""

    slots: list[Slot]
    rows: set[tuple[str, bytes]]
    dead_streams: list[int]


class Unsaved:
    """Of one container. For the event loop, or recovery."""

    def __init__(self) -> None:
        self._slots: list[Slot] = []
        self._rows: set[tuple[str, bytes]] = set()
        self._dead_streams: list[int] = []  # their keys are still in the applied state

    def mark(self, slot: Slot) -> None:
        """A slot's durable state changed."""
        if not slot.dirty:
            slot.dirty = True
            self._slots.append(slot)

    def mark_row(self, table: str, key: bytes) -> None:
        """A row was put or deleted."""
        self._rows.add((table, key))

    def mark_dead(self, stream_id: int) -> None:
        """A stream is gone."""
        if not self._dead_streams or self._dead_streams[-1] != stream_id:
            self._dead_streams.append(stream_id)

    def rows_are_saved(self) -> None:
        """All rows come from the applied state itself."""
        self._rows.clear()

    def take(self, live: Holder[int]) -> Taken:
        """All of it, for a checkpoint. Streams in `live` were brought back by the log, though a slot's value may have
        reached the disk before its stream's."""
        taken = Taken(self._slots, self._rows, [one for one in self._dead_streams if one not in live])
        self._slots, self._rows, self._dead_streams = [], set(), []
        return taken

    def put_back(self, taken: Taken) -> None:
        """That checkpoint failed."""
        for slot in taken.slots:
            self.mark(slot)
        self._rows |= taken.rows
        self._dead_streams += taken.dead_streams
