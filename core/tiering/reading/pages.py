"""Pages: checked bytes of chunks in memory, read once however many readers want them.

A run is cut into pages of whole blocks. Neighbouring missing pages come with one request. Each page is a buffer of its
own, so that a page keeps no more alive than it counts with. It can be read as soon as it has come, while the rest of
its request is still on its way.

**Invariants**

- Pages in memory and on their way are at most `bytes_max` together, unless one request is larger than that.
- Every block of a page is checked when it has come, whatever its source. A page knows its bad blocks.
- A page is on its way at most once at a time.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from core.config import MIB
from core.errors import StoreClosed
from core.tiering.reading.gets import Get, Gets, heard, translated

if TYPE_CHECKING:
    from core.log.format import Buffer
    from core.tiering.reading.disk_cache import DiskCache
    from core.tiering.reading.yielding import Yielding
    from tier2.chunk_format import ChunkId
    from tier2.packed_index import PackedRun
    from tier2.storage import Storage

PAGE_BYTES_MAX: Final = MIB
GET_BYTES_MAX: Final = 8 * MIB
PAGES_MIN: Final = 8
"""The least number of pages that a cache has room for: a small cache has small pages."""
GETS_MIN: Final = 4
BLOCK_BYTES: Final = 64 << 10

PageKey = tuple[int, int, int, int, int]


class Page(NamedTuple):
    """Some blocks of a run; `bad` are stretches of the run whose block fails its CRC."""

    data: Buffer
    bad: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class OpenRun:
    """A run whose object's index has been read."""

    chunk: ChunkId
    key: str  # of the object
    packed: PackedRun
    page_bytes: int

    def page_key(self, number: int) -> PageKey:
        chunk = self.chunk
        return chunk.container, chunk.epoch, chunk.sequence, self.packed.position, number

    def page_size(self, number: int) -> int:
        return min(self.page_bytes, self.packed.length - number * self.page_bytes)

    def pages(self, start: int, stop: int) -> range:
        """The numbers of the pages that hold a stretch."""
        return range(start // self.page_bytes, -(-min(stop, self.packed.length) // self.page_bytes))


@dataclass(slots=True)
class PageCounters:
    """Counters for the operator: pages that were there, and pages that came."""

    hits: int = 0
    loads: int = 0
    disk_loads: int = 0


class Pages:
    """The pages of all chunks of a container. For the event loop."""

    def __init__(
        self,
        storage: Storage,
        gets: Gets,
        pool: ThreadPoolExecutor,
        bytes_max: int,
        disk: DiskCache | None,
        yielding: Yielding,
    ) -> None:
        self._storage = storage
        self._yielding = yielding
        self._gets = gets
        self._pool = pool
        self._bytes_max = bytes_max
        self._disk = disk
        self._disk_gets = Gets(bytes_max // 2)
        self._pages: OrderedDict[PageKey, Page] = OrderedDict()
        self._loading: dict[PageKey, Get] = {}
        self._awaited: dict[PageKey, asyncio.Future[Page]] = {}
        self._used = 0
        self.counters = PageCounters()
        self.get_bytes = _rounded(bytes_max // GETS_MIN, GET_BYTES_MAX)
        gets.begun = self._disk_gets.begun = self._make_room

    def __repr__(self) -> str:
        return f"<Pages {self.used}/{self._bytes_max} bytes, {len(self._loading)} on their way>"

    @property
    def used(self) -> int:
        """Bytes of pages in memory and on their way."""
        return self._used + self._gets.running_bytes + self._disk_gets.running_bytes

    def page_bytes(self, block_bytes: int) -> int:
        """The size of pages of a chunk with such blocks."""
        size = _rounded(self._bytes_max // PAGES_MIN, PAGE_BYTES_MAX)
        return max(size - size % block_bytes, block_bytes)

    def find(self, run: OpenRun, number: int) -> Page | None:
        key = run.page_key(number)
        page = self._pages.get(key)
        if page is not None:
            self._pages.move_to_end(key)
            self.counters.hits += 1
        return page

    async def load(self, run: OpenRun, wanted: range) -> dict[int, Page]:
        """These pages, from memory or afar. Raises StoreError."""
        found: dict[int, Page] = {}
        missing: list[int] = []
        for number in wanted:
            page = self.find(run, number)
            if page is not None:
                found[number] = page
            else:
                missing.append(number)
        keys = {number: run.page_key(number) for number in missing}
        list(self._start(run, [number for number, key in keys.items() if key not in self._loading], ahead=False))
        waited = {number: self._wait(key) for number, key in keys.items()}
        for get in dict.fromkeys(self._loading[key] for key in keys.values()):
            self._gets_of(get).want(get)
        for number, page_came in waited.items():
            await asyncio.wait((page_came,))
            found[number] = page_came.result()
        return found

    def _wait(self, key: PageKey) -> asyncio.Future[Page]:
        """The future of a page that is on its way."""
        waiting = self._awaited.get(key)
        if waiting is None:
            waiting = self._awaited[key] = asyncio.get_running_loop().create_future()
            waiting.add_done_callback(heard)
        return waiting

    def ahead(self, run: OpenRun, wanted: range) -> list[Get]:
        """Begin to load the pages that are neither here nor on their way."""
        known = self._loading, self._pages
        missing = [number for number in wanted if not any(run.page_key(number) in place for place in known)]
        return list(self._start(run, missing, ahead=True))

    def drop(self, get: Get) -> None:
        """Give up read-ahead, if it has not begun."""
        if self._gets.drop(get):
            for key in [key for key, loading in self._loading.items() if loading is get]:
                del self._loading[key]

    def forget(self, chunk: ChunkId) -> None:
        """Drop the pages of an object that is gone, or about to be."""
        ours = chunk.container, chunk.epoch, chunk.sequence
        for key in [key for key in self._pages if key[:3] == ours]:
            self._used -= len(self._pages.pop(key).data)
            if self._disk is not None:
                self._disk.forget(key)

    async def close(self) -> None:
        await self._disk_gets.close()
        self._pages.clear()
        self._used = 0

    # Loading

    def _gets_of(self, get: Get) -> Gets:
        return self._disk_gets if get.local else self._gets

    def _start(self, run: OpenRun, missing: Sequence[int], *, ahead: bool) -> Iterator[Get]:
        at_once = max(1, self.get_bytes // run.page_bytes)
        for local, first, last in _stretches(missing, at_once, lambda number: self._on_disk(run, number)):
            size = sum(run.page_size(number) for number in range(first, last))
            if local:
                self.counters.disk_loads += last - first
            else:
                self.counters.loads += last - first
            gets = self._disk_gets if local else self._gets
            get = gets.start(partial(self._read, run, first, last, local), size, ahead=ahead, local=local)
            keys = [run.page_key(number) for number in range(first, last)]
            self._loading |= dict.fromkeys(keys, get)
            get.done.add_done_callback(partial(self._ended, keys, get))
            yield get

    def _on_disk(self, run: OpenRun, number: int) -> bool:
        return self._disk is not None and run.page_key(number) in self._disk

    async def _read(self, run: OpenRun, first: int, last: int, local: bool) -> None:
        get = self._loading[run.page_key(first)]
        if local and self._disk is not None:
            numbers = range(first, last)
            kept = await self._disk.read([run.page_key(number) for number in numbers])
            pages = None if kept is None else await self._checked(run, first, kept)
            if pages is not None and not any(page.bad for page in pages):
                for number, page in zip(numbers, pages, strict=True):
                    self._came(get, run.page_key(number), page, False)
                return
            for number in numbers:
                self._disk.forget(run.page_key(number))
        start, stop = first * run.page_bytes, min(last * run.page_bytes, run.packed.length)
        what = f"slot {run.packed.slot}'s entries from {run.packed.first} on"
        loop = asyncio.get_running_loop()
        stretch = self._yielding.stretch() if get.ahead else None

        def came(number: int, piece: Buffer) -> None:
            """Check bytes in the thread that has received them, while the processor still has them at hand."""
            page = _checked(run, first + number, piece)
            loop.call_soon_threadsafe(self._came, get, run.page_key(first + number), page, True)
            if stretch is not None:
                stretch.yield_now()

        await translated(
            what, self._storage.get_pieces(run.key, run.packed.position + start, stop - start, run.page_bytes, came)
        )

    async def _checked(self, run: OpenRun, first: int, pieces: Sequence[bytes]) -> list[Page]:
        def check() -> list[Page]:
            return [_checked(run, number, piece) for number, piece in enumerate(pieces, first)]

        return await asyncio.get_running_loop().run_in_executor(self._pool, check)

    def _came(self, get: Get, key: PageKey, page: Page, keep: bool) -> None:
        """Take in a page, before the request that brings it has ended."""
        if self._loading.get(key) is not get:
            return  # given up, or brought by a try before this one
        del self._loading[key]
        self._gets_of(get).brought(get, len(page.data))
        if not page.bad:  # a bad page is read again when asked for again: the object may have been repaired
            old = self._pages.pop(key, None)
            self._used += len(page.data) - (0 if old is None else len(old.data))
            self._pages[key] = page
            if keep and self._disk is not None:
                self._disk.write(key, page.data)
        waiting = self._awaited.pop(key, None)
        if waiting is not None:
            waiting.set_result(page)
        self._make_room()

    def _ended(self, keys: Sequence[PageKey], get: Get, done: asyncio.Future[None]) -> None:
        """Give the reason to the waiters of pages that did not come."""
        for key in keys:
            if self._loading.get(key) is not get:
                continue
            del self._loading[key]
            waiting = self._awaited.pop(key, None)
            error = None if done.cancelled() else done.exception()
            if waiting is not None:
                waiting.set_exception(error or StoreClosed("the store is stopping"))

    def _make_room(self) -> None:
        while self._pages and self.used > self._bytes_max:
            self._used -= len(self._pages.popitem(last=False)[1].data)


def _checked(run: OpenRun, number: int, data: Buffer) -> Page:
    return Page(data, run.packed.bad_blocks(number * run.page_bytes, data))


def _rounded(size: int, most: int) -> int:
    """Whole blocks, at least one."""
    return max(BLOCK_BYTES, min(size, most) // BLOCK_BYTES * BLOCK_BYTES)


def _stretches(numbers: Sequence[int], at_once: int, kind: Callable[[int], bool]) -> Iterator[tuple[bool, int, int]]:
    """Groups of neighbouring numbers of one kind, up to a length: kind, first, and the one after the last."""
    begin = 0
    for place in range(1, len(numbers) + 1):
        first = numbers[begin]
        if (
            place == len(numbers)
            or numbers[place] != first + place - begin
            or place - begin == at_once
            or kind(numbers[place]) != kind(first)
        ):
            yield kind(first), first, first + place - begin
            begin = place
