"""Opening batches without holding up others: a little on the event loop, the rest in a thread.

What a client sends may take seconds to open: 64 MiB out of a few KiB, or hundreds of thousands of records, read in
Python. Whoever opens a batch therefore has a *pace*, which hears of each piece of work before it is done. On the loop
that is `LoopPace`, which raises `LeavesLoop` when the piece would be too much; nothing has been changed by then, and
the same work begins again in the thread under a `ThreadPace`, which gives the interpreter back after each millisecond
for as long as it had it.

Invariant: one batch is open in the thread at a time, whatever arrives; who waits for it waits in line.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol, TypeVar, final

from gateway.records.compression import decompress
from gateway.records.record_batch import HEADER_BYTES, NONE, BatchHeader
from gateway.records.record_check import Content
from gateway.records.records import DECOMPRESSED_BYTES_MAX
from gateway.wire.error_codes import MESSAGE_TOO_LARGE
from gateway.wire.errors import InvalidBatch

LOOP_UNITS_MAX: Final = 8_000
"""Work in one turn of the loop, whoever asks: some 10 ms. A unit, a record or a record header, is a microsecond."""
LOOP_BYTES_MAX: Final = 64 * 1024
"""What one batch may grow to on the loop."""
OPENING_UNITS: Final = 32
"""What it costs to decompress anything, in units."""
DECOMPRESSED_BYTES_PER_UNIT: Final = 512
COMPRESSED_BYTES_PER_UNIT: Final = 8
"""Of what is compressed: the slowest levels manage some 10 MB a second."""

THREADS: Final = 1
BUSY_S_MAX: Final = 0.001
"""The thread keeps the interpreter for about this long, then pauses."""
PAUSE_S_MAX: Final = 0.005

_T = TypeVar("_T")


@final
class LeavesLoop(Exception):
    """The work is too much for the event loop, and is to begin again in the thread."""


class Pace(Protocol):
    """Hears of work before it is done."""

    @property
    def bytes_max(self) -> int:
        """What a batch may grow to when it is decompressed."""

    def begin(self, units: int) -> None:
        """At least so much is to be done. May raise, rather than be left half-way."""

    def spend(self, units: int) -> None:
        """So much is done next. May pause, or raise."""

    def grows_too_large(self, error: InvalidBatch) -> Exception:
        """What to raise for a batch that grows to more than `bytes_max`."""


class LoopPace:
    """On the event loop."""

    __slots__ = ("units_left",)

    bytes_max: int = LOOP_BYTES_MAX

    def __init__(self, units: int = LOOP_UNITS_MAX) -> None:
        self.units_left = units

    def begin(self, units: int) -> None:
        if units > self.units_left:
            raise LeavesLoop

    def spend(self, units: int) -> None:
        self.units_left -= units
        if self.units_left < 0:
            raise LeavesLoop

    def grows_too_large(self, error: InvalidBatch) -> Exception:
        return LeavesLoop()


class ThreadPace:
    """In the thread."""

    __slots__ = ("_since_s",)

    bytes_max: int = DECOMPRESSED_BYTES_MAX

    def __init__(self) -> None:
        self._since_s = time.perf_counter()

    def begin(self, units: int) -> None:
        """All the work is welcome here."""

    def spend(self, units: int) -> None:
        busy_s = time.perf_counter() - self._since_s
        if busy_s >= BUSY_S_MAX:
            time.sleep(min(busy_s, PAUSE_S_MAX))
            self._since_s = time.perf_counter()

    def grows_too_large(self, error: InvalidBatch) -> Exception:
        return error


def content_of(header: BatchHeader, batch: memoryview, pace: Pace) -> Content:
    """The bytes of a batch's records, decompressed. Raises InvalidBatch, and what the pace raises."""
    body = batch[HEADER_BYTES:]
    if header.codec == NONE:
        return body
    pace.spend(OPENING_UNITS + len(body) // DECOMPRESSED_BYTES_PER_UNIT)
    try:
        content = decompress(header.codec, body, pace.bytes_max)
    except InvalidBatch as error:
        if error.error_code == MESSAGE_TOO_LARGE:
            raise pace.grows_too_large(error) from None
        raise
    pace.spend(len(content) // DECOMPRESSED_BYTES_PER_UNIT)
    return content


class Openers:
    """The thread, and the line before it. For the event loop."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="opener")
        self._waiting = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._pace = LoopPace()
        self._spent = False  # something in this turn of the loop

    def __repr__(self) -> str:
        return f"<Openers {self._waiting} batches waiting or open>"

    @property
    def waiting(self) -> int:
        """Batches that are open in the thread or wait for it."""
        return self._waiting

    def on_loop(self) -> LoopPace:
        """The pace of all that is opened in this turn of the loop."""
        if not self._spent:
            self._spent = True
            asyncio.get_running_loop().call_soon(self._next_turn)
        return self._pace

    def _next_turn(self) -> None:
        self._spent = False
        self._pace.units_left = LOOP_UNITS_MAX

    async def run(self, work: Callable[[Pace], _T]) -> _T:
        """Do the work in the thread. Raises what it raises."""
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: work(ThreadPace()))
        finally:
            self._waiting -= 1

    def keep(self, task: asyncio.Task[None]) -> None:
        """Hold on to a task that opens batches, until it is done."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Drop what waits, and wait for the batch that is open."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)
