"""Moves entries from the log into chunks, in the background.

A segment is due when it has `chunk_bytes` that are in no chunk, and when it is sealed. When something is older than
`chunk_age_ms`, all that is at least half as old goes in one round, many slots in one object: so rounds by age cost at
most two puts a minute times 60,000 / `chunk_age_ms`, plus one for each `chunk_bytes` or `RUNS_MAX` slots, however many
slots there are. A log that is half full takes everything, every `PRESSURE_PAUSE_S`.

**Invariants**

- Order: intent logged, object put, object looked at, commit logged. A crash between leaves an intent that is abandoned.
- Chunks of a slot are committed in the order of its sequence numbers, though several are uploaded at a time.
- Nothing is put that the log has not synced.
- What a chunk holds stays in the log until the chunk has been looked at once more, `tier2_verify_delay_ms` after its
  commit or the start: a store may lose an object that it has just acknowledged. One that is missing then is put again.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Final

from core.errors import OutOfRange, StorageFailure, StorageFull, StoreError, TierUnavailable
from core.log.records import Delete, Operation, Put
from core.tiering.backlog import Backlog, Piece, backlogs_of, cut_segment, entries, pack
from core.tiering.pacing import Pace
from core.tiering.rows import CHUNKS_TABLE, PENDING_TABLE, RUNS_TABLE, ChunkRow, ChunkState, RunRow, chunk_key, run_key
from tier2.chunk import ChunkWriter, Entry, RunSource
from tier2.chunk_format import ChunkId, ChunkIndex, SegmentRef, StreamRef
from tier2.storage import ObjectStat, StorageError

if TYPE_CHECKING:
    from core.container import Container
    from core.slot import Slot
    from core.tiering.tier import Tier

logger = logging.getLogger(__name__)

TICK_S: Final = 1.0
PRESSURE_PAUSE_S: Final = 5.0
SLICE_SLOTS: Final = 2000
"""Slots that one turn of the event loop looks at: about a millisecond."""
PACED_BYTES: Final = 256 << 10
"""A piece is made in steps of so many bytes, at the pace of what comes in."""
LOOK_COST: Final = 50
"""All slots that wait are looked at again after this many times as long as it took: two percent of a core at most."""
PAUSE_MAX_S: Final = 15.0
CONFIRMED_AT_ONCE: Final = 16
"""Chunks that one record says are verified: a row lists up to `RUNS_MAX` runs."""
COMPLAIN_EVERY_S: Final = 60.0


@dataclass(slots=True)
class Counters:
    """What the writer has done since the start, for the operator."""

    chunks: int = 0
    bytes: int = 0
    failures: int = 0
    put_again: int = 0
    rounds: int = 0


@dataclass(eq=False, slots=True)
class _Upload:
    """One chunk on its way."""

    pieces: Sequence[Piece]
    before: Sequence[asyncio.Task[bool]]  # chunks that hold what precedes these pieces
    replaces: ChunkRow | None = None  # a chunk whose object was lost


class StorageWriter:
    """The storage writer of one container."""

    def __init__(self, tier: Tier) -> None:
        self._tier = tier
        self._container: Container = tier.container
        self._long_term = tier.long_term
        self._config = tier.container.config
        self._clock = tier.container.clock
        self._pace = Pace()
        self._wake = asyncio.Event()
        self._room = asyncio.Semaphore(self._config.tier2_uploads)
        self._planned: dict[Slot, tuple[int, int, asyncio.Task[bool]]] = {}  # end, bytes before it, the newest chunk
        self._tasks: set[asyncio.Task[bool]] = set()
        self._verify_at: dict[ChunkId, float] = {}
        self._pressed_at = 0.0
        self._look_at = 0.0
        self._complained_at = -COMPLAIN_EVERY_S
        self._task: asyncio.Task[None] | None = None
        self.counters = Counters()
        self.untiered_bytes = 0  # as of the last look
        self.last_error: str | None = None  # of long-term storage; None when the last call went well

    def __repr__(self) -> str:
        return f"<StorageWriter {self._container.id}: {len(self._tasks)} uploads, {self.counters}>"

    @property
    def uploading(self) -> int:
        """Chunks that are on their way."""
        return len(self._tasks)

    async def start(self) -> None:
        """Abandon what an earlier run left, then begin. Raises StoreError."""
        now_ms = self._clock.wall_ms()
        left = [
            _put(replace(row, state=ChunkState.ABANDONED, changed_ms=now_ms))
            for row in self._container.catalog.pending
            if row.state is ChunkState.INTENT
        ]
        if left:
            await self._container.update(*left)
        for stream in self._container.streams.values():
            for slot in stream.written_slots():
                if slot.durable_end > slot.untiered_from[0] and not slot.untiered:
                    self._container.mark_untiered(slot)
        self._task = asyncio.create_task(self._run(), name=f"storage-writer-{self._container.id}")

    async def stop(self) -> None:
        """End; what is on its way is abandoned by the next start."""
        tasks = [task for task in (self._task, *self._tasks) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._task = None

    def wake(self) -> None:
        """Something may be due."""
        self._wake.set()

    async def _run(self) -> None:
        tick_s = min(TICK_S, self._config.chunk_age_ms / 4000)
        while True:
            try:
                async with asyncio.timeout(tick_s):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            try:
                self._pace.observe(self._container.appended_bytes, hurry=self._tier.is_pressed)
                if self._clock.monotonic_s() >= self._look_at:
                    await self._plan()
                await self._verify()
            except StorageFailure:
                return  # the log is poisoned: the process is ending
            except StorageError as error:
                self._failed(error, "chunks cannot be looked at")
                await asyncio.sleep(tick_s)
            except StoreError as error:
                logger.warning("tiering will be tried again", extra={"reason": str(error)})
                await asyncio.sleep(tick_s)
            except Exception:
                logger.exception("tiering failed and will be tried again")
                await asyncio.sleep(PAUSE_MAX_S)

    # What is due

    async def _plan(self) -> None:
        if len(self._tasks) >= 2 * self._config.tier2_uploads:
            return
        now, container = self._clock.monotonic_s(), self._container
        began = time.perf_counter()
        waiting, sealed, oldest = await self._waiting()
        self._look_at = now + LOOK_COST * (time.perf_counter() - began)
        await self._start_sealed(sealed)
        rest: list[Slot] = []
        for slots, size in waiting.values():
            if size >= self._config.chunk_bytes:
                await self._start(slots, by_age=False)
            else:
                rest += slots
        if self._tier.is_pressed and now >= self._pressed_at + PRESSURE_PAUSE_S:
            self._pressed_at = now
            await self._start(rest, by_age=True)
        elif now - oldest >= (age_s := self._config.chunk_age_ms / 1000):
            await self._start([s for s in rest if now - container.untiered.get(s, now) >= age_s / 2], by_age=True)

    async def _waiting(self) -> tuple[dict[tuple[int, int], tuple[list[Slot], int]], list[Slot], float]:
        """What there is to tier: slots and about how many bytes, by stream and segment; slots of which a part lies in
        sealed segments; since when the oldest waits."""
        container = self._container
        sealed: list[Slot] = []
        oldest = self._clock.monotonic_s()
        slots_of: dict[tuple[int, int], list[Slot]] = {}
        size_of: dict[tuple[int, int], int] = {}
        untiered = list(container.untiered.items())
        for start in range(0, len(untiered), SLICE_SLOTS):
            for slot, since in untiered[start : start + SLICE_SLOTS]:
                first, before = self._place_of(slot)
                if slot.stream.deleted or first >= slot.stable_end:
                    if slot not in self._planned and container.untiered.pop(slot, None) is not None:
                        slot.untiered = False
                    continue
                segment = slot.stream.id, slot.segment_id
                slots_of.setdefault(segment, []).append(slot)
                if slot.stream.is_sealed or slot.segment_at(first)[0] != slot.segment_id:
                    sealed.append(slot)
                size_of[segment] = size_of.get(segment, 0) + slot.total_bytes - before
                oldest = min(oldest, since)
            await asyncio.sleep(0)
        self.untiered_bytes = sum(size_of.values())
        return {segment: (slots, size_of[segment]) for segment, slots in slots_of.items()}, sealed, oldest

    def _place_of(self, slot: Slot) -> tuple[int, int]:
        """Where what waits begins: behind what is in chunks or on its way there."""
        first, before = slot.untiered_from
        planned = self._planned.get(slot)
        return (first, before) if planned is None or planned[0] <= first else planned[:2]

    def _backlogs(self, slot: Slot) -> Iterator[Backlog]:
        """Of each segment that the slot was appended to, oldest first."""
        return backlogs_of(slot, *self._place_of(slot))

    async def _start_sealed(self, slots: Sequence[Slot]) -> None:
        """What is left of sealed segments is due at once."""
        backlogs = [backlog for slot in slots for backlog in self._backlogs(slot)]
        await self._start_whole([b for b in backlogs if b.slot.stream.is_sealed or b.segment_id != b.slot.segment_id])

    async def _start(self, slots: Sequence[Slot], *, by_age: bool) -> None:
        """Cut the oldest backlogs into chunks and begin to upload them."""
        backlogs = [backlog for slot in slots for backlog in islice(self._backlogs(slot), 1)]
        if by_age:
            self.counters.rounds += bool(slots)
            await self._start_whole(backlogs)
            return
        container, chunk_bytes = self._container, self._config.chunk_bytes
        await container.log.synced(container.applied_lsn)
        self._begin(
            await container.catalog.run(lambda: cut_segment(container.reader, backlogs, chunk_bytes, whole=False))
        )

    async def _start_whole(self, backlogs: list[Backlog]) -> None:
        """Pack backlogs into chunks, all of them, and begin to upload those."""
        if backlogs:
            container = self._container
            backlogs.sort(key=lambda backlog: (backlog.slot.stream.id, backlog.segment_id, backlog.slot.number))
            await container.log.synced(container.applied_lsn)
            self._begin(await container.catalog.run(pack, backlogs, self._config.chunk_bytes))

    def _begin(self, chunks: Sequence[list[Piece]]) -> None:
        container = self._container
        now = self._clock.monotonic_s()
        for pieces in chunks[: 2 * self._config.tier2_uploads]:
            before = dict.fromkeys(self._planned[p.slot][2] for p in pieces if p.slot in self._planned)
            task = asyncio.create_task(self._upload(_Upload(pieces, tuple(before))), name="chunk upload")
            self._tasks.add(task)
            for piece in pieces:
                self._planned[piece.slot] = piece.end, piece.bytes_before + piece.size, task
                if piece.slot in container.untiered:
                    container.untiered[piece.slot] = now  # what is left came later
            task.add_done_callback(self._upload_done)

    def _upload_done(self, task: asyncio.Task[bool]) -> None:
        self._tasks.discard(task)
        for slot in [slot for slot, planned in self._planned.items() if planned[2] is task]:
            del self._planned[slot]
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a chunk was given up and will be made anew", exc_info=error)
        self._wake.set()

    # One chunk

    async def _upload(self, upload: _Upload) -> bool:
        """Put one chunk and commit it. False when it was given up: what it was to hold is cut anew."""
        async with self._room:
            chunk_id = await self._intend()
            try:
                writer, stat = await self._put(chunk_id, upload)
            except (StoreError, ValueError) as error:
                # What the log held was deleted meanwhile, or is damaged.
                log = logger.info if isinstance(error, OutOfRange) else logger.error
                log("a chunk was given up", extra={"chunk": chunk_key(chunk_id), "reason": str(error)})
                await self._abandon(chunk_id)
                return False
            except Exception:
                await self._abandon(chunk_id)
                raise
        earlier = await asyncio.gather(*upload.before, return_exceptions=True)
        if any(done is not True for done in earlier):
            await self._abandon(chunk_id)
            return False
        return await self._commit(chunk_id, upload, writer, stat)

    async def _intend(self) -> ChunkId:
        while True:
            container = self._container
            now_ms = self._clock.wall_ms()
            chunk_id = ChunkId(container=container.id, epoch=container.epoch, sequence=container.log.next_lsn)
            row = ChunkRow(id=chunk_id, state=ChunkState.INTENT, created_ms=now_ms, changed_ms=now_ms)
            try:
                await container.update(_put(row))
                return chunk_id
            except StorageFull:
                await asyncio.sleep(TICK_S)

    async def _put(self, chunk_id: ChunkId, upload: _Upload) -> tuple[ChunkWriter, ObjectStat]:
        """Put and look at it, as often as it takes. Raises StoreError when the entries cannot be read."""
        storage, key = self._long_term.storage, chunk_key(chunk_id)
        pause = 0.5
        while True:
            body = _Body(self._container, upload.pieces, self._pace)
            writer = ChunkWriter(chunk_id, self._long_term.cluster_id, self._clock.wall_ms(), body.sources())
            try:
                stat = await storage.put(key, writer)
                seen = await storage.stat(key)
                if seen is not None and seen.size == writer.size == stat.size:
                    self.last_error = None
                    return writer, stat
                raise TierUnavailable(f"{key} was put with {stat.size} bytes and is not there: {seen}")
            except (StorageError, TierUnavailable) as error:
                if body.failure is not None:
                    raise body.failure from error
                self._failed(error, "a chunk could not be put and will be put again")
            except Exception as error:
                if body.failure is not None:
                    raise body.failure from error
                raise
            await asyncio.sleep(random.uniform(pause / 2, pause))
            pause = min(PAUSE_MAX_S, pause * 2)

    async def _commit(self, chunk_id: ChunkId, upload: _Upload, writer: ChunkWriter, stat: ObjectStat) -> bool:
        index = writer.index
        assert index is not None
        # In a thread, as there may be thousands.
        made = await self._container.catalog.run(
            lambda: [(row, _put_run(row)) for row in _run_rows(chunk_id, upload.pieces, index)]
        )
        while True:
            now_ms = self._clock.wall_ms()
            live = [one for one in made if self._is_live(one[0])]
            rows = [row for row, _ in live]
            if not rows:
                await self._abandon(chunk_id)
                return True
            chunk = ChunkRow(
                id=chunk_id,
                state=ChunkState.COMMITTED,
                created_ms=index.created_ms,
                changed_ms=now_ms,
                size=writer.size,
                etag=stat.etag,
                live_bytes=sum(row.length for row in rows),
                runs=tuple(row.listed for row in rows),
            )
            operations = [*_replaced(upload.replaces, now_ms), _put(chunk)]
            operations += (put for _, put in live)
            try:
                async with self._tier.changing:
                    await self._container.update(*operations)
                break
            except StorageFull:
                await asyncio.sleep(TICK_S)
        if not all(map(self._is_live, rows)):  # died since: nobody would come to look
            self._tier.collector.look_again()
        self.counters.chunks += 1
        self.counters.bytes += writer.size
        self._verify_at[chunk_id] = self._clock.monotonic_s() + self._config.tier2_verify_delay_ms / 1000
        return True

    def _is_live(self, row: RunRow) -> bool:
        stream = self._container.streams.get(row.stream_id)
        return stream is not None and not stream.deleted and stream.slot(row.slot).start < row.end

    async def _abandon(self, chunk_id: ChunkId) -> None:
        now_ms = self._clock.wall_ms()
        row = ChunkRow(id=chunk_id, state=ChunkState.ABANDONED, created_ms=now_ms, changed_ms=now_ms)
        try:
            await self._container.update(_put(row))
        except StorageFull:
            return  # the next start abandons it

    # Looking once more

    async def _verify(self) -> None:
        now = self._clock.monotonic_s()
        delay_s = self._config.tier2_verify_delay_ms / 1000
        due = [
            row
            for row in self._container.catalog.pending
            if row.state is ChunkState.COMMITTED and self._verify_at.setdefault(row.id, now + delay_s) <= now
        ]
        whole: list[ChunkRow] = []
        for row in due:
            stat = await self._long_term.storage.stat(chunk_key(row.id))
            if stat is not None and stat.size == row.size and stat.etag == row.etag:
                whole.append(row)
            else:
                await self._put_again(row)
        await self._confirm(whole)

    async def _confirm(self, rows: Sequence[ChunkRow]) -> None:
        """What was looked at twice is verified."""
        for start in range(0, len(rows), CONFIRMED_AT_ONCE):
            operations: list[Operation] = []
            async with self._tier.changing:
                for seen in rows[start : start + CONFIRMED_AT_ONCE]:
                    row = self._container.catalog.pending_chunk(seen.id)  # runs of it may have died meanwhile
                    if row is not None and row.state is ChunkState.COMMITTED:
                        verified = replace(row, state=ChunkState.VERIFIED, changed_ms=self._clock.wall_ms())
                        operations += (Delete(PENDING_TABLE, row.key), Put(CHUNKS_TABLE, row.key, verified.encode()))
                if operations:
                    await self._container.update(*operations)
            for seen in rows[start : start + CONFIRMED_AT_ONCE]:
                self._verify_at.pop(seen.id, None)

    async def _put_again(self, row: ChunkRow) -> None:
        """Its entries are still in the log: they go into another chunk, because readers know what was in this one."""
        logger.warning(
            "an object that was acknowledged is gone or has changed: it is put again",
            extra={"chunk": chunk_key(row.id)},
        )
        pieces: list[Piece] = []
        for run in row.runs:
            stream = self._container.streams.get(run.stream_id)
            found = await self._container.catalog.run_at(run.stream_id, run.slot, run.first)
            if stream is None or found is None or found.chunk != row.id:
                continue
            slot = stream.slot(run.slot)
            first = max(found.first, slot.start)
            if first < found.end:
                before = found.bytes_before if first == found.first else slot.start_bytes
                pieces.append(Piece(slot, found.segment_id, first, found.end, before, found.appended))
        if pieces:  # else it is the collector's
            pieces.sort(key=lambda piece: piece.place)
            self.counters.put_again += 1
            await self._upload(_Upload(pieces, (), row))

    def _failed(self, error: Exception, what: str) -> None:
        self.counters.failures += 1
        self.last_error = str(error)
        now = self._clock.monotonic_s()
        if now >= self._complained_at + COMPLAIN_EVERY_S:
            self._complained_at = now
            logger.error(what, extra={"error": str(error)})


class _Entries:
    """A piece's entries, begun anew each time they are put."""

    def __init__(self, container: Container, piece: Piece, body: _Body, pace: Pace) -> None:
        self._container = container
        self._piece = piece
        self._body = body
        self._pace = pace

    def __call__(self) -> Iterator[Entry]:
        try:
            made = 0
            for entry in entries(self._container.reader, self._piece):
                made += len(entry.payload)
                if made >= PACED_BYTES:
                    self._pace.take(made)
                    made = 0
                yield entry
            self._pace.take(made)
        except Exception as error:
            self._body.failure = error
            raise


class _Body:
    """A chunk that is made while it is put. Remembers what went wrong in the log, apart from what did in storage."""

    def __init__(self, container: Container, pieces: Sequence[Piece], pace: Pace) -> None:
        self._container = container
        self._pieces = pieces
        self._pace = pace
        self.failure: Exception | None = None

    def sources(self) -> Iterator[RunSource]:
        for piece in self._pieces:
            stream = piece.slot.stream
            segment = SegmentRef(
                id=piece.segment_id,
                stream=StreamRef(id=stream.id, uuid=stream.uuid, name=stream.name),
                generation=0,
            )
            source = _Entries(self._container, piece, self, self._pace)
            yield RunSource(segment=segment, slot=piece.slot.number, entries=source)


def _run_rows(chunk_id: ChunkId, pieces: Sequence[Piece], index: ChunkIndex) -> Iterator[RunRow]:
    for piece, run in zip(pieces, index.runs, strict=True):
        yield RunRow(
            stream_id=run.segment.stream.id,
            slot=run.slot,
            first=piece.first,
            end=piece.end,
            chunk=chunk_id,
            segment_id=run.segment.id,
            generation=run.segment.generation,
            min_timestamp=run.min_timestamp,
            max_timestamp=run.max_timestamp,
            position=run.position,
            length=run.length,
            entries=run.entries,
            leader_epoch=run.leader_epoch,
            bytes_before=piece.bytes_before,
            appended=run.length,
        )


def _put_run(row: RunRow) -> Put:
    return Put(RUNS_TABLE, row.key, row.encode())


def _put(row: ChunkRow) -> Put:
    return Put(PENDING_TABLE, row.key, row.encode())


def _replaced(row: ChunkRow | None, now_ms: int) -> Iterator[Operation]:
    """What a chunk leaves that was lost: its rows go, and whatever may lie under its key."""
    if row is not None:
        yield from (Delete(RUNS_TABLE, run_key(run.stream_id, run.slot, run.first)) for run in row.runs)
        yield _put(replace(row, state=ChunkState.DELETING, changed_ms=now_ms, live_bytes=0, runs=()))
