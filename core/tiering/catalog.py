"""The catalog of chunks and their contents: look-ups over the tables that `core.tiering.rows` describes.

Rows of runs and of verified chunks are in RocksDB, and in memory until the next checkpoint. Chunks in any other state
are few, and in memory. Look-ups block, so they run in threads of their own: never behind a flush, a log read or a
request to long-term storage.

**Invariants**

- A look-up returns each row as it was at some moment after the look-up began.
- It finds the runs of a slot as they all were at one moment: never those of half a rewrite, between which a reader
  would take entries for gone.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

from core.applied.tables import GROUP_BYTES, StoredTable
from core.errors import NotHosted
from core.log.records import Delete, Put
from core.tiering.rows import (
    CHUNKS_TABLE,
    PENDING_TABLE,
    RUNS_TABLE,
    ChunkRow,
    ChunkState,
    RunRow,
    chunk_row_key,
    decode_chunk_row,
    decode_run,
    run_extent,
    run_key,
    slot_prefix,
)

if TYPE_CHECKING:
    from core.container.container import Container
    from tier2.chunk_format import ChunkId

_T = TypeVar("_T")
_Row: TypeAlias = tuple[bytes, bytes]

THREADS: Final = 2


class Catalog:
    """The chunks of one container."""

    def __init__(self, container: Container) -> None:
        self._container = container
        # Made here, on the event loop: look-ups in threads only read the container's tables.
        self._runs = self._stored(RUNS_TABLE)
        self._chunks = self._stored(CHUNKS_TABLE)
        self._pending = container.table(PENDING_TABLE)
        self._decoded: dict[bytes, tuple[bytes, ChunkRow]] = {}  # pending rows, which may list thousands of runs
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix=f"catalog-{container.id}")
        self._is_closed = False

    async def close(self) -> None:
        """End when all look-ups have that are under way; the next ones raise NotHosted."""
        self._is_closed = True
        await asyncio.to_thread(self._pool.shutdown)

    async def in_thread(self, function: Callable[..., _T], *args: object) -> _T:
        """Run a blocking look-up in a thread."""
        if self._is_closed:
            raise NotHosted(self._container.id)
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *args)

    # Runs

    async def run_at(self, stream_id: int, slot: int, offset: int) -> RunRow | None:
        """The first run that ends behind `offset`."""
        return await self.in_thread(self.find_run, stream_id, slot, offset)

    async def runs_from(self, stream_id: int, slot: int, offset: int) -> list[RunRow]:
        """All runs that end behind `offset`, in order."""
        return await self.in_thread(lambda: list(self.iter_runs(stream_id, slot, offset)))

    def find_run(self, stream_id: int, slot: int, offset: int) -> RunRow | None:
        """See `run_at`. Blocks."""
        return next(self.iter_runs(stream_id, slot, offset), None)

    def iter_runs(self, stream_id: int, slot: int, offset: int) -> Iterator[RunRow]:
        """See `runs_from`. Blocks."""
        saved, new = self._rows_of(slot_prefix(stream_id, slot), run_key(stream_id, slot, max(offset, 0)))
        for key, value in heapq.merge(saved, new):
            row = decode_run(key, value)
            if row.end > offset:
                yield row

    def _rows_of(self, prefix: bytes, start: bytes) -> tuple[Iterator[_Row], list[_Row]]:
        """A slot's rows of one moment, in order: the saved ones from the last at or before `start` on, and the unsaved
        ones. A record that is applied between the two looks has both of them done again."""
        table, metadata = self._runs, self._container.metadata
        while True:
            version, unsaved = table.version, table.unsaved(prefix)
            saved = metadata.table_items(RUNS_TABLE, prefix, start, unsaved)
            first = list(itertools.islice(saved, 1))  # from here on it sees the disk as it is now
            if table.version == version:
                new = [(key, value) for key, value in unsaved.items() if value is not None]
                return itertools.chain(first, saved), sorted(new)

    def row_applied(self, operation: Put | Delete) -> None:
        """Take in a run's row of a durable record: all before its end is tiered. For the event loop, or recovery."""
        if isinstance(operation, Delete):
            return
        stream_id, number, first, end, bytes_up_to_end, removed = run_extent(operation.key, operation.value)
        slot = self._container.slot_at(stream_id, number)
        if slot is None:
            return
        if removed or slot.removed:
            slot.removed = slot.removed.with_run(first, end, removed)
        if end > slot.tiered_end:
            slot.tiered_end, slot.tiered_bytes = end, bytes_up_to_end
            self._container.mark_dirty(slot)

    # Chunks

    @property
    def pending(self) -> list[ChunkRow]:
        """Chunks in any state but verified, oldest first. For the event loop."""
        entries = self._pending.entries
        return [decode_chunk_row(key, value) for key, value in sorted(entries.items())]

    def held(self) -> dict[tuple[int, int], int]:
        """By stream and slot: the offset from which the log still backs chunks that were not looked at twice."""
        held: dict[tuple[int, int], int] = {}
        for row in self.pending:
            if row.state is ChunkState.COMMITTED:
                for run in row.runs:
                    place = run.stream_id, run.slot
                    held[place] = min(held.get(place, run.first), run.first)
        return held

    def pending_chunk(self, chunk_id: ChunkId) -> ChunkRow | None:
        """A chunk in any state but verified."""
        key = chunk_row_key(chunk_id)
        value = self._pending.get(key)
        return None if value is None else decode_chunk_row(key, value)

    async def chunk(self, chunk_id: ChunkId) -> ChunkRow | None:
        """A chunk in any state."""
        return await self.in_thread(self.find_chunk, chunk_id)

    def find_chunk(self, chunk_id: ChunkId) -> ChunkRow | None:
        """See `chunk`. Blocks."""
        key = chunk_row_key(chunk_id)
        for _ in range(2):  # one that is verified between the two looks was in neither table
            unsaved = self._chunks.unsaved(key[:GROUP_BYTES])
            value = unsaved[key] if key in unsaved else self._container.metadata.table_value(CHUNKS_TABLE, key)
            found = self.pending_chunk(chunk_id) if value is None else decode_chunk_row(key, value)
            if found is not None:
                return found
        return None

    async def has_chunks(self) -> bool:
        """Whether this store refers to anything in long-term storage."""
        committed = any(row.state is ChunkState.COMMITTED for row in self.pending)
        return committed or await self.in_thread(lambda: next(self.iter_verified(), None)) is not None

    def iter_verified(self) -> Iterator[ChunkRow]:
        """All verified chunks, in no order. Blocks."""
        table = self._chunks
        unsaved = {key: value for group in table.groups() for key, value in table.unsaved(group).items()}
        for key, value in self._container.metadata.table_items(CHUNKS_TABLE, b"", b"", unsaved):
            yield decode_chunk_row(key, value)
        for key, new in unsaved.items():
            if new is not None:
                yield decode_chunk_row(key, new)

    def verified_from(self, key: bytes, count: int) -> list[ChunkRow]:
        """Verified chunks from this row key on, in order, as of the last checkpoint. Blocks."""
        saved = self._container.metadata.table_items_from(CHUNKS_TABLE, key)
        return [decode_chunk_row(*row) for row in itertools.islice(saved, count)]

    def iter_streams(self) -> Iterator[int]:
        """The ids of all streams that have runs, deleted ones as well. Blocks."""
        groups = {int.from_bytes(group[:4], "big") for group in self._runs.groups()}
        saved: set[int] = set()
        stream_id = -1
        while (found := self._next_stream(stream_id)) is not None:
            stream_id = found
            saved.add(stream_id)
        yield from sorted(saved | groups)

    def _next_stream(self, after: int) -> int | None:
        items = self._container.metadata.table_items_from(RUNS_TABLE, run_key(after + 1, 0, 0))
        first = next(items, None)
        return None if first is None else int.from_bytes(first[0][:4], "big")

    def iter_stream_runs(self, stream_id: int) -> Iterator[RunRow]:
        """All runs of a stream's slots. Blocks."""
        prefix = stream_id.to_bytes(4, "big")
        table = self._runs
        unsaved = {
            key: value
            for group in table.groups()
            if group.startswith(prefix)
            for key, value in table.unsaved(group).items()
        }
        for key, value in self._container.metadata.table_items(RUNS_TABLE, prefix, b"", unsaved):
            yield decode_run(key, value)
        for key, new in unsaved.items():
            if new is not None:
                yield decode_run(key, new)

    def _stored(self, name: str) -> StoredTable:
        table = self._container.table(name)
        assert isinstance(table, StoredTable)
        return table
