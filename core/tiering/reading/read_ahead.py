"""Sequential readers, which go on where an answer ended, and the pages that are loaded for them before they ask.

A reader is known by its slot and the offset that it will ask for next; nothing else ties two reads together. Its window
doubles each time it comes back, up to its share of `bytes_max` among the recent readers.

**Invariants**

- Pages loaded ahead and not reached yet are at most `bytes_max`, for all readers together.
- A reader that was silent for `RESTING_S`, or has more than its share, gives way to others: the pages loaded for it are
  ordinary pages from then on. After `IDLE_S` it is forgotten.
- Entries that the log holds are not loaded ahead.
- The runs of a reader follow one another: what is read on from them passes over nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict, deque
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Final

from core.errors import StoreError
from core.tiering.reading.gets import Get

if TYPE_CHECKING:
    from core.tiering.reading.indices import Indices, Lookups
    from core.tiering.reading.pages import OpenRun, Pages
    from core.tiering.rows import RunRow
    from tier2.chunk_format import ChunkId

logger = logging.getLogger(__name__)

FOLLOWERS_MAX: Final = 1024
IDLE_S: Final = 10.0
RESTING_S: Final = 0.5
SHARES_MAX: Final = 8
"""The most parts that the bytes are divided into: a smaller part is not worth a request."""
REQUESTS: Final = 3
"""The parts of a window: one that is being read, and two on their way."""
RUNS_AHEAD_MAX: Final = 4
"""The most runs that are opened behind the one being read: one answer takes several small ones."""

FollowerKey = tuple[int, int, int]


class Follower:
    """One reader that may come back: its position, and the pages on their way for it."""

    __slots__ = (
        "_ahead",
        "answers",
        "gets",
        "limit",
        "opening",
        "outstanding",
        "page",
        "position",
        "runs",
        "used_s",
        "window",
    )

    def __init__(self, row: RunRow, run: OpenRun, position: int, limit: int) -> None:
        self.runs: deque[tuple[RunRow, OpenRun]] = deque([(row, run)])  # the first is the one that is read
        self.position = position  # in the first run
        self.limit = limit  # the log has entries from here on
        self.answers = 0  # of its answers
        self.window = 0
        self.outstanding = 0
        self.page = 0  # of the last of `runs`: where read-ahead goes on
        self.gets: list[Get] = []
        self.opening: asyncio.Task[None] | None = None
        self.used_s = 0.0
        self._ahead: deque[tuple[OpenRun, int, int]] = deque()  # run, end of the stretch, its size

    @property
    def is_within(self) -> bool:
        """Whether it stands in a run that is open, and not at its end."""
        return bool(self.runs) and self.position < self.runs[0][1].packed.length

    def goes_on(self, number: int, position: int) -> None:
        """Move it to a position in one of its runs."""
        for _ in range(number):
            self.runs.popleft()
        self.position = position

    def note(self, run: OpenRun, stop: int, size: int) -> None:
        self._ahead.append((run, stop, size))
        self.outstanding += size

    def rests(self) -> list[Get]:
        """Keep nothing for it from now on; returns the pages that may still be on their way."""
        gets, self.gets = self.gets, []
        self._ahead.clear()
        self.outstanding = self.window = 0
        return gets

    def passed(self) -> int:
        """Take off the stretches that the reader has reached; returns their bytes."""
        gone = 0
        current = self.runs[0][1] if self.runs else None
        while self._ahead:
            run, stop, size = self._ahead[0]
            if run is current and stop > self.position:
                break
            if run is not current and any(run is later for _, later in self.runs):
                break
            self._ahead.popleft()
            gone += size
        self.outstanding -= gone
        self.gets = [get for get in self.gets if not get.done.done()]
        return gone


class ReadAhead:
    """All sequential readers of a container. For the event loop."""

    def __init__(self, lookups: Lookups, indices: Indices, pages: Pages, bytes_max: int) -> None:
        self._lookups = lookups
        self._indices = indices
        self._pages = pages
        self._bytes_max = bytes_max
        self._followers: OrderedDict[FollowerKey, Follower] = OrderedDict()  # the longest idle first
        self._used = 0

    def __repr__(self) -> str:
        return f"<ReadAhead {len(self._followers)} readers, {self._used}/{self._bytes_max} bytes>"

    def __len__(self) -> int:
        return len(self._followers)

    @property
    def used(self) -> int:
        """Bytes that were loaded ahead and not reached yet."""
        return self._used

    def find(self, key: FollowerKey) -> Follower | None:
        return self._followers.get(key)

    def moved(self, old: FollowerKey | None, new: FollowerKey, follower: Follower) -> None:
        """Note that a reader got its answer and stands at `new`. `old` is its expected place, if it was expected."""
        if old is not None and self._followers.get(old) is follower:
            del self._followers[old]
            if follower.answers:
                follower.window = max(2 * follower.window, 2 * follower.runs[0][1].page_bytes)
            follower.answers += 1
        other = self._followers.pop(new, None)
        if other is not None and other is not follower:
            self._forget(other)
        follower.used_s = time.monotonic()
        self._followers[new] = follower
        self._used -= follower.passed()
        self.sweep()
        self._load(new, follower)

    def sweep(self) -> None:
        """Forget readers that did not come back."""
        idle = time.monotonic() - IDLE_S
        while self._followers:
            key, oldest = next(iter(self._followers.items()))
            if oldest.used_s >= idle and len(self._followers) <= FOLLOWERS_MAX:
                return
            del self._followers[key]
            self._forget(oldest)

    def forget(self, chunk: ChunkId) -> None:
        """Forget all readers of an object: it is gone, or about to be."""
        for key, follower in list(self._followers.items()):
            if any(row.chunk == chunk for row, _ in follower.runs):
                del self._followers[key]
                self._forget(follower)

    def clear(self) -> None:
        for follower in self._followers.values():
            self._forget(follower)
        self._followers.clear()

    def _forget(self, follower: Follower) -> None:
        self._used -= follower.outstanding
        for get in follower.rests():
            self._pages.drop(get)
        if follower.opening is not None:
            follower.opening.cancel()
            follower.opening = None
        follower.runs.clear()

    def _load(self, key: FollowerKey, follower: Follower) -> None:
        """Begin as many loads as the window allows."""
        window = min(follower.window, self._bytes_max // self._awake())
        if not follower.runs or follower.opening is not None:
            return
        row, run = follower.runs[-1]
        if len(follower.runs) == 1:
            follower.page = max(follower.page, -(-follower.position // run.page_bytes))
        at_once = max(1, min(self._pages.get_bytes, window // REQUESTS) // run.page_bytes)
        stop = len(run.pages(0, _border(row, run, follower.limit)))
        while follower.page < stop:
            pages = range(follower.page, min(follower.page + at_once, stop))
            size = sum(map(run.page_size, pages))
            if follower.outstanding + size > window or not self._has_room(follower, size):
                return
            follower.gets += self._pages.ahead(run, pages)
            follower.note(run, min(pages.stop * run.page_bytes, run.packed.length), size)
            self._used += size
            follower.page = pages.stop
        if window and row.end < follower.limit and len(follower.runs) <= RUNS_AHEAD_MAX:
            follower.opening = asyncio.ensure_future(self._open_next(key, follower, row))

    def _awake(self) -> int:
        """The number of recent readers, at least one."""
        since = time.monotonic() - RESTING_S
        newest = islice(reversed(self._followers.values()), SHARES_MAX)
        return max(1, sum(1 for _ in takewhile(lambda follower: follower.used_s >= since, newest)))

    def _has_room(self, reader: Follower, size: int) -> bool:
        """Whether this many more bytes may be loaded. Resting readers, and those above their share, make room."""
        since, share = time.monotonic() - RESTING_S, self._bytes_max // self._awake()
        for other in self._followers.values():
            if self._used + size <= self._bytes_max:
                break
            if other is not reader and (other.used_s < since or other.outstanding > share):
                self._used -= other.outstanding
                for get in other.rests():
                    self._pages.drop(get)
        return self._used + size <= self._bytes_max

    async def _open_next(self, key: FollowerKey, follower: Follower, last: RunRow) -> None:
        opened = False
        try:
            row: RunRow | None = last
            run: OpenRun | None = None
            while run is None and row is not None and row.end < follower.limit:
                end = row.end
                row = await self._lookups.run_at(row.stream_id, row.slot, end)
                if row is not None and row.first > end:
                    row = None  # entries between them are lost: the reader hears of it when it reads on
                run = None if row is None else await self._indices.open(row)
            if row is not None and run is not None and follower.runs:
                follower.runs.append((row, run))
                follower.page = 0
                opened = True
        except StoreError as error:  # the reader hears of it when it reads on
            logger.debug("nothing loaded ahead", extra={"error": str(error)})
        finally:
            follower.opening = None
        if opened and any(known is follower for known in self._followers.values()):
            self._load(key, follower)


def _border(row: RunRow, run: OpenRun, limit: int) -> int:
    """The end of the part of a run that is worth loading."""
    if row.end <= limit:
        return run.packed.length
    return run.packed.point_position(run.packed.point_of(limit) + 1)
