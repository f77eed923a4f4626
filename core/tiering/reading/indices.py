"""Indices of chunks in memory: each is read and checked once, however many readers want it.

**Invariant**: indices in memory are at most `bytes_max` together, unless one alone is larger.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from core.errors import CorruptChunk, MissingChunk
from core.tiering.reading.gets import Get, Gets, translated
from core.tiering.reading.pages import OpenRun, Pages
from core.tiering.rows import chunk_key
from tier2.chunk import TAIL_BYTES
from tier2.chunk_format import FOOTER_SIZE, HEADER_SIZE, BadChunk, Footer, decode_footer
from tier2.packed_index import PackedIndex

if TYPE_CHECKING:
    from core.tiering.rows import ChunkRow, RunRow
    from tier2.chunk_format import ChunkId
    from tier2.storage import Storage

INDEX_BYTES_MIN: Final = 4096
"""The least size that one index counts with."""


class Lookups(Protocol):
    """The catalog of chunks: `core.tiering.catalog`."""

    async def in_thread(self, function: Callable[..., Any], *args: object) -> Any:
        """Run a blocking look-up in a thread."""

    async def run_at(self, stream_id: int, slot: int, offset: int) -> RunRow | None:
        """The first run that ends behind `offset`."""

    def iter_runs(self, stream_id: int, slot: int, offset: int) -> Iterator[RunRow]:
        """All runs that end behind `offset`, in order. Blocks."""

    async def chunk(self, chunk_id: ChunkId) -> ChunkRow | None:
        """A chunk in any state."""


class Indices:
    """The indices of one container's chunks, which open runs. For the event loop."""

    def __init__(
        self,
        lookups: Lookups,
        storage: Storage,
        gets: Gets,
        pages: Pages,
        pool: ThreadPoolExecutor,
        bytes_max: int,
    ) -> None:
        self._lookups = lookups
        self._storage = storage
        self._gets = gets
        self._pages = pages
        self._pool = pool
        self._bytes_max = bytes_max
        self._indices: OrderedDict[ChunkId, PackedIndex] = OrderedDict()
        self._opening: dict[ChunkId, Get] = {}
        self._used = 0

    @property
    def used(self) -> int:
        """Bytes of indices in memory."""
        return self._used

    async def open(self, row: RunRow) -> OpenRun | None:
        """A run, ready to be read; None if nothing is left of it. Raises StoreError."""
        if not row.entries:
            return None
        key = chunk_key(row.chunk)
        index = self._indices.get(row.chunk)
        if index is None:
            get = self._opening.get(row.chunk)
            if get is None:
                get = self._gets.start(partial(self._read, row, key), TAIL_BYTES)
                self._opening[row.chunk] = get
                get.done.add_done_callback(partial(self._opened, row.chunk))
            index = await self._gets.wait(get)
            assert isinstance(index, PackedIndex)
        else:
            self._indices.move_to_end(row.chunk)
        try:
            packed = index.run_of(row.stream_id, row.segment_id, row.slot)
            if packed is None or packed.position != row.position or packed.length != row.length:
                raise BadChunk(row.position, f"the object's index knows nothing of slot {row.slot} here")
        except BadChunk as error:
            raise CorruptChunk(key, error.position, error.why) from error
        return OpenRun(row.chunk, key, packed, self._pages.page_bytes(packed.block_bytes))

    def forget(self, chunk: ChunkId) -> None:
        """Drop the index of an object that is gone, or about to be."""
        index = self._indices.pop(chunk, None)
        if index is not None:
            self._used -= _charge(index)

    async def _read(self, row: RunRow, key: str) -> PackedIndex:
        what = f"the index of {key!r}"
        known = await self._lookups.chunk(row.chunk)
        if known is None:
            raise MissingChunk(key, what)
        size = known.size
        try:
            if size < HEADER_SIZE + FOOTER_SIZE:
                raise BadChunk(size, "too short for a chunk")
            tail = await self._range(what, key, max(0, size - TAIL_BYTES), min(size, TAIL_BYTES))
            footer = decode_footer(tail[-FOOTER_SIZE:], size)
            missing = footer.index_length + FOOTER_SIZE - len(tail)
            if missing > 0:
                tail = await self._range(what, key, footer.index_position, missing) + tail
            index = await asyncio.get_running_loop().run_in_executor(self._pool, _decode, tail, footer)
            if index.id != row.chunk:
                raise BadChunk(0, "is the object of another chunk")
        except BadChunk as error:
            raise CorruptChunk(key, error.position, error.why) from error
        return index

    async def _range(self, what: str, key: str, start: int, length: int) -> bytes:
        reading: Awaitable[bytes] = translated(what, self._storage.get_range(key, start, length))
        return await reading

    def _opened(self, chunk: ChunkId, done: asyncio.Future[PackedIndex]) -> None:
        self._opening.pop(chunk, None)
        if done.cancelled() or done.exception() is not None:
            return
        self.forget(chunk)
        self._indices[chunk] = done.result()
        self._used += _charge(done.result())
        while self._used > self._bytes_max and len(self._indices) > 1:
            self._used -= _charge(self._indices.popitem(last=False)[1])


def _decode(tail: bytes, footer: Footer) -> PackedIndex:
    stop = len(tail) - FOOTER_SIZE
    return PackedIndex(tail[stop - footer.index_length : stop], footer)


def _charge(index: PackedIndex) -> int:
    return max(index.size, INDEX_BYTES_MIN)
