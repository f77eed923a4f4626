"""One slot whose entries are all in chunks, in a directory or wherever a test wants, and a reader of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from core.config import StoreConfig
from core.streams.live import Slot, Stream
from core.streams.policy import StreamPolicy
from core.streams.state import new_stream
from core.tiering.reading.reader import TieredReader
from core.tiering.rows import ChunkRow, ChunkState, RunRow, chunk_key
from tests.core.support import Nowhere
from tests.tier2.chunks import head_of
from tier2.chunk import ChunkWriter, Entry, RunSource
from tier2.chunk_format import AbortedTransaction, ChunkId, SegmentRef, StreamRef
from tier2.storage import Buffer, Came, Data, ObjectInfo, ObjectStat, Storage

STREAM_ID = 7


class Counting:
    """A storage that counts its reads, and holds those back that a test has not let go."""

    def __init__(self, inner: Storage) -> None:
        self.inner = inner
        self.reads: list[tuple[str, int, int]] = []
        self.at_once = self.most_at_once = 0
        self.held: Callable[[str], bool] = lambda key: False
        self.go = asyncio.Event()
        self.error: Exception | None = None
        self.comes: Callable[[int], object] = lambda number: None
        """Called in the worker thread before a piece is passed on."""

    async def get_pieces(self, key: str, start: int, length: int, piece_bytes: int, came: Came) -> None:
        await self._read(key, start, length)

        def passed_on(number: int, piece: Buffer) -> None:
            self.comes(number)
            came(number, piece)

        try:
            await self.inner.get_pieces(key, start, length, piece_bytes, passed_on)
        finally:
            self.at_once -= 1

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        await self._read(key, start, length)
        try:
            return await self.inner.get_range(key, start, length)
        finally:
            self.at_once -= 1

    async def _read(self, key: str, start: int, length: int) -> None:
        self.reads.append((key, start, length))
        if self.error is not None:
            raise self.error
        while self.held(key):
            await self.go.wait()
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)

    async def put(self, key: str, data: Data, *, token: str = "") -> ObjectStat:
        return await self.inner.put(key, data, token=token)

    async def put_new(self, key: str, data: Buffer, *, token: str = "") -> ObjectStat:
        return await self.inner.put_new(key, data, token=token)

    def list(self, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        return self.inner.list(prefix, after=after)

    async def delete(self, key: str) -> None:
        await self.inner.delete(key)

    async def delete_many(self, keys: Sequence[str]) -> None:
        await self.inner.delete_many(keys)

    async def stat(self, key: str) -> ObjectStat | None:
        return await self.inner.stat(key)

    async def sweep_uploads(self, older_than_s: float) -> int:
        return await self.inner.sweep_uploads(older_than_s)

    async def close(self) -> None:
        await self.inner.close()


class Known:
    """The known facts of the chunks, as a list."""

    def __init__(self) -> None:
        self.rows: list[RunRow] = []
        self.chunks: dict[ChunkId, ChunkRow] = {}

    async def in_thread(self, function: Callable[..., Any], *args: object) -> Any:
        return function(*args)

    async def run_at(self, stream_id: int, slot: int, offset: int) -> RunRow | None:
        return next(self.iter_runs(stream_id, slot, offset), None)

    def iter_runs(self, stream_id: int, slot: int, offset: int) -> Iterator[RunRow]:
        return (row for row in self.rows if (row.stream_id, row.slot) == (stream_id, slot) and row.end > offset)

    async def chunk(self, chunk_id: ChunkId) -> ChunkRow | None:
        return self.chunks.get(chunk_id)


class ChunkedSlot:
    """Slots of one stream, chunk by chunk."""

    def __init__(self, storage: Storage, slots: int = 1) -> None:
        self.storage = storage
        self.known = Known()
        uuid = UUID(int=STREAM_ID)
        state = new_stream(stream_id=STREAM_ID, name="s", uuid=uuid, slots=slots, created_ms=0, container=0, config={})
        self.stream = Stream(state, StreamPolicy(), lambda stream, n: Slot(Nowhere(), stream, n))
        self.slot = self.stream.slot(0)
        self._ref = StreamRef(id=STREAM_ID, uuid=uuid, name="s")

    def reader(self, cache: Path | None = None, **config: int) -> TieredReader:
        return TieredReader(self.known, self.storage, head_of, StoreConfig(**cast(Any, config)), cache)

    async def add(
        self,
        entries: Sequence[Entry],
        *,
        end: int | None = None,
        slot: int = 0,
        block_bytes: int = 64 << 10,
        aborted: Sequence[AbortedTransaction] = (),
    ) -> RunRow:
        """A chunk with these entries, which stands for everything up to `end`; it lists what overlaps that."""
        return (await self.add_chunk({slot: entries}, end=end, block_bytes=block_bytes, aborted=aborted))[0]

    async def add_chunk(
        self,
        runs: dict[int, Sequence[Entry]],
        *,
        end: int | None = None,
        block_bytes: int = 64 << 10,
        aborted: Sequence[AbortedTransaction] = (),
    ) -> list[RunRow]:
        chunk_id = ChunkId(container=0, epoch=1, sequence=len(self.known.chunks) + 1)
        rows: list[RunRow] = []
        sources: list[RunSource] = []
        for number, entries in sorted(runs.items()):
            slot = self.stream.slot(number)
            segment = SegmentRef(id=slot.segment_id, stream=self._ref, generation=0)
            covered = slot.tiered_end, entries[-1].first + entries[-1].count if end is None else end
            sources.append(
                RunSource(
                    segment=segment,
                    slot=number,
                    entries=partial(tuple, entries),
                    aborted=[one for one in aborted if one.first < covered[1] and one.last >= covered[0]],
                    covered=partial(tuple, covered),  # type: ignore[arg-type]
                )
            )
        writer = ChunkWriter(chunk_id, "cluster", 0, sources, block_bytes)
        stat = await self.storage.put(chunk_key(chunk_id), writer)
        assert writer.index is not None
        self.known.chunks[chunk_id] = ChunkRow(
            id=chunk_id, state=ChunkState.VERIFIED, created_ms=0, changed_ms=0, size=stat.size
        )
        for number, entries in sorted(runs.items()):
            slot = self.stream.slot(number)
            run = writer.index.run_of(STREAM_ID, slot.segment_id, number)
            stop = entries[-1].first + entries[-1].count if end is None else end
            row = RunRow(
                stream_id=STREAM_ID,
                slot=number,
                first=slot.tiered_end,
                end=stop,
                chunk=chunk_id,
                segment_id=slot.segment_id,
                generation=0,
                min_timestamp=run.min_timestamp if run else -1,
                max_timestamp=run.max_timestamp if run else -1,
                position=run.position if run else 0,
                length=run.length if run else 0,
                entries=run.entries if run else 0,
                leader_epoch=0,
                bytes_before=slot.tiered_bytes,
                appended=run.length if run else 0,
            )
            slot.tiered_end, slot.tiered_bytes = stop, slot.tiered_bytes + row.appended
            slot.end = slot.durable_end = stop
            self.known.rows.append(row)
            rows.append(row)
        return rows


async def read_on(reader: TieredReader, slot: Slot, offset: int, max_bytes: int) -> bytes:
    """Everything from an offset on, answer by answer."""
    found: list[bytes] = []
    while offset < slot.tiered_end:
        answer = await reader.read(slot, offset, slot.durable_end, max_bytes, True)
        assert answer.end > offset
        assert answer.size == sum(map(len, answer.parts))
        found += map(bytes, answer.parts)
        offset = answer.end
    return b"".join(found)
