"""The slots of a container: which are here, which come and go, and which take nothing just now.

**Invariants**

- A slot that is frozen, or has left, takes no appends here, whoever holds its object.
- No log file has entries of two stays of a slot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from core.applied.tables import Table
from core.clock import Clock
from core.container.arrivals import ARRIVING_TABLE, Place
from core.container.outcomes import Outcomes, TableListener
from core.container.ports import LongTerm
from core.container.unsaved import Unsaved
from core.errors import NotHosted, SlotMoves, StorageFull, StoreError, StreamSealed
from core.index.rows import BlockRef
from core.log.durable_log import DurableLog
from core.log.files import KEPT
from core.streams.known_writers import KnownWriters
from core.streams.live import Slot, Stream
from core.streams.state import StreamState


class Residents:
    """The part of a container that knows its slots, and the outcomes of its updates."""

    log: DurableLog
    epoch: int

    def __init__(
        self,
        container_id: int,
        clock: Clock,
        known_writers: KnownWriters,
        stream_changed: Callable[[int, StreamState | None], Stream | None],
    ) -> None:
        self.id = container_id
        self.clock = clock
        self.known_writers = known_writers  # of the whole store
        self.unsaved = Unsaved()
        self.outcomes = Outcomes(
            container_id,
            self.unsaved,
            known_writers,
            stream_changed,
            self._trimmed,
            self.make_slot,
            self._slot_left,
            self._stream_left,
            _displaced,
        )
        self.streams: Mapping[int, Stream] = self.outcomes.streams
        self.tables: Mapping[str, Table] = self.outcomes.tables
        self.tier: LongTerm | None = None  # where there is long-term storage, once the store has been recovered
        self._refused: dict[Slot, str] = {}  # slots that hold too much of the log, and why nothing is appended to them
        self._frozen: dict[Slot, int] = {}  # slots that are about to leave, and the containers that are to have them
        self._barred: frozenset[Slot] = frozenset()  # all of these: appends look here alone
        self.untiered: dict[Slot, float] = {}  # since when they have something that is in no chunk, monotonic s
        self.trimmed: dict[Slot, None] = {}  # their start moved: chunks may have become free
        self.departed: dict[Place, None] = {}  # slots that have left: their runs in chunks are dead
        self._left_in: dict[Place, int] = {}  # the open log file when they left, by its first LSN
        self._streams_left_in: dict[int, int] = {}  # the same, when a stream left with its last slot

    @property
    def refused(self) -> dict[Slot, str]:
        """Slots that hold too much of the log, and why nothing is appended to them."""
        return self._refused

    @refused.setter
    def refused(self, refused: dict[Slot, str]) -> None:
        self._refused = refused
        self._barred = frozenset((*refused, *self._frozen))

    def freeze(self, slot: Slot, target: int) -> None:
        """Take nothing more for a slot that is about to leave for another container: SlotMoves. What is on its way
        comes to its end."""
        self._frozen[slot] = target
        self.refused = self._refused

    def thaw(self, slot: Slot) -> None:
        """The slot stays after all, or its stream has another object for it."""
        self._frozen.pop(slot, None)
        self.refused = self._refused

    def is_leaving(self, slot: Slot) -> bool:
        """Whether a slot is about to leave, or has left."""
        return slot in self._frozen or slot.has_moved

    def check_not_frozen(self, slot: Slot) -> None:
        """Raises SlotMoves for a slot that is about to leave or has left, NotHosted for one of another container."""
        if slot.container_id != self.id:
            raise NotHosted(self.id)
        if self.is_leaving(slot):
            raise SlotMoves(slot.stream.name, slot.number, self.id)

    def _refusal(self, slot: Slot) -> StoreError:
        if slot.stream.is_sealed:
            return StreamSealed(slot.stream.name)
        if self.is_leaving(slot):
            return SlotMoves(slot.stream.name, slot.number, self.id)
        return StorageFull(self._refused[slot])

    def slot_at(self, stream_id: int, number: int) -> Slot | None:
        """The slot of this container, or on its way into it; None if it is neither, or its stream is gone."""
        return self.outcomes.slot_at(stream_id, number)

    def all_slots(self) -> Iterator[Slot]:
        """The slots that are here, those included that arrive, or have come by a decision of which this log is still to
        hear: their streams may have other objects for them. A slot may come twice."""
        for stream in self.streams.values():
            yield from stream.slots_in(self.id)
        yield from (slot for slot in self.outcomes.beside.values() if not slot.has_moved)

    def is_here(self, slot: Slot) -> bool:
        """Whether this is the container's object for a slot that it has."""
        return self.outcomes.slot_at(slot.stream.id, slot.number) is slot

    def slot_of(self, ref: BlockRef) -> Slot | None:
        """The slot of rows of the log; None if it is gone, or if they are of an earlier stay of it."""
        slot = self.outcomes.slot_at(ref.stream_id, ref.slot)
        return None if slot is None or ref.file_lsn & ~KEPT < slot.since_lsn else slot

    def arriving(self, place: Place) -> Slot | None:
        """A slot on its way into this container, by stream and number."""
        return self.outcomes.beside.get(place)

    @property
    def arrivals(self) -> list[bytes]:
        """The keys of all arrivals that the log does not know to have ended."""
        return list(self.table(ARRIVING_TABLE).entries)

    def begin_stay(self, place: Place) -> int:
        """The first LSN of the log file from which on a slot that comes has entries here.

        No file has entries of two stays. Raises StorageFull if the next file is not ready, StorageFailure.
        """
        if self.log.file.first_lsn in (self._left_in.get(place), self._streams_left_in.get(place[0])):
            self.log.roll()
        return self.log.file.first_lsn

    def displaced(self, slot: Slot) -> None:
        """Another container has brought the stream its own object for this slot."""
        self.outcomes.displaced(slot)
        self.thaw(slot)  # only now: until then callers found this one
        slot.changed()

    def _slot_left(self, slot: Slot) -> None:
        place = slot.stream.id, slot.number
        self.untiered.pop(slot, None)
        self.trimmed.pop(slot, None)
        self.departed[place] = None
        self._left_in[place] = self.log.file.first_lsn
        if self.tier is not None:
            self.tier.promised()

    def _stream_left(self, stream_id: int) -> None:
        self._streams_left_in[stream_id] = self.log.file.first_lsn

    def on_applied(self, table: str, listener: TableListener) -> None:
        """Let a listener hear of each operation on a table from now on. It is called on the loop, or in recovery."""
        self.outcomes.on_applied(table, listener)

    def table(self, name: str) -> Table:
        """A table's applied state; empty when nothing was ever put."""
        return self.outcomes.table(name)

    def mark_dirty(self, slot: Slot) -> None:
        """Note that the slot's durable state changed since the last checkpoint."""
        self.unsaved.mark(slot)

    def mark_untiered(self, slot: Slot, age_s: float = 0.0) -> None:
        """Note that the slot has entries that are in no chunk yet; the oldest has waited for so long."""
        slot.untiered = True
        self.untiered[slot] = self.clock.monotonic_s() - age_s

    def _trimmed(self, slot: Slot) -> None:
        self.trimmed[slot] = None
        if self.tier is not None:
            self.tier.promised()

    def make_slot(self, stream: Stream, number: int) -> Slot:
        return Slot(self, stream, number)


def _displaced(slot: Slot) -> None:
    """The stream has another container's object for a slot: its owner may still have to let it go."""
    if isinstance(slot.owner, Residents):
        slot.owner.displaced(slot)
