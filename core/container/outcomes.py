"""The outcomes of durable updates in a container: its tables, its streams, and the starts of their slots.

**Invariants**

- Everything here is an outcome of durable records, in their order. Applying a record again changes nothing, so replay
  may begin anywhere before its end.
- A stream is here as long as the table of streams lists it. The listener for changed streams marks a deleted one at
  once, and the watchers of its slots hear of it.
- A slot's start only moves up.
- Listeners of a table hear of each operation after it was applied. For streams, the first listener is this module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from core.applied.tables import Delete, Put, Table, new_table
from core.container.unsaved import Unsaved
from core.log.records import Operation, Trim
from core.streams.known_writers import KnownWriters
from core.streams.live import Slot, Stream
from core.streams.state import STREAMS_TABLE, StreamState, decode_stream

TableListener = Callable[[Put | Delete], None]
"""Hears of an operation on a table, once it is durable and applied."""


class Outcomes:
    """The outcomes of one container. For the event loop; recovery fills it in a thread of its own."""

    def __init__(
        self,
        container_id: int,
        unsaved: Unsaved,
        known_writers: KnownWriters,
        stream_changed: Callable[[int, StreamState | None], Stream | None],
        trimmed: Callable[[Slot], None],
    ) -> None:
        self.streams: dict[int, Stream] = {}
        self.tables: dict[str, Table] = {}
        self.streams_deleted = 0  # since the start
        self._container_id = container_id
        self._unsaved = unsaved
        self.known_writers = known_writers
        self._stream_changed = stream_changed
        self._trimmed = trimmed
        self._listeners: dict[str, list[TableListener]] = {STREAMS_TABLE: [self._apply_stream]}

    def apply(self, operations: Sequence[Operation]) -> None:
        """Make the outcomes of a durable update record visible. Applying it again changes nothing."""
        for operation in operations:
            if isinstance(operation, Trim):
                self._apply_trim(operation)
                continue
            self.table(operation.table).apply(operation)
            self._unsaved.mark_row(operation.table, operation.key)
            for listener in self._listeners.get(operation.table, ()):
                listener(operation)

    def on_applied(self, table: str, listener: TableListener) -> None:
        """Have a listener hear of each operation on a table from now on; it is called on the loop, or in recovery."""
        self._listeners.setdefault(table, []).append(listener)

    def table(self, name: str) -> Table:
        """A table's applied state; empty when nothing was ever put."""
        table = self.tables.get(name)
        if table is None:
            table = self.tables[name] = new_table(name)
        return table

    def _apply_stream(self, operation: Put | Delete) -> None:
        stream_id = int.from_bytes(operation.key, "big")
        state = self._state_of(stream_id, operation.value) if isinstance(operation, Put) else None
        stream = self._stream_changed(stream_id, state)
        if state is not None and stream is not None:
            self.streams[stream_id] = stream
            stream.go_by(state, self._container_id)
        elif (gone := self.streams.pop(stream_id, None)) is not None:
            self.streams_deleted += 1
            self._unsaved.mark_dead(stream_id)
            for slot in gone.slots_in(self._container_id):
                self.known_writers.slot_gone(slot)
                slot.changed()

    def _state_of(self, stream_id: int, value: bytes) -> StreamState:
        """The decoded value. A known value is not decoded again, as a long history takes a while."""
        stream = self.streams.get(stream_id)
        return stream.logged if stream is not None and stream.logged.encode() == value else decode_stream(value)

    def _apply_trim(self, trim: Trim) -> None:
        stream = self.streams.get(trim.stream_id)
        if stream is None:
            return
        slot = stream.slot(trim.slot)
        if trim.start > slot.start:
            slot.start, slot.start_bytes = trim.start, trim.bytes_before
            slot.removed = slot.removed.without_before(trim.start)
            slot.forget_transactions_before(trim.start)
            self._unsaved.mark(slot)
            self._trimmed(slot)
            slot.changed()
