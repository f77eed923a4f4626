"""The collector, which removes useless data from long-term storage: dead runs, then chunks without a live run, then
objects.

A run is dead when its slot starts behind it or has left for another container, or its stream is gone. A chunk goes when
none of its runs is alive.

**Invariants**

- An object is deleted only after three events: a durable record says that nothing refers to it, `file_delete_delay_ms`
  have passed for its present readers, and a metadata snapshot that knows of the record has reached long-term storage.
  If there is no room for that snapshot, the object goes first. A recovery would then miss only a deleted stretch.
- Only keys that this store's own log has recorded are ever deleted, never keys from a listing.
- An abandoned upload may arrive late: its key is deleted at once, and once more after `tier2_abandoned_ms`.
- What dies while it is looked at is looked at again.
- Parts of an unfinished upload are removed once no put can still use them.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

from core.background import Background
from core.log.records import Delete, Operation
from core.tiering.rewriting.cleaned import CLEANED_TABLE, cleaned_key
from core.tiering.rewriting.requests import SlotKey
from core.tiering.rows import (
    PENDING_TABLE,
    RUNS_TABLE,
    ChunkRow,
    ChunkState,
    RunRow,
    chunk_key,
    without_runs,
)
from tier2.storage import StorageError

if TYPE_CHECKING:
    from core.streams.live import Slot
    from core.tiering.context import TierContext
    from core.tiering.upkeep.deletions import Deletions
    from tier2.chunk_format import ChunkId

logger = logging.getLogger(__name__)

_K = TypeVar("_K")

TICK_S: Final = 1.0
SLOTS_PER_STEP: Final = 200
RUNS_PER_RECORD: Final = 2000
PAUSE_S: Final = 15.0
PUT_LASTS_S_MAX: Final = 2 * 3600.0
"""Twice the longest time that one try of a put may take: a crash has left any older upload."""
UPLOADS_SWEPT_EVERY_S: Final = 3600.0


class Collector:
    """Garbage collection for one container."""

    def __init__(self, context: TierContext, deletions: Deletions, forget: Callable[[ChunkId], None]) -> None:
        """`forget`: the readers' caches let go of an object that is gone."""
        self._context = context
        self._deletions = deletions
        self._forget = forget
        self._container = context.container
        self._catalog = context.catalog
        self._storage = context.long_term.storage
        self._clock = context.container.clock
        self._known_dead: set[ChunkId] = set()  # and a snapshot that covers their end was asked for
        self._deletions_seen = -1
        self._swept: set[ChunkId] = set()  # abandoned ones whose key was deleted once
        self._uploads_swept_s: float | None = None
        self._tick_s = min(TICK_S, context.container.config.file_delete_delay_ms / 4000)
        self._background = Background("removal of chunks", context.container.id, self._step, retry_s=PAUSE_S)
        self.deleted_objects = 0
        self.failures = 0

    @property
    def last_error(self) -> str | None:
        """The error of the last round; None when it went well."""
        return self._background.last_error

    def start(self) -> None:
        self._context.look_again()  # runs that died before a crash
        self._background.start()

    async def stop(self) -> None:
        await self._background.stop()

    def _look_again(self) -> None:
        """Look at everything once."""
        container = self._container
        container.trimmed.update(dict.fromkeys(container.all_slots()))
        self._deletions_seen = -1
        for stream_id, copy in container.outcomes.copies.items():
            if copy.revision:  # else its slots were always here
                for numbers in copy.slots_by_container().items():
                    if numbers[0] != container.id:
                        container.departed.update(((stream_id, number), None) for number in numbers[1])

    async def _step(self) -> float:
        self._container.log_changed()
        try:
            if self._context.take_unseen_deaths():
                self._look_again()
            await self._collect_streams()
            await self._collect_slots()
            await self._collect_departed()
            await self._delete_objects()
            await self._sweep_uploads()
        except Exception:
            self._deletions_seen = -1
            self.failures += 1
            raise
        return self._tick_s

    # Runs

    async def _collect_slots(self) -> None:
        trimmed = self._container.trimmed
        while trimmed:
            with _taken(trimmed) as slots:
                async with self._context.changing:
                    await self._remove(await self._catalog.in_thread(self._dead_runs, slots))

    def _dead_runs(self, slots: Sequence[Slot]) -> list[RunRow]:
        dead: list[RunRow] = []
        for slot in slots:
            start = slot.start
            for run in self._catalog.iter_runs(slot.stream.id, slot.number, -1):
                if run.end > start:
                    break
                dead.append(run)
        return dead

    async def _collect_departed(self) -> None:
        """All runs of slots that have left, and how far they were compacted. One that has come back since was free of
        runs when it came."""
        container, catalog = self._container, self._catalog
        cleaned = container.table(CLEANED_TABLE)
        while container.departed:
            with _taken(container.departed) as places:
                async with self._context.changing:
                    gone = [place for place in places if container.slot_at(*place) is None]
                    if clean := [key for place in gone if (key := cleaned_key(SlotKey(*place))) in cleaned.entries]:
                        await container.update(*(Delete(CLEANED_TABLE, key) for key in clean))
                    await self._remove(
                        await catalog.in_thread(
                            lambda: [run for place in gone for run in catalog.iter_runs(*place, -1)]  # noqa: B023
                        )
                    )

    async def _collect_streams(self) -> None:
        catalog, deletions = self._catalog, self._container.outcomes.streams_deleted
        if deletions == self._deletions_seen:
            return
        self._deletions_seen = deletions
        for stream_id in await catalog.in_thread(lambda: list(catalog.iter_streams())):
            if stream_id in self._container.streams:
                continue
            async with self._context.changing:
                if stream_id not in self._container.streams:  # it may have come back, with runs, before its turn
                    await self._remove(await catalog.in_thread(lambda: list(catalog.iter_stream_runs(stream_id))))  # noqa: B023

    async def _remove(self, dead: Sequence[RunRow]) -> None:
        """Forget runs, and take them off their chunks. A run that a rewrite has put in their place must stay."""
        for start in range(0, len(dead), RUNS_PER_RECORD):
            some = dead[start : start + RUNS_PER_RECORD]
            chunks = await self._without(some)
            gone: list[Operation] = [Delete(RUNS_TABLE, run.key) for run in some]
            await self._container.update(*gone, *chunks)
            self._context.rows_changed += len(some)

    async def _without(self, runs: Iterable[RunRow]) -> list[Operation]:
        """The rows of these runs' chunks, without the runs."""
        by_chunk: dict[ChunkId, set[tuple[int, int, int]]] = {}
        for run in runs:
            by_chunk.setdefault(run.chunk, set()).add((run.stream_id, run.slot, run.first))
        operations: list[Operation] = []
        for chunk_id, gone in by_chunk.items():
            row = await self._catalog.chunk(chunk_id)
            if row is not None:
                operations += without_runs(row, gone, self._container.trusted.stamp_ms())
        return operations

    # Objects

    async def _delete_objects(self) -> None:
        config, now = self._container.config, self._container.trusted.now()
        for row in self._catalog.pending:
            age_ms = now.age_ms(row.changed_ms)  # over restarts, too
            if row.state is ChunkState.DELETING:
                await self._delete_unreferenced(row, is_due=age_ms >= config.file_delete_delay_ms)
            elif row.state is ChunkState.ABANDONED:
                await self._sweep(row, is_due=age_ms >= config.tier2_abandoned_ms)

    async def _delete_unreferenced(self, row: ChunkRow, *, is_due: bool) -> None:
        if row.id not in self._known_dead:
            # A snapshot up to here or later knows that nothing refers to the chunk.
            self._known_dead.add(row.id)
            self._deletions.logged(row.id)
        if is_due and self._deletions.is_free(row.id):
            await self._delete(row)

    async def _sweep(self, row: ChunkRow, *, is_due: bool) -> None:
        if is_due:
            await self._delete(row)
        elif row.id not in self._swept:
            await self._storage.delete(chunk_key(row.id))
            self._swept.add(row.id)

    async def _sweep_uploads(self) -> None:
        """Without permission to list uploads, the rest of the collection still runs."""
        now = self._clock.monotonic_s()
        if self._uploads_swept_s is not None and now < self._uploads_swept_s + UPLOADS_SWEPT_EVERY_S:
            return
        if self._container.trusted.holds_a_jump:
            return  # an upload under way would look old
        self._uploads_swept_s = now
        try:
            count = await self._storage.sweep_uploads(PUT_LASTS_S_MAX)
        except StorageError as error:
            logger.warning("unfinished uploads could not be swept", extra={"reason": str(error)})
            return
        if count:
            logger.info("unfinished uploads were swept", extra={"uploads": count})

    async def _delete(self, row: ChunkRow) -> None:
        await self._storage.delete(chunk_key(row.id))
        await self._container.update(Delete(PENDING_TABLE, row.key))
        self._known_dead.discard(row.id)
        self._swept.discard(row.id)
        self._deletions.done(row.id)
        self._forget(row.id)
        self.deleted_objects += 1


@contextlib.contextmanager
def _taken(waiting: dict[_K, None]) -> Iterator[list[_K]]:
    """The next ones to look at. A key that comes during the look waits once more; after a failure all do."""
    some = list(itertools.islice(waiting, SLOTS_PER_STEP))
    for one in some:
        del waiting[one]
    try:
        yield some
    except BaseException:
        waiting.update(dict.fromkeys(some))
        raise
