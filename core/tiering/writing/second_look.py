"""The second look at a chunk: a store may lose an object that it has just acknowledged.

**Invariant**: a chunk is verified only when its object was seen `tier2_verify_delay_ms` after its commit, whoever made
that, with the size and the etag of its put. Where a former owner's clock says how long ago it was, a third of the delay
passes by our own. Until then the log keeps the chunk's entries, so an object that is gone or has changed can be made
again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence, Set
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from core.log.records import Delete, Operation, Put
from core.tiering.rows import CHUNKS_TABLE, PENDING_TABLE, ChunkRow, ChunkState, chunk_key
from core.tiering.writing.backlog import Piece
from core.tiering.writing.uploads import REFUSED_AFTER, Upload, Uploads
from tier2.storage import StorageError, Unavailable

if TYPE_CHECKING:
    from core.tiering.context import TierContext
    from tier2.chunk_format import ChunkId

logger = logging.getLogger(__name__)

LEAST_SHARE: Final = 1 / 3
"""Of the delay, for a chunk of a former owner: its clock may be wrong."""
CONFIRMED_AT_ONCE: Final = 16
"""The most chunks that one record makes verified: a row lists up to `RUNS_MAX` runs."""


class SecondLook:
    """The second looks at the chunks of one container, when their time has come."""

    def __init__(self, context: TierContext) -> None:
        self._context = context
        self._container = context.container
        self._catalog = context.catalog
        self._clock = context.container.clock
        self._delay_s = context.container.config.tier2_verify_delay_ms / 1000
        self._due_at: dict[ChunkId, float] = {}
        self._refused: dict[ChunkId, tuple[int, int]] = {}  # failed looks; `_verified` at the first
        self._verified = 0
        self._puts: dict[ChunkId, asyncio.Task[None]] = {}  # of chunks that are put again

    def committed(self, chunk_id: ChunkId) -> None:
        """Begin the chunk's delay."""
        self._due_at[chunk_id] = self._clock.monotonic_s() + self._delay_s

    def _begun(self, row: ChunkRow, now: float) -> float:
        """When the look at a chunk is due whose delay a former owner, or the last run, has begun by its own clock."""
        passed_s = self._container.trusted.age_ms(row.changed_ms) / 1000
        return now + max(self._delay_s * LEAST_SHARE, self._delay_s - passed_s)

    async def look(self, uploads: Uploads) -> None:
        """Verify chunks that are due, and begin to put missing ones again.

        A chunk that cannot be looked at holds up no other. Raises StoreError, StorageError for the last of those.
        """
        now = self._clock.monotonic_s()
        pending = self._catalog.pending
        self._forget_all_but({row.id for row in pending})
        committed = [row for row in pending if row.state is ChunkState.COMMITTED]
        for row in committed:
            if row.id not in self._due_at:
                self._due_at[row.id] = self._begun(row, now)
        due = [row for row in committed if self._due_at[row.id] <= now]
        whole: list[ChunkRow] = []
        failure: StorageError | None = None
        for row in due:
            if row.id in self._puts:
                continue
            try:
                stat = await self._context.long_term.storage.stat(chunk_key(row.id))
            except StorageError as error:
                self._due_at[row.id] = now + self._delay_s
                failure = error
                if isinstance(error, Unavailable):
                    break  # storage is out of reach: do not try each of them
                if self._is_refused(row.id):
                    self._begin_put(row, uploads)
                continue
            if stat is not None and stat.size == row.size and stat.etag == row.etag:
                whole.append(row)
            else:
                self._begin_put(row, uploads)
        await self._confirm(whole)
        if failure is not None:
            raise failure

    def _forget_all_but(self, pending: Set[ChunkId]) -> None:
        """Chunks that died before their time came are never looked at."""
        for chunk_id in (self._due_at.keys() | self._refused.keys()) - pending:
            self._due_at.pop(chunk_id, None)
            self._refused.pop(chunk_id, None)

    def _is_refused(self, chunk_id: ChunkId) -> bool:
        """Whether only this key cannot be looked at: looks at others went well meanwhile."""
        times, verified = self._refused.get(chunk_id, (0, self._verified))
        self._refused[chunk_id] = times + 1, verified
        return times + 1 >= REFUSED_AFTER and self._verified > verified

    def _begin_put(self, row: ChunkRow, uploads: Uploads) -> None:
        """Put a chunk again, apart from the other looks, as an upload is tried for as long as it takes."""
        self._due_at[row.id] = self._clock.monotonic_s() + self._delay_s
        task = self._puts[row.id] = asyncio.create_task(self._put_again(row, uploads), name="chunk put again")
        task.add_done_callback(lambda done: self._put_done(row.id, done))

    def _put_done(self, chunk_id: ChunkId, task: asyncio.Task[None]) -> None:
        del self._puts[chunk_id]
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a chunk could not be put again, it will be tried again", exc_info=error)

    async def stop(self) -> None:
        tasks = list(self._puts.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _confirm(self, rows: Sequence[ChunkRow]) -> None:
        """Make chunks verified that were looked at twice."""
        for start in range(0, len(rows), CONFIRMED_AT_ONCE):
            operations: list[Operation] = []
            now_ms = self._container.trusted.stamp_ms()
            async with self._context.changing:
                for seen in rows[start : start + CONFIRMED_AT_ONCE]:
                    row = self._catalog.pending_chunk(seen.id)  # runs of it may have died meanwhile
                    if row is not None and row.state is ChunkState.COMMITTED:
                        verified = replace(row, state=ChunkState.VERIFIED, changed_ms=now_ms)
                        operations += (Delete(PENDING_TABLE, row.key), Put(CHUNKS_TABLE, row.key, verified.encode()))
                if operations:
                    await self._container.update(*operations)
            for seen in rows[start : start + CONFIRMED_AT_ONCE]:
                self._due_at.pop(seen.id, None)
                self._refused.pop(seen.id, None)
                self._verified += 1

    async def _put_again(self, row: ChunkRow, uploads: Uploads) -> None:
        """Put the entries, still in the log, into another chunk, because readers know the contents of this one."""
        logger.warning(
            "an object that was acknowledged is gone or has changed: it is put again",
            extra={"chunk": chunk_key(row.id)},
        )
        pieces: list[Piece] = []
        for run in row.runs:
            slot = self._container.slot_at(run.stream_id, run.slot)
            found = await self._catalog.run_at(run.stream_id, run.slot, run.first)
            if slot is None or found is None or found.chunk != row.id:
                continue
            first = max(found.first, slot.start)
            if first < found.end:
                before = found.bytes_before if first == found.first else slot.start_bytes
                size = found.bytes_before + found.appended - before
                pieces.append(Piece(slot, found.segment_id, first, found.end, before, size))
        if pieces:  # else the collector has it
            pieces.sort(key=lambda piece: piece.place)
            uploads.counters.put_again += 1
            await uploads.upload(Upload(pieces, (), row))
