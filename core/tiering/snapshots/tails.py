"""The last entries of a recovered slot, which show its idempotent writers, and transactions that came back torn. Pure.

A slot ends where its chunks end, and slots end at different moments. So a committed transaction may be there in one
slot and gone from another. The part that came back was committed, so it may be read. But the tear is reported: each
marker names other markers of its transaction with their places (`TransactionMark`), so one marker that came back shows
all that did not.

**Invariants**

- A batch is known again only if it came back: a lost batch is never answered as "stored already".
- Every writer that is known again may go on at any sequence, because its later batches are not known.
- A transaction is called torn only if it was committed, and a place that its marker names lies behind the slot's end.
  Entries that were deleted, or lie before a slot's start, are not missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from core.streams.slot_format import encode_writer
from core.streams.writers import BATCHES_KEPT, GAP, WriterBatch, gap_after, new_batch
from core.tiering.snapshots.format import WriterSnapshot

TORN_MAX: Final = 10_000
"""The most torn transactions that are named; others are counted."""


class MarkerPlace(NamedTuple):
    """The place of a transaction's marker in one of its slots."""

    stream_id: int
    slot: int
    offset: int


class TransactionMark(NamedTuple):
    """A marker's facts about its transaction. `slots`: how many have a marker; 0 when it does not say."""

    committed: bool
    ended_ms: int
    slots: int
    places: Sequence[MarkerPlace]  # its own, and some others


class EntryWriter(NamedTuple):
    """The writer of an entry. `sequence` is -1 if the entry has none."""

    writer_id: int
    epoch: int
    sequence: int
    in_transaction: bool
    mark: TransactionMark | None


EntryWriterOf = Callable[[memoryview], EntryWriter | None]
"""A reader of an entry's writer; None when it has none, or cannot be read."""


@dataclass(slots=True)
class TornTransaction:
    """A committed transaction that some slots have and others lack. `ended_ms`: -1 when it is not known."""

    writer_id: int
    epoch: int
    ended_ms: int
    slots: int  # how many it had; 0 when that is not known
    here: set[MarkerPlace] = field(default_factory=set)
    gone: set[MarkerPlace] = field(default_factory=set)  # their markers lie behind the slots' ends
    cut: set[MarkerPlace] = field(default_factory=set)  # entries from here on came back, their marker did not


class Ends:
    """The ends of all slots, and the markers that contradict them."""

    def __init__(self, streams: Iterable[int], bounds: Mapping[tuple[int, int], tuple[int, int]]) -> None:
        self._streams = frozenset(streams)
        self._bounds = bounds
        self._torn: dict[tuple[int, int, int], TornTransaction] = {}
        self._cuts: list[tuple[EntryWriter, MarkerPlace]] = []
        self.more = 0  # torn ones beyond TORN_MAX

    def marked(self, writer: EntryWriter, mark: TransactionMark) -> None:
        """Take in a marker that came back."""
        if not mark.committed:
            return  # nobody reads the entries of an aborted one
        gone = [place for place in mark.places if self._is_gone(place)]
        if not gone:
            return
        key = writer.writer_id, writer.epoch, mark.ended_ms
        torn = self._torn.get(key)
        if torn is None:
            if len(self._torn) >= TORN_MAX:
                self.more += 1
                return
            torn = self._torn[key] = TornTransaction(*key, mark.slots)
        torn.gone.update(gone)
        torn.here.update(place for place in mark.places if self._is_here(place))

    def cut(self, writer: EntryWriter, place: MarkerPlace) -> None:
        """Note that a slot ends within a committed transaction, which has entries from a place on."""
        if len(self._cuts) < TORN_MAX:
            self._cuts.append((writer, place))
        else:
            self.more += 1

    def torn(self) -> list[TornTransaction]:
        """All torn transactions, oldest first; those that only one slot shows come last."""
        found = sorted(self._torn.values(), key=lambda one: (one.ended_ms, one.writer_id, one.epoch))
        for writer, place in self._cuts:
            own = (one for one in found if (one.writer_id, one.epoch) == writer[:2])
            missing = ((gone.offset, one) for one in own for gone in one.gone if gone[:2] == place[:2])
            _, torn = min(missing, key=lambda pair: pair[0], default=(0, None))
            if torn is None:
                torn = TornTransaction(writer.writer_id, writer.epoch, -1, 0)
                found.append(torn)
            torn.cut.add(place)
        return found

    def _is_gone(self, place: MarkerPlace) -> bool:
        return place.stream_id in self._streams and place.offset >= self._bounds_of(place)[1]

    def _is_here(self, place: MarkerPlace) -> bool:
        start, end = self._bounds_of(place)
        return place.stream_id in self._streams and start <= place.offset < end

    def _bounds_of(self, place: MarkerPlace) -> tuple[int, int]:
        return self._bounds.get(place[:2], (0, 0))


class Tail:
    """The last entries of one slot, passed in order; [start, end) came back, except the parts in `lost`."""

    def __init__(
        self, place: tuple[int, int], end: int, lost: Sequence[tuple[int, int]], known: Iterable[WriterSnapshot]
    ) -> None:
        self._place = place
        self._end = end
        self._lost = lost
        self._writers: dict[int, WriterSnapshot] = {}
        self._open: dict[int, tuple[EntryWriter, int]] = {}  # by writer: its transaction's first entry here
        for writer in known:
            batches = tuple(filter(self._came_back, writer.batches))
            if batches:
                self._writers[writer.writer_id] = writer._replace(batches=batches)

    def passed(self, first: int, end: int, timestamp: int, writer: EntryWriter, now_ms: int, ends: Ends) -> None:
        """The next entry."""
        if writer.mark is not None:
            self._open.pop(writer.writer_id, None)
            ends.marked(writer, writer.mark)
        elif writer.in_transaction:
            self._open.setdefault(writer.writer_id, (writer, first))
        elif writer.sequence >= 0:
            self._wrote(new_batch(writer.epoch, writer.sequence, first, end - first, timestamp), writer, now_ms)

    def finish(self, aborted: Sequence[tuple[int, int]], ends: Ends) -> None:
        """End the pass; `aborted`: writers with the ends of their transactions, if these reach to the end."""
        for writer, first in self._open.values():
            if not any(writer_id == writer.writer_id and last >= first for writer_id, last in aborted):
                ends.cut(writer, MarkerPlace(*self._place, first))

    def writers(self) -> Iterator[bytes]:
        """The writers as they lie in a slot's value."""
        for writer_id, epoch, last_use_ms, batches in self._writers.values():
            yield encode_writer(writer_id, epoch, last_use_ms, (*batches, gap_after(batches[-1])))

    def _wrote(self, batch: WriterBatch, writer: EntryWriter, now_ms: int) -> None:
        known = self._writers.get(writer.writer_id)
        if known is None:
            self._writers[writer.writer_id] = WriterSnapshot(writer.writer_id, batch.epoch, now_ms, (batch,))
        elif batch.base > known.batches[-1].base:
            self._writers[writer.writer_id] = WriterSnapshot(
                writer.writer_id,
                max(known.epoch, batch.epoch),
                max(known.last_use_ms, now_ms),
                (*known.batches, batch)[-BATCHES_KEPT:],
            )

    def _came_back(self, batch: WriterBatch) -> bool:
        end = batch.base + batch.records
        is_lost = any(first < end and batch.base < lost_end for first, lost_end in self._lost)
        return end <= self._end and not is_lost and batch.first_sequence != GAP
