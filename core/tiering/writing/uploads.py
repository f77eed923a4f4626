"""One chunk on its way from the log into long-term storage.

**Invariants**

- The order is: intent logged, object put, object looked at, commit logged. A crash in between leaves an intent, which
  the next start abandons.
- A chunk is committed only after the chunks that precede it. If one of those is given up, so is this one.
- A run begins where its slot's chunks end when it is committed: it leaves no gap, and takes no other run's place. One
  that is put again takes the place of what its lost chunk lists then: a slot may have come back with other chunks.
- A chunk lists every aborted transaction that overlaps one of its runs. The slot forgets a transaction only after the
  log has let go of the entries that it overlaps.
- If long-term storage fails, a put is tried without limit, under another key if only this one is refused. If the
  entries cannot be read, the chunk is given up.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from core.errors import OutOfRange, StorageFull, StoreError, TierUnavailable
from core.log.records import Delete, Operation, Put
from core.tiering.rows import PENDING_TABLE, RUNS_TABLE, ChunkRow, ChunkState, RunRow, chunk_key, run_key
from core.tiering.writing.backlog import Piece, UnreadableEntry, adjoining, all_entries
from core.tiering.writing.pacing import TokenBucket
from tier2.chunk import ChunkWriter, Entry, RunSource
from tier2.chunk_format import AbortedTransaction, ChunkId, ChunkIndex, SegmentRef, StreamRef
from tier2.storage import NoRoom, ObjectStat, StorageError

if TYPE_CHECKING:
    from core.reading.reader import Reader
    from core.streams.damage import Damage
    from core.tiering.context import TierContext
    from core.tiering.writing.pins import Pins

logger = logging.getLogger(__name__)

FULL_PAUSE_S: Final = 1.0
"""The pause before a log without room is asked again to take an intent or a commit."""
PACED_BYTES: Final = 256 << 10
"""A piece is made in steps of this many bytes, at the pace of `pacing`."""
FIRST_PAUSE_S: Final = 0.5
REFUSED_AFTER: Final = 5
"""A chunk that failed this often while others were put gets another key: storage may refuse this one alone."""
PAUSE_MAX_S: Final = 15.0
COMPLAIN_EVERY_S: Final = 60.0


@dataclass(slots=True)
class Counters:
    """Counters since the start, for the operator."""

    chunks: int = 0
    bytes: int = 0
    failures: int = 0
    put_again: int = 0
    rounds: int = 0


@dataclass(eq=False, slots=True)
class Upload:
    """The contents of one chunk to be made."""

    pieces: Sequence[Piece]  # sorted by their place
    before: Sequence[asyncio.Task[bool]]  # chunks that precede these pieces
    replaces: ChunkRow | None = None  # a chunk whose object was lost


class Uploads:
    """The uploads of one container: they put and commit chunks; `committed` hears of each."""

    def __init__(self, context: TierContext, pins: Pins, committed: Callable[[ChunkId], None]) -> None:
        self._context = context
        self._pins = pins
        self._committed = committed
        self._container = context.container
        self._catalog = context.catalog
        self._long_term = context.long_term
        self._clock = context.container.clock
        self._room = asyncio.Semaphore(context.container.config.tier2_uploads)
        self._complained_at = -COMPLAIN_EVERY_S
        self.pace = TokenBucket()
        self.counters = Counters()
        self._put_count = 0  # of objects that were put and seen, whether or not they were committed
        self.last_error: str | None = None  # error of long-term storage; None when the last put went well
        self.lacks_room = False  # whether long-term storage had no room for the last put

    async def abandon_left(self) -> None:
        """Abandon the chunks that an earlier run left on their way. Raises StoreError."""
        now_ms = self._container.trusted.stamp_ms()
        left = [
            _put(replace(row, state=ChunkState.ABANDONED, changed_ms=now_ms))
            for row in self._catalog.pending
            if row.state is ChunkState.INTENT
        ]
        if left:
            await self._container.update(*left)

    async def upload(self, upload: Upload) -> bool:
        """Put one chunk and commit it. False when it was given up: its entries are then cut again."""
        async with self._room:
            chunk_id = await self._intend()
            try:
                writer, stat = await self._put(chunk_id, upload)
            except UnreadableEntry as error:
                # The other slots of this chunk go on without this slot, and it goes on up to there.
                self._pins.found_unreadable(error.slot, error.first, error.bytes_before, error.error)
                await self._abandon(chunk_id)
                return False
            except (StoreError, ValueError) as error:
                # Its entries were deleted meanwhile, or are damaged.
                self.last_error, self.lacks_room = None, False  # nobody tries any more
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
            now_ms = self._container.trusted.stamp_ms()
            chunk_id = ChunkId(container=container.id, epoch=container.epoch, sequence=container.log.next_lsn)
            row = ChunkRow(id=chunk_id, state=ChunkState.INTENT, created_ms=now_ms, changed_ms=now_ms)
            try:
                await container.update(_put(row))
                await container.synced()  # or a power cut leaves an object that nobody knows of
                return chunk_id
            except StorageFull:
                await asyncio.sleep(FULL_PAUSE_S)

    async def _put(self, chunk_id: ChunkId, upload: Upload) -> tuple[ChunkWriter, ObjectStat]:
        """Put and look at it, as often as it takes. Raises StoreError when the entries cannot be read."""
        storage, key = self._long_term.storage, chunk_key(chunk_id)
        pause, tries, others = FIRST_PAUSE_S, 0, self._put_count
        while True:
            tries += 1
            body = _Body(self._context.reader, upload.pieces, self.pace)
            writer = ChunkWriter(chunk_id, self._long_term.cluster_id, self._clock.wall_ms(), body.sources())
            try:
                stat = await storage.put(key, writer)
                seen = await storage.stat(key)
                if seen is not None and seen.size == writer.size == stat.size:
                    self.last_error, self.lacks_room = None, False
                    self._put_count += 1
                    return writer, stat
                raise TierUnavailable(f"{key} was put with {stat.size} bytes and is not there: {seen}")
            except (StorageError, TierUnavailable) as error:
                if body.failure is not None:
                    raise body.failure from error
                self.last_error, self.lacks_room = str(error), isinstance(error, NoRoom)
                self.failed(error, "a chunk could not be put and will be put again")
                if tries >= REFUSED_AFTER and self._put_count > others:
                    raise TierUnavailable(
                        f"{key} is refused while others are not, it gets another key: {error}"
                    ) from error
            except Exception as error:
                if body.failure is not None:
                    raise body.failure from error
                raise
            await asyncio.sleep(random.uniform(pause / 2, pause))
            pause = min(PAUSE_MAX_S, pause * 2)

    async def _commit(self, chunk_id: ChunkId, upload: Upload, writer: ChunkWriter, stat: ObjectStat) -> bool:
        index = writer.index
        assert index is not None
        # In a thread, as there may be thousands.
        made = await self._catalog.in_thread(
            lambda: [(row, _put_run(row)) for row in _run_rows(chunk_id, upload.pieces, index, self._container.damage)]
        )
        while True:
            try:
                async with self._context.changing:
                    return await self._commit_now(chunk_id, upload, made, writer, stat)
            except StorageFull:
                await asyncio.sleep(FULL_PAUSE_S)

    async def _commit_now(
        self,
        chunk_id: ChunkId,
        upload: Upload,
        made: Sequence[tuple[RunRow, Put]],
        writer: ChunkWriter,
        stat: ObjectStat,
    ) -> bool:
        """Log what of it is wanted by now, without an await from the look to the record. Raises StorageFull."""
        lost = None if upload.replaces is None else self._catalog.pending_chunk(upload.replaces.id)
        if upload.replaces is not None and (lost is None or lost.state is not ChunkState.COMMITTED):
            await self._abandon(chunk_id)  # all that it held has died meanwhile
            return False
        if lost is None and not self._goes_on(upload):
            logger.error(
                "a chunk was given up: it does not go on where chunks end", extra={"chunk": chunk_key(chunk_id)}
            )
            await self._abandon(chunk_id)
            return False
        now_ms = self._container.trusted.stamp_ms()
        here = {(piece.slot.stream.id, piece.slot.number) for piece in upload.pieces if self._is_here(piece)}
        live = [one for one in made if (one[0].stream_id, one[0].slot) in here and self._is_live(one[0])]
        rows = [row for row, _ in live]
        if not rows:
            await self._abandon(chunk_id)
            return True
        assert writer.index is not None, "it was put"
        chunk = ChunkRow(
            id=chunk_id,
            state=ChunkState.COMMITTED,
            created_ms=writer.index.created_ms,
            changed_ms=now_ms,
            size=writer.size,
            etag=stat.etag,
            live_bytes=sum(row.length for row in rows),
            runs=tuple(row.listed for row in rows),
        )
        await self._container.update(*_replaced(lost, now_ms), _put(chunk), *(put for _, put in live))
        if not all(map(self._is_live, rows)):  # died since: no other look would find it
            self._context.look_again()
        self.counters.chunks += 1
        self._context.rows_changed += 1
        self.counters.bytes += writer.size
        self._committed(chunk_id)
        return True

    def _goes_on(self, upload: Upload) -> bool:
        """Whether each run begins where its slot's chunks end by now."""
        here = [piece for piece in upload.pieces if self._is_here(piece)]
        return len(adjoining(here, lambda slot: slot.untiered_from[0])) == len(here)

    def _is_live(self, row: RunRow) -> bool:
        slot = self._container.slot_at(row.stream_id, row.slot)
        return slot is not None and not slot.stream.deleted and slot.start < row.end

    def _is_here(self, piece: Piece) -> bool:
        """Whether its slot has not left meanwhile, and is what it was: it may have come back."""
        return self._container.is_here(piece.slot)

    async def _abandon(self, chunk_id: ChunkId) -> None:
        now_ms = self._container.trusted.stamp_ms()
        row = ChunkRow(id=chunk_id, state=ChunkState.ABANDONED, created_ms=now_ms, changed_ms=now_ms)
        try:
            await self._container.update(_put(row))
        except StorageFull:
            return  # the next start abandons it

    def failed(self, error: Exception, what: str) -> None:
        """Count a failure of long-term storage, and log it now and then."""
        self.counters.failures += 1
        now = self._clock.monotonic_s()
        if now >= self._complained_at + COMPLAIN_EVERY_S:
            self._complained_at = now
            logger.error(what, extra={"error": str(error)})


class _Entries:
    """A piece's entries, read from the first each time they are put."""

    def __init__(self, reader: Reader, piece: Piece, body: _Body, pace: TokenBucket) -> None:
        self._reader = reader
        self._piece = piece
        self._body = body
        self._pace = pace

    def __call__(self) -> Iterator[Entry]:
        try:
            made = 0
            for entry in all_entries(self._reader, self._piece):
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
    """A chunk that is made while it is put. It keeps an error of the log apart from an error of storage."""

    def __init__(self, reader: Reader, pieces: Sequence[Piece], pace: TokenBucket) -> None:
        self._reader = reader
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
            source = _Entries(self._reader, piece, self, self._pace)
            yield RunSource(
                segment=segment,
                slot=piece.slot.number,
                entries=source,
                aborted=_aborted(piece),
                covered=_covered(piece) if self._reader.damage else None,
            )


def _covered(piece: Piece) -> Callable[[], tuple[int, int]]:
    return lambda: (piece.first, piece.end)


def _aborted(piece: Piece) -> Sequence[AbortedTransaction]:
    """The aborted transactions of a piece. It is stable, so the slot knows all outcomes. For the event loop."""
    return tuple(
        AbortedTransaction(writer_id=writer_id, first=first, last=last, stable_end=stable_end)
        for last, first, writer_id, stable_end in piece.slot.aborted_in(piece.first, piece.end)
    )


def _run_rows(chunk_id: ChunkId, pieces: Sequence[Piece], index: ChunkIndex, damage: Damage) -> Iterator[RunRow]:
    """Since it was cut the log may have let go of the beginning of a piece, before the start of its slot."""
    for piece, run in zip(pieces, index.runs, strict=True):
        appended = run.length + damage.bytes_in(piece.slot, piece.first, piece.end)
        yield RunRow(
            stream_id=run.segment.stream.id,
            slot=run.slot,
            first=max(piece.first, run.first),
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
            bytes_before=piece.bytes_before + max(0, piece.size - appended),
            appended=appended,
        )


def _put_run(row: RunRow) -> Put:
    return Put(RUNS_TABLE, row.key, row.encode())


def _put(row: ChunkRow) -> Put:
    return Put(PENDING_TABLE, row.key, row.encode())


def _replaced(row: ChunkRow | None, now_ms: int) -> Iterator[Operation]:
    """Let a lost chunk go: its rows, and any object under its key."""
    if row is not None:
        yield from (Delete(RUNS_TABLE, run_key(run.stream_id, run.slot, run.first)) for run in row.runs)
        yield _put(replace(row, state=ChunkState.DELETING, changed_ms=now_ms, live_bytes=0, runs=()))
