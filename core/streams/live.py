"""Streams and their slots, as they live: a slot has the dense sequence numbers of one Kafka partition, what is durable
of it, and its watchers.

**Invariants**

- ``start <= stable_end <= durable_end <= end``. `end` is what the next append gets, `durable_end` what readers see.
- ``tiered_end <= stable_end``: what lies from `start` to there is in chunks.
- Everything here changes on the event loop only, without an await between look and change.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol
from uuid import UUID

from core.log.format import IN_TRANSACTION, MARKER
from core.streams.averages import SlotRate
from core.streams.extent import Extent
from core.streams.held_slots import HeldSlots
from core.streams.keyspace import position_of_slot, slot_at_position
from core.streams.known_writers import KnownWriters
from core.streams.markers import Marker
from core.streams.policy import StreamPolicy
from core.streams.state import Segment, StreamState
from core.streams.transactions import Aborted, SlotTransactions, overlapping
from core.streams.writers import WriterBatch, WriterState, new_batch

logger = logging.getLogger(__name__)

WRITERS_PER_STEP: Final = 200
"""Writers that one step goes through: half a millisecond where they are encoded."""


class SlotWatcher(Protocol):
    """Hears of a slot, on the event loop: a waiting fetch or a fetch session."""

    def slot_appended(self, slot: Slot, size: int) -> None:
        """`size` more bytes are durable."""

    def slot_settled(self, slot: Slot, size: int) -> None:
        """A transaction ended, and `size` more bytes lie before `stable_end`."""

    def slot_changed(self, slot: Slot) -> None:
        """The slot was deleted, trimmed, or lost its storage, or its container is not here any more."""


class Owner(Protocol):
    """A slot's needs from its container."""

    @property
    def known_writers(self) -> KnownWriters: ...

    @property
    def id(self) -> int: ...

    @property
    def epoch(self) -> int:
        """The leader epoch that new entries carry."""


class Slot(Extent):
    """One slot of one stream."""

    __slots__ = (
        "container_id",
        "dirty",
        "has_moved",
        "leader_epochs",
        "number",
        "owner",
        "rate",
        "sampled_bytes",
        "sampled_end",
        "since_lsn",
        "stream",
        "transactions",
        "untiered",
        "watchers",
        "writers",
    )

    def __init__(self, owner: Owner, stream: Stream, number: int) -> None:
        super().__init__(stream.segment_id_of(number))
        self.owner = owner
        self.container_id = owner.id
        self.stream = stream
        self.number = number
        self.untiered = False  # the container knows that it has something to tier
        self.leader_epochs: list[tuple[int, int]] = []  # (leader epoch, its first sequence number), oldest first
        self.writers: dict[int, WriterState] | None = None
        self.transactions: SlotTransactions | None = None  # None: there never were any
        self.watchers: dict[SlotWatcher, None] | None = None
        self.dirty = False
        self.has_moved = False  # the stream has another object for it, in this or another container, or will make one
        self.since_lsn = 0  # of a slot that came from another container: older log files have nothing of this stay
        self.rate: SlotRate | None = None  # None: nothing came lately
        self.sampled_bytes = 0  # `total_bytes` and `end` when the rates were taken last
        self.sampled_end = 0

    def __repr__(self) -> str:
        return f"<Slot {self.stream.name}-{self.number} [{self.start}, {self.durable_end}/{self.end})>"

    @property
    def stable_end(self) -> int:
        """Kafka's last stable offset: nothing before it belongs to an open transaction."""
        transactions = self.transactions
        if transactions is None or not transactions.unstable:
            return self.durable_end
        return max(self.start, min(self.durable_end, next(iter(transactions.unstable))))

    @property
    def stable_bytes(self) -> int:
        """Bytes of all entries that ever lay before `stable_end`."""
        transactions = self.transactions
        if transactions is not None:
            for first, unstable in transactions.unstable.items():
                if first < self.durable_end:
                    return max(self.start_bytes, unstable.bytes_before)
                break
        return self.durable_bytes

    @property
    def leader_epoch(self) -> int:
        """The epoch that Metadata advertises and new entries carry."""
        return self.owner.epoch

    @property
    def is_elsewhere(self) -> bool:
        """Another process has the slot: here it is an address, without entries."""
        return self.owner.epoch < 0

    def appended(
        self,
        base: int,
        count: int,
        length: int,
        segment_id: int,
        leader_epoch: int,
        timestamp: int,
        writer_id: int,
        writer_epoch: int,
        sequence: int,
        flags: int,
        now_ms: int,
    ) -> None:
        """The log has an entry of the slot: what that changes, in life and in replay. `durable` follows, in log order.

        `now_ms`, where the entry has a writer: when it was heard of. The writer of a marker was marked before.
        """
        self.end = base + count
        segments = self.segments
        if not segments or segments[-1].id != segment_id:
            self.begin_segment(base, segment_id)
        if flags & IN_TRANSACTION:
            self.begin_transaction(writer_id, base)
        self.total_bytes += length
        epochs = self.leader_epochs
        if not epochs or epochs[-1][0] != leader_epoch:
            epochs.append((leader_epoch, base))
        if writer_id >= 0 and not flags & MARKER:
            self.record_writer(writer_id, new_batch(writer_epoch, sequence, base, count, timestamp), now_ms)

    def durable(self, end: int, size: int) -> None:
        """An entry that ends at `end` and has this size is durable; tell all watchers."""
        self.durable_end = end
        if self.watchers is not None:
            for watcher in list(self.watchers):
                watcher.slot_appended(self, size)

    def watch(self, watcher: SlotWatcher) -> None:
        if self.watchers is None:
            self.watchers = {}
        self.watchers[watcher] = None

    def unwatch(self, watcher: SlotWatcher) -> None:
        """Stop hearing; does nothing for a stranger."""
        if self.watchers is not None:
            self.watchers.pop(watcher, None)
            if not self.watchers:
                self.watchers = None

    def changed(self) -> None:
        """Tell all watchers to look again. An error in one keeps it from no other, nor from what the caller does."""
        for watcher in list(self.watchers or ()):
            try:
                watcher.slot_changed(self)
            except Exception:
                logger.exception("a slot has changed, and telling so failed", extra={"slot": repr(self)})

    def settled(self, size: int) -> None:
        """Tell all watchers that a transaction ended."""
        for watcher in list(self.watchers or ()):
            watcher.slot_settled(self, size)

    def record_writer(self, writer_id: int, batch: WriterBatch, now_ms: int) -> None:
        """Remember a writer's batch, so that it is known when it comes again."""
        state = None if self.writers is None else self.writers.get(writer_id)
        if state is None:
            state = self._writer(writer_id, batch.epoch, now_ms)
        state.record(batch, now_ms, self.durable_end)

    def _writer(self, writer_id: int, epoch: int, now_ms: int) -> WriterState:
        """A deleted stream remembers no further one: the number of those that it knows is to be taken off the count."""
        state = None if self.writers is None else self.writers.get(writer_id)
        if state is None:
            state = WriterState(epoch, now_ms)
            if not self.stream.deleted:
                if self.writers is None:
                    self.writers = {}
                self.writers[writer_id] = state
                self.owner.known_writers.added()
        return state

    def writers_stepwise(self) -> Iterator[list[tuple[int, WriterState]]]:
        """All writers, some at a time, as they are when it is their turn; those that begin meanwhile are left out."""
        known = self.writers or {}
        ids = list(known)
        for start in range(0, max(1, len(ids)), WRITERS_PER_STEP):
            some = ids[start : start + WRITERS_PER_STEP]
            yield [(writer_id, state) for writer_id in some if (state := known.get(writer_id)) is not None]

    def forget_writers(self, writer_ids: Iterable[int]) -> None:
        """These are known no longer."""
        assert self.writers is not None
        before = len(self.writers)
        for writer_id in writer_ids:
            self.writers.pop(writer_id, None)
        self.owner.known_writers.removed(before - len(self.writers))

    # Transactions

    def has_open_transaction(self, writer_id: int) -> bool:
        """Whether the writer has begun a transaction here that no marker has ended, durable or not."""
        return self.transactions is not None and writer_id in self.transactions.open

    def begin_transaction(self, writer_id: int, base: int) -> None:
        """An entry of the writer's transaction is appended at `base`, with which the transaction may begin."""
        if self.transactions is None:
            self.transactions = SlotTransactions()
        self.transactions.began(writer_id, base, self.total_bytes)

    def mark_transaction(
        self, writer_id: int, writer_epoch: int, marker: int, now_ms: int, *, committed: bool
    ) -> Marker:
        """The writer's transaction ends with the entry at `marker`; to be told when that is durable.

        Earlier epochs are stale at once: what they still send would begin a transaction that nobody ends.
        """
        first = None if self.transactions is None else self.transactions.ending(writer_id)
        writer = self._writer(writer_id, writer_epoch, now_ms)
        writer.fence(writer_epoch, now_ms)
        return Marker(self, writer, writer_epoch, first, marker, committed)

    def forget_transactions_before(self, offset: int) -> None:
        """Nothing before `offset` is read any more, or only from chunks, which know of transactions themselves."""
        if self.transactions is not None:
            self.transactions.forget_before(offset)

    @property
    def aborted_rows(self) -> Sequence[int]:
        """Flat rows of `Aborted`. A reference keeps all that they had when it was taken."""
        return () if self.transactions is None else self.transactions.aborted

    def aborted_in(self, first: int, end: int) -> list[Aborted]:
        """Aborted transactions that overlap [first, end), as far as the log holds it."""
        return list(overlapping(self.aborted_rows, first, end))

    def end_of_epoch(self, epoch: int) -> tuple[int, int]:
        """The largest known epoch not above `epoch`, and where it ends; (-1, -1) when unknown (KIP-320)."""
        if epoch < 0 or epoch > self.leader_epoch:
            return -1, -1
        if epoch == self.leader_epoch or not self.leader_epochs:  # never written: nothing was lost either
            return epoch, self.durable_end
        if epoch < self.leader_epochs[0][0]:
            return epoch, self.leader_epochs[0][1]
        known = max(index for index, (own, _) in enumerate(self.leader_epochs) if own <= epoch)
        end = self.leader_epochs[known + 1][1] if known + 1 < len(self.leader_epochs) else self.durable_end
        return self.leader_epochs[known][0], end

    def epoch_at(self, offset: int) -> int:
        """The leader epoch in which the entry at `offset` was appended, or would be."""
        if offset >= self.durable_end:
            return self.leader_epoch
        return max((own for own, first in self.leader_epochs if first <= offset), default=self.leader_epoch)


class Stream:
    """A live stream: its state, its slots as they are written, and what the gateway keeps beside it."""

    __slots__ = (
        "_held",
        "_make_slot",
        "changing",
        "deleted",
        "extension",
        "is_sealed",
        "logged",
        "policy",
        "state",
    )

    def __init__(self, state: StreamState, policy: StreamPolicy, make_slot: Callable[[Stream, int], Slot]) -> None:
        self.state = state
        self.logged = state  # the newest that the log was given: what appends go by
        self.is_sealed = state.is_sealed  # of `logged`: it takes no more entries
        self.policy = policy
        self.deleted = False
        self.changing = asyncio.Lock()  # held while a change of the state is on its way to the log
        self.extension: Any = None
        self._held: HeldSlots[Slot] = HeldSlots(is_spread=state.is_elsewhere)
        self._make_slot = make_slot

    def __repr__(self) -> str:
        return f"<Stream {self.state.id} {self.name!r} {self.slot_count} slots{' deleted' if self.deleted else ''}>"

    @property
    def id(self) -> int:
        return self.state.id

    @property
    def name(self) -> str:
        return self.state.name

    @property
    def uuid(self) -> UUID:
        return self.state.uuid

    @property
    def slot_count(self) -> int:
        return self.state.slots

    @property
    def config(self) -> Mapping[str, str]:
        return self.state.config

    @property
    def created_ms(self) -> int:
        return self.state.created_ms

    def slot(self, number: int) -> Slot:
        """The slot of that number. Raises IndexError when the stream has no such slot."""
        found = self._held.by_number.get(number)
        if found is not None:
            return found
        if not 0 <= number < self.state.slots:
            raise IndexError(f"stream {self.name!r} has no slot {number}")
        made = self._make_slot(self, number)
        self._held.put(made)
        return made

    def known_slot(self, number: int) -> Slot | None:
        """The slot of that number, if it was ever written or asked for."""
        return self._held.by_number.get(number)

    def written_slots(self) -> Iterator[Slot]:
        """The slots that memory holds, in all containers: each one that was ever written or asked for."""
        return iter(self._held.by_number.values())

    def slots_in(self, container_id: int) -> Iterator[Slot]:
        """Those of them that lie in a container. One that a slot only arrives in has none."""
        if not self._held.is_spread and container_id != self.logged.container:
            return iter(())
        return self._held.in_container(container_id)

    def forget_slots(self, container_id: int) -> list[Slot]:
        """A container comes or goes: what memory holds of its slots is not theirs any more. Returns them."""
        moved = self._held.take(container_id)
        for slot in moved:
            slot.has_moved = True
        return moved

    def adopt(self, slot: Slot) -> list[Slot]:
        """A container has this slot: it was opened, or the slot has come to it, or stays in it after all. Returns the
        object that was in its place, if there was one."""
        slot.stream, slot.has_moved = self, False
        before = self._held.put(slot)
        if before is None:
            return []
        before.has_moved = True
        return [before]

    def segment_bytes(self, segment: Segment) -> int:
        """The bytes and entries that were appended to an active segment."""
        places = range(segment.first, segment.last)
        slots = (self.known_slot(slot_at_position(place, self.slot_count)) for place in places)
        return sum(slot.appended_to(segment.number) for slot in slots if slot is not None)

    def go_by(self, state: StreamState, container_id: int) -> None:
        """From here on appends lie behind this state in the log of a container. An older copy changes nothing."""
        if state.is_behind(self.logged, container_id):
            return
        is_cut_again = state.epochs is not self.logged.epochs
        self.logged = state
        self.is_sealed = state.is_sealed
        if not self._held.is_spread and state.is_elsewhere:  # it has grown into other containers
            self._held.spread(self.state.container)
        if is_cut_again and self._held.is_spread:
            self._forget_addresses(state)
        if is_cut_again or self._held.is_spread:
            for slot in self.slots_in(container_id):
                slot.segment_id = self.segment_id_of(slot.number)

    def _forget_addresses(self, state: StreamState) -> None:
        """Slots of other processes may lie in other containers now."""
        for slot in list(self._held.by_number.values()):
            if slot.is_elsewhere and state.container_of_slot(slot.number) != slot.container_id:
                slot.has_moved = True
                self._held.remove(slot)

    def forget_left(self, known: Collection[int]) -> list[Slot]:
        """Forget slots that have left for containers which are not known here, and so bring no objects in their
        place. Returns them."""
        left = [
            slot
            for slot in self._held.by_number.values()
            if slot.has_moved and self.logged.container_of_slot(slot.number) not in known
        ]
        for slot in left:
            self._held.remove(slot)
        return left

    def segment_id_of(self, number: int) -> int:
        """The active segment that owns a slot, as of what the log takes next."""
        epoch = self.logged.current
        return epoch.segment_id(epoch.segment_at(position_of_slot(number, epoch.slots)))
