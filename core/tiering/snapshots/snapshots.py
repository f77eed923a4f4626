"""Metadata snapshots in long-term storage, from which a store that lost its disk begins. Their bytes are described in
`core.tiering.snapshots.format`.

A snapshot has all resident tables, and the facts about each slot that its chunks lack: its place, and its idempotent
writers. It is taken when something has changed:

- As a rule, at most every `tier2_snapshot_interval_ms`.
- Sooner if the log or an object waits for it, but at least `HURRY_S` after the last one.
- Soon after something was deleted, or a stream was made or changed, because a recovery from an older snapshot would
  undo an answer to a client. These take a bounded share of the time (`SOON_S`, `SOON_COST`).

A snapshot says "everything up to this LSN is in here", and reads the LSN first. Tables are copied in one turn of the
event loop, slots and writers in slices over several turns. So a slot may be newer than the LSN and the tables. That
does no harm:

- Starts and ends only rise.
- Recovery asks the chunks for the end of a slot, and for the batches of a writer that are there.
- A missing stream was made after the LSN, and is adopted from its chunks. Its slots are left out of the snapshot.

**Invariants**

- `covered_lsn` moves only after the storage has acknowledged the snapshot, it was looked at, and none is newer, so that
  a recovery would begin with it. Anything else is a failed snapshot.
- Everything in a snapshot was synced before, so a batch of a writer in it lies at its place for good.
- The newest `KEPT` of this container's snapshots stay, and those newer than our own; only older ones are deleted. If
  there is no room for a new one, older ones make way, and one stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple

from core.applied.tables import StoredTable
from core.background import Background
from core.container.arrivals import ARRIVING_TABLE
from core.errors import StorageFailure, TierUnavailable
from core.streams.writers import BATCHES_KEPT, GAP, WriterBatch
from core.tiering.snapshots.format import (
    SlotSnapshot,
    Snapshot,
    SnapshotId,
    WriterSnapshot,
    encode_snapshot,
    parse_snapshot_key,
    snapshot_key,
    snapshot_prefix,
)
from tier2.storage import Buffer, NoRoom, StorageError

if TYPE_CHECKING:
    from core.container.container import Container
    from core.streams.live import Slot
    from core.tiering.context import LongTermStorage

logger = logging.getLogger(__name__)

KEPT: Final = 3
HURRY_S: Final = 1.0
"""The least time between two snapshots that somebody waits for."""
SOON_S: Final = 5.0
"""The least time between two snapshots that follow a deletion. Nobody waits for them, and each is a put."""
SOON_COST: Final = 20
"""They also wait for this many times the duration of the last one, so they take five percent of the time at most."""
RETRY_S: Final = 5.0
STOP_S: Final = 3.0
"""How long a stop waits for a last snapshot: without it, group offsets are lost with the disk, nothing else."""
SLICE_SLOTS: Final = 1000
"""The most slots that one turn of the event loop looks at: about a millisecond."""
SLICE_WRITERS: Final = 1000
"""The most writers that one turn looks at: about a millisecond."""
WRITERS_MAX: Final = 1_000_000
"""The most writers in one snapshot. Others are left out: their batch is stored twice if it comes again."""


class SnapshotUnused(TierUnavailable):
    """No recovery would begin with the snapshot that was taken or due."""


@dataclass(slots=True)
class SnapshotCounters:
    """Counters since the start, for the operator."""

    taken: int = 0
    failures: int = 0  # including those that a recovery would not begin with
    bytes: int = 0  # of the last one
    taken_s: float | None = None  # when the last one was acknowledged, monotonic


class Snapshots:
    """The snapshots of one container."""

    def __init__(self, container: Container, long_term: LongTermStorage) -> None:
        self._container = container
        self._storage = long_term.storage
        self._cluster_id = long_term.cluster_id
        self._private = long_term.private
        self._interval_s = container.config.tier2_snapshot_interval_ms / 1000
        self.covered_lsn = 0
        self.counters = SnapshotCounters()
        self.last_error: str | None = None  # None when the last one went well
        self.lacks_room = False  # whether long-term storage had no room for the last one
        self._woken = asyncio.Event()  # set when the due time of the next one has changed
        self._is_wanted = True  # somebody waits: at first for the log that a start finds
        self._is_due_soon = False
        self._taking = asyncio.Lock()
        self._last_s = -SOON_S  # when one was begun
        self._took_s = 0.0
        self._background = Background(
            "metadata snapshots",
            container.id,
            self._step,
            retry_s=min(RETRY_S, self._interval_s),
            first_s=self._interval_s,
            wait=self._until_due,
        )

    def __repr__(self) -> str:
        return f"<Snapshots of container {self._container.id} up to LSN {self.covered_lsn}, {self.counters}>"

    def start(self) -> None:
        self._background.start()

    async def stop(self, *, last: bool = True) -> None:
        """End, with a last snapshot if one is wanted, something is new and long-term storage answers soon."""
        if not self._background.is_started:
            return
        await self._background.stop()
        if not last:
            return
        try:
            async with asyncio.timeout(STOP_S):
                await self.take()
        except (TimeoutError, StorageFailure, StorageError, TierUnavailable) as error:
            logger.warning("there is no last metadata snapshot", extra={"reason": str(error) or "no time is left"})

    def request(self) -> None:
        """Note that somebody waits for a snapshot."""
        self._is_wanted = True
        self._woken.set()

    def covers(self, lsn: int) -> bool:
        """Whether a snapshot in long-term storage reflects the log up to here. If not, this asks for one."""
        if self.covered_lsn >= lsn:
            return True
        self.request()
        return False

    def promised(self) -> None:
        """Note a change that a recovery should not undo."""
        self._is_due_soon = True
        self._woken.set()

    async def _step(self) -> float:
        self._last_s = asyncio.get_running_loop().time()
        await self.take()
        return self._interval_s

    async def _until_due(self, pause_s: float) -> None:
        loop = asyncio.get_running_loop()
        latest = loop.time() + pause_s
        while (left := min(latest, self._due_s()) - loop.time()) > 0:
            self._woken.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._woken.wait()
        self._is_wanted = self._is_due_soon = False

    def _due_s(self) -> float:
        """The time when the next one is due before its interval is over."""
        if self._is_wanted:
            return self._last_s + HURRY_S
        if self._is_due_soon:
            return self._last_s + max(SOON_S, SOON_COST * self._took_s)
        return math.inf

    async def take(self) -> None:
        """Bring long-term storage up to date, if anything has changed.

        Raises StorageError, SnapshotUnused, StorageFailure.
        """
        async with self._taking:
            if self._container.applied_lsn <= self.covered_lsn:
                return
            try:
                await self._take()
                self.last_error, self.lacks_room = None, False
            except Exception as error:
                self.counters.failures += 1
                self.last_error, self.lacks_room = str(error), isinstance(error, NoRoom)
                raise

    async def _take(self) -> None:
        clock = self._container.clock
        began_s = clock.monotonic_s()
        snapshot, writers = await self._capture()
        known = await self._known()
        if known and known[-1] > snapshot.id:
            raise SnapshotUnused(
                "long-term storage has a metadata snapshot of a later life of this store, with which a recovery would "
                f"begin: {snapshot_key(self._container.id, known[-1])}. Start the gateway once more: it rises above it"
            )
        await self._container.log.synced(self._container.applied_lsn)
        data = await asyncio.to_thread(_encoded, snapshot, writers)
        older = [one for one in known if one < snapshot.id]
        await self._put(snapshot, data, older)
        self.covered_lsn = snapshot.id.lsn
        self.counters.taken += 1
        self.counters.bytes = sum(map(len, data))
        self.counters.taken_s = clock.monotonic_s()
        self._took_s = self.counters.taken_s - began_s
        try:
            await self._delete(older[: -(KEPT - 1)])
        except StorageError as error:
            logger.warning("older metadata snapshots stay for now", extra={"reason": str(error)})

    async def _put(self, snapshot: Snapshot, data: list[Buffer], older: list[SnapshotId]) -> None:
        """Put it and look at it. If need be, older ones but the newest make way, and leave `older`."""
        try:
            await self._storage.put(snapshot.key, data)
        except NoRoom:
            if len(older) < 2:
                raise
            await self._delete(older[:-1])
            del older[:-1]
            await self._storage.put(snapshot.key, data)
        seen = await self._storage.stat(snapshot.key)
        if seen is None or seen.size != sum(map(len, data)):
            raise SnapshotUnused(f"{snapshot.key} was put with {sum(map(len, data))} bytes and is not there: {seen}")

    async def _known(self) -> list[SnapshotId]:
        """The snapshots of this container, oldest first."""
        found = [parse_snapshot_key(info.key) async for info in self._storage.list(snapshot_prefix(self._container.id))]
        return sorted(one[1] for one in found if one is not None)

    async def _capture(self) -> tuple[Snapshot, dict[int, list[_Writer]]]:
        """A snapshot without writers, and the writers by the slot's number in it."""
        container = self._container
        snapshot_id = SnapshotId(container.epoch, container.applied_lsn)
        tables = {
            name: dict(table.entries)
            for name, table in container.tables.items()
            if not isinstance(table, StoredTable) and name not in self._private and name != ARRIVING_TABLE
        }
        slots: list[SlotSnapshot] = []
        writers: dict[int, list[_Writer]] = {}
        room = WRITERS_MAX
        yield_at = SLICE_SLOTS
        for slot in _slots_of(container):
            if not container.outcomes.owns((slot.stream.id, slot.number)) or not container.is_here(slot):
                continue
            slots.append(_slot_snapshot(slot))  # before its writers: they may be newer than its end
            if slot.writers and room > 0:
                found = writers[len(slots) - 1] = await _capture_writers(slot, room)
                room -= len(found)
                yield_at -= len(found) * SLICE_SLOTS // SLICE_WRITERS
            if len(slots) >= yield_at:
                yield_at = len(slots) + SLICE_SLOTS
                await asyncio.sleep(0)
        if room <= 0:
            logger.warning("a metadata snapshot leaves writers out", extra={"writers": WRITERS_MAX})
        snapshot = Snapshot(
            container=container.id,
            id=snapshot_id,
            created_ms=container.clock.wall_ms(),
            cluster_id=self._cluster_id,
            tables=tables,
            slots=slots,
        )
        return snapshot, writers

    async def _delete(self, old: list[SnapshotId]) -> None:
        """Delete snapshots; those that stay are deleted after the next one. Raises StorageError."""
        for snapshot_id in old:
            await self._storage.delete(snapshot_key(self._container.id, snapshot_id))


class _Writer(NamedTuple):
    """A writer as it was at a moment at which everything before `durable_end` was durable."""

    writer_id: int
    marked_epoch: int
    last_use_ms: int
    batches: tuple[WriterBatch, ...]
    durable_end: int


async def _capture_writers(slot: Slot, count_max: int) -> list[_Writer]:
    """The writers of a slot, slice by slice."""
    known = slot.writers or {}
    ids = list(known)[:count_max]
    found: list[_Writer] = []
    for start in range(0, len(ids), SLICE_WRITERS):
        if start:
            await asyncio.sleep(0)
        durable = slot.durable_end
        found += [
            _Writer(writer_id, state.marked_epoch, state.last_use_ms, tuple(state.batches), durable)
            for writer_id in ids[start : start + SLICE_WRITERS]
            if (state := known.get(writer_id)) is not None
        ]
    return found


def _encoded(snapshot: Snapshot, writers: Mapping[int, Sequence[_Writer]]) -> list[Buffer]:
    """The snapshot's object, made in a thread: there may be a million writers."""
    durable = {
        number: [known for known in map(_writer_snapshot, captured) if known.batches]
        for number, captured in writers.items()
    }
    return encode_snapshot(replace(snapshot, writers={number: known for number, known in durable.items() if known}))


def _writer_snapshot(writer: _Writer) -> WriterSnapshot:
    durable = (batch for batch in writer.batches if batch.base < writer.durable_end and batch.first_sequence != GAP)
    batches = tuple(durable)[-BATCHES_KEPT:]
    epoch = max([writer.marked_epoch, *(batch.epoch for batch in batches[-1:])])
    return WriterSnapshot(writer.writer_id, epoch, writer.last_use_ms, batches)


def _slots_of(container: Container) -> Iterator[Slot]:
    """The slots of a container, each once, whatever comes or goes meanwhile; also those that their streams have another
    object for: a decision that they leave is on its way, and may come to nothing."""
    given: set[Slot] = set()
    for stream in list(container.streams.values()):
        found = list(stream.slots_in(container.id))
        given.update(found)
        yield from found
    yield from [slot for slot in container.outcomes.beside.values() if slot not in given]


def _slot_snapshot(slot: Slot) -> SlotSnapshot:
    return SlotSnapshot(
        slot.stream.id,
        slot.number,
        slot.start,
        slot.start_bytes,
        slot.durable_end,
        slot.tiered_end,
        slot.tiered_bytes,
        tuple(slot.leader_epochs),
    )
