"""Opening batches without holding up others: a little on the event loop, the rest in threads.

A client's batch may take long to open: 64 MiB out of a few KiB, or hundreds of thousands of records, read in Python.
The code that opens a batch therefore reports each piece of work to a *pace* before it is done. On the loop, `LoopPace`
raises `LeavesLoop` when the piece would be too much. Nothing has been changed by then, and the same work begins again
in a thread under a `ThreadPace`: after each millisecond of Python it gives the interpreter back for as long as it had
it. Codecs and the native extension run without the interpreter's lock.

Invariant: `THREADS` batches are open in threads at a time, whatever arrives; others wait in line.
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
from gateway.records.walking import IS_NATIVE
from gateway.wire.error_codes import MESSAGE_TOO_LARGE
from gateway.wire.errors import InvalidBatch

LOOP_UNITS_MAX: Final = 8_000
"""Units of work in one turn of the loop, for all callers: some 10 ms. A unit is 1 µs: in Python a record, or a record
header."""
LOOP_BYTES_MAX: Final = 64 * 1024
"""Size to which one batch may grow on the loop: half a millisecond under the slowest codec."""
OPENING_UNITS: Final = 32
"""Cost of any decompression, in units."""
DECOMPRESSED_BYTES_PER_UNIT: Final = 512
COMPRESSED_BYTES_PER_UNIT: Final = 8
"""Input bytes of compression for one unit: the slowest levels manage some 10 MB a second."""

THREADS: Final = 2 if IS_NATIVE else 1
"""Python in a second thread would only take more turns from the event loop."""
BUSY_S_MAX: Final = 0.001
"""A thread keeps the interpreter for about this long, then pauses."""
PAUSE_S_MAX: Final = 0.005

_T = TypeVar("_T")


@final
class LeavesLoop(Exception):
    """The work is too much for the event loop, and must begin again in a thread."""


class Pace(Protocol):
    """Learns of work before it is done, and may delay or end it."""

    @property
    def bytes_max(self) -> int:
        """Largest size of a decompressed batch."""

    def begin(self, units: int) -> None:
        """The work has at least this many units. May raise, before anything is done."""

    def spend(self, units: int) -> None:
        """The next step has this many units. May pause, or raise."""

    def grows_too_large(self, error: InvalidBatch) -> Exception:
        """The exception for a batch that grows to more than `bytes_max`."""


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
    """In a thread."""

    __slots__ = ("_since_s",)

    bytes_max: int = DECOMPRESSED_BYTES_MAX

    def __init__(self) -> None:
        self._since_s = time.perf_counter()

    def begin(self, units: int) -> None:
        """Any amount of work may be done here."""

    def spend(self, units: int) -> None:
        busy_s = time.perf_counter() - self._since_s
        if busy_s >= BUSY_S_MAX:
            time.sleep(min(busy_s, PAUSE_S_MAX))
            self._since_s = time.perf_counter()

    def grows_too_large(self, error: InvalidBatch) -> Exception:
        return error


def content_of(header: BatchHeader, batch: memoryview, pace: Pace) -> Content:
    """The bytes of a batch's records, decompressed. Raises InvalidBatch, and the pace's exceptions."""
    body = batch[HEADER_BYTES:]
    if header.codec == NONE:
        return body
    pace.spend(OPENING_UNITS + len(body) // DECOMPRESSED_BYTES_PER_UNIT)
    if len(body) > pace.bytes_max:
        raise pace.grows_too_large(InvalidBatch(MESSAGE_TOO_LARGE, f"{len(body)} compressed bytes"))
    try:
        content = decompress(header.codec, body, pace.bytes_max)
    except InvalidBatch as error:
        if error.error_code == MESSAGE_TOO_LARGE:
            raise pace.grows_too_large(error) from None
        raise
    pace.spend(len(content) // DECOMPRESSED_BYTES_PER_UNIT)
    return content


class Openers:
    """The threads, and the line before them. For the event loop."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="opener")
        self._waiting = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._pace = LoopPace()
        self._spent = False  # any work in this turn of the loop

    def __repr__(self) -> str:
        return f"<Openers {self._waiting} batches waiting or open>"

    @property
    def waiting(self) -> int:
        """Batches that are open in a thread or wait for one."""
        return self._waiting

    def on_loop(self) -> LoopPace:
        """The pace for all batches opened in this turn of the loop."""
        if not self._spent:
            self._spent = True
            asyncio.get_running_loop().call_soon(self._next_turn)
        return self._pace

    def _next_turn(self) -> None:
        self._spent = False
        self._pace.units_left = LOOP_UNITS_MAX

    async def run(self, work: Callable[[Pace], _T]) -> _T:
        """Do the work in a thread; passes its exceptions on."""
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
        """Drop waiting work, and wait for the batches that are open."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)
