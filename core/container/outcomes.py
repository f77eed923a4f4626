"""The outcomes of durable updates in a container: its tables, its streams, its slots and their starts.

**Invariants**

- Everything here is an outcome of durable records, in their order. Applying a record again changes nothing, so replay
  may begin anywhere before its end.
- A stream is here as long as the table of streams lists it. The listener for changed streams marks a deleted one at
  once, and the watchers of its slots hear of it in the next turns.
- A slot's start only moves up.
- A slot is here if this container's own copy of its stream says so, or while it arrives. Nothing else counts: the
  stream itself is the same object for all containers, and may be ahead of what this one has applied.
- Rows that threads look up, of `STORED_TABLES`, are there as a whole record or not at all, and before a slot says so.
- Callers find a slot that has come here once the log was given the copy that says so: what they append lies behind it.
- Listeners of a table hear of each operation after it was applied. For streams, the first listener is this module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from core.applied.tables import STORED_TABLES, Delete, Put, StoredTable, Table, new_table
from core.container.arrivals import ARRIVING_TABLE, Place, place_of
from core.container.unsaved import Unsaved
from core.log.records import Operation, Trim
from core.streams.known_writers import KnownWriters
from core.streams.live import Slot, Stream
from core.streams.saving import load_slot
from core.streams.state import STREAMS_TABLE, StreamState, decode_stream
from core.streams.telling import Telling

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
        new_slot: Callable[[Stream, int], Slot],
        left: Callable[[Slot], None],
        stream_left: Callable[[int], None],
        displaced: Callable[[Slot], None],
    ) -> None:
        self.streams: dict[int, Stream] = {}
        self.tables: dict[str, Table] = {}
        self.copies: dict[int, StreamState] = {}  # of the streams, as this container's log has them
        self.beside: dict[Place, Slot] = {}  # slots here for which their stream has another object, or none
        self.streams_deleted = 0  # since the start
        self._container_id = container_id
        self._unsaved = unsaved
        self.known_writers = known_writers
        self._stream_changed = stream_changed
        self._trimmed = trimmed
        self._new_slot = new_slot
        self._left = left
        self._stream_left = stream_left
        self._displaced = displaced
        self._telling = Telling()
        self._listeners: dict[str, list[TableListener]] = {
            STREAMS_TABLE: [self._apply_stream],
            ARRIVING_TABLE: [self._apply_arrival],
        }

    def apply(self, operations: Sequence[Operation]) -> None:
        """Make the outcomes of a durable update record visible. Applying it again changes nothing."""
        self._apply_stored(operations)
        for operation in operations:
            if isinstance(operation, Trim):
                self._apply_trim(operation)
                continue
            if operation.table not in STORED_TABLES:
                self.table(operation.table).apply(operation)
            self._unsaved.mark_row(operation.table, operation.key)
            for listener in self._listeners.get(operation.table, ()):
                listener(operation)

    def _apply_stored(self, operations: Sequence[Operation]) -> None:
        stored: dict[str, list[Put | Delete]] = {}
        for operation in operations:
            if not isinstance(operation, Trim) and operation.table in STORED_TABLES:
                stored.setdefault(operation.table, []).append(operation)
        for name, its in sorted(stored.items()):  # chunks before the runs that name them
            table = self.table(name)
            assert isinstance(table, StoredTable)
            table.apply_all(its)

    def on_applied(self, table: str, listener: TableListener) -> None:
        """Have a listener hear of each operation on a table from now on; it is called on the loop, or in recovery."""
        self._listeners.setdefault(table, []).append(listener)

    def table(self, name: str) -> Table:
        """A table's applied state; empty when nothing was ever put."""
        table = self.tables.get(name)
        if table is None:
            table = self.tables[name] = new_table(name)
        return table

    # Slots

    def owns(self, place: Place) -> bool:
        """Whether a slot lies in this container, by its own copy of the stream."""
        copy, own = self.copies.get(place[0]), self._container_id
        if copy is None or place[1] >= copy.slots or own not in copy.containers:
            return False
        return len(copy.containers) == 1 or copy.container_of_slot(place[1]) == own

    def slot_at(self, stream_id: int, number: int) -> Slot | None:
        """The slot of this container, or on its way into it; None if it is neither, or its stream is gone."""
        found = self.beside.get((stream_id, number)) if self.beside else None
        if found is not None:
            return found
        stream = self.streams.get(stream_id)
        if stream is None or not self.owns((stream_id, number)):
            return None
        known = stream.known_slot(number)
        if known is None and stream.logged.container_of_slot(number) == self._container_id:
            return stream.slot(number)
        if known is None or known.container_id != self._container_id or known.has_moved:
            # The stream is ahead of this container, which has still to apply that the slot has left it.
            known = self.beside[stream_id, number] = self._new_slot(stream, number)
        return known

    def has_arrivals(self, stream_id: int) -> bool:
        """Whether a slot of a stream is on its way into this container."""
        return any(place[0] == stream_id and not self.owns(place) for place in self.beside)

    def _apply_arrival(self, operation: Put | Delete) -> None:
        place = place_of(operation.key)
        stream = self.streams.get(place[0])
        if stream is None:
            return
        if isinstance(operation, Delete):
            slot = None if self.owns(place) else self.beside.pop(place, None)
            if slot is not None:
                self._gone(slot)
            return
        slot = self.slot_at(*place)
        if slot is None:
            slot = self.beside[place] = self._new_slot(stream, place[1])
        self._begin(slot, operation.value)

    def _begin(self, slot: Slot, value: bytes) -> None:
        """Have a slot in a saved state. What this stay of it has in chunks already is not in that."""
        since, start, tiered = slot.since_lsn, slot.start, (slot.tiered_end, slot.tiered_bytes)
        self.known_writers.slot_gone(slot)
        load_slot(slot, value)
        self.known_writers.added(len(slot.writers or ()))
        if since == slot.since_lsn and tiered[0] > slot.tiered_end:
            slot.tiered_end, slot.tiered_bytes = tiered
        if since == slot.since_lsn and slot.start > start:  # it was trimmed meanwhile where it comes from
            slot.removed = slot.removed.without_before(slot.start)
            self._trimmed(slot)
        self._unsaved.mark(slot)

    def _gone(self, slot: Slot) -> None:
        """A slot is not here any more."""
        slot.has_moved = True
        self.known_writers.slot_gone(slot)
        self._unsaved.mark_gone((slot.stream.id, slot.number))
        self._left(slot)

    def _follow(self, stream: Stream, before: StreamState | None, after: StreamState) -> None:
        """The container's copy of a stream has changed: slots may have come or gone with it."""
        own = self._container_id
        self._take_place(stream)
        if before is None or (before.slots == after.slots and before.runs_in(own) == after.runs_in(own)):
            return
        for place in [place for place in self.beside if place[0] == stream.id]:
            if _had(before, place[1], own) and not self.owns(place):
                self._gone(self.beside.pop(place))
        for slot in list(stream.slots_in(own)):
            place = stream.id, slot.number
            if not self.owns(place) and place not in self.beside:  # else it has come, by a copy that is on its way
                self._gone(slot)

    def slots_are_loaded(self) -> None:
        """The applied state has given all slots that it has. The streams may have objects of containers that were
        recovered earlier, from states before the slots came here."""
        for stream in {slot.stream.id: slot.stream for slot in self.beside.values()}.values():
            self._take_place(stream)

    def _take_place(self, stream: Stream) -> None:
        """Give a stream the objects of slots that have come here, once the newest state says so, too."""
        own = self._container_id
        for place in [place for place in self.beside if place[0] == stream.id and self.owns(place)]:
            if stream.logged.container_of_slot(place[1]) == own:
                self._adopted(stream, self.beside.pop(place))

    def come(self, stream: Stream) -> None:
        """The log was given a copy of the stream by which slots that have arrived are here: callers find them now, and
        it owns them once the copy is applied."""
        own = self._container_id
        for place, slot in self.beside.items():
            if place[0] == stream.id and not self.owns(place) and stream.logged.container_of_slot(place[1]) == own:
                self._adopted(stream, slot)

    def _adopted(self, stream: Stream, slot: Slot) -> None:
        """Give the stream this object for a slot, if it has another one or none."""
        if stream.known_slot(slot.number) is slot:
            return
        slot.sampled_bytes, slot.sampled_end = slot.total_bytes, slot.end  # its history has not come just now
        for other in stream.adopt(slot):
            slot.rate = other.rate
            if other.container_id != self._container_id:
                self._displaced(other)
        slot.segment_id = stream.segment_id_of(slot.number)

    def displaced(self, slot: Slot) -> None:
        """Another container has brought the stream its own object for a slot that this one may still have to let go."""
        place = slot.stream.id, slot.number
        if self.owns(place):
            self.beside[place] = slot

    def rejoin(self, stream: Stream) -> None:
        """A stream of a container that was recovered on its own is this one for all that is shown."""
        self.streams[stream.id] = stream
        for place, slot in self.beside.items():
            if place[0] == stream.id:
                slot.stream = stream

    # Streams

    def _apply_stream(self, operation: Put | Delete) -> None:
        stream_id = int.from_bytes(operation.key, "big")
        state = self._state_of(stream_id, operation.value) if isinstance(operation, Put) else None
        stream = self._stream_changed(stream_id, state)
        if state is not None and stream is not None:
            before = self.copies.get(stream_id)
            self.copies[stream_id] = state
            self.streams[stream_id] = stream
            stream.go_by(state, self._container_id)
            self._follow(stream, before, state)
        elif (gone := self.streams.pop(stream_id, None)) is not None:
            self.streams_deleted += 1
            self.copies.pop(stream_id, None)
            for place in [place for place in self.beside if place[0] == stream_id]:
                self._gone(self.beside.pop(place))
            self._unsaved.mark_dead(stream_id)
            slots = list(gone.slots_in(self._container_id))
            if gone.deleted:
                self.known_writers.slots_gone(slots)
            else:  # it goes on in other containers, and may come back
                for slot in slots:
                    self.known_writers.slot_gone(slot)
                self._stream_left(stream_id)
            self._telling.changed(slots)

    def _state_of(self, stream_id: int, value: bytes) -> StreamState:
        """The decoded value. A known value is not decoded again, as a long history takes a while."""
        stream = self.streams.get(stream_id)
        return stream.logged if stream is not None and stream.logged.encode() == value else decode_stream(value)

    def _apply_trim(self, trim: Trim) -> None:
        slot = self.slot_at(trim.stream_id, trim.slot)
        if slot is not None and trim.start > slot.start:
            slot.start, slot.start_bytes = trim.start, trim.bytes_before
            slot.removed = slot.removed.without_before(trim.start)
            slot.forget_transactions_before(trim.start)
            self._unsaved.mark(slot)
            self._trimmed(slot)
            slot.changed()


def _had(state: StreamState, number: int, container: int) -> bool:
    return number < state.slots and state.container_of_slot(number) == container
