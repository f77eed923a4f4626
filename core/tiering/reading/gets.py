"""Which requests for chunks run, and in what order: requests that a reader waits for go before read-ahead.

**Invariants**

- At most `GETS_MAX` requests run at a time, and at most `AHEAD_GETS_MAX` of them are read-ahead. Together they bring at
  most `bytes_max`, unless one alone is larger.
- A request with a waiting reader is never behind read-ahead that has not begun.
- A request outlives its waiting readers: the bytes are there for the next reader.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

from core.errors import CorruptChunk, MissingChunk, StoreClosed, TierUnavailable
from tier2.storage import Corrupt, ObjectNotFound, StorageError

logger = logging.getLogger(__name__)

GETS_MAX: Final = 6
"""Fewer than the S3 driver's threads for reading, so that a look-up of an object's size finds one."""
AHEAD_GETS_MAX: Final = 4
SAY_AGAIN_S: Final = 30.0
"""The pause between two warnings that long-term storage cannot be read."""


class Get:
    """One request: waiting, running or done."""

    __slots__ = ("_work", "ahead", "begun", "done", "local", "size")

    def __init__(self, work: Callable[[], Awaitable[Any]], size: int, *, ahead: bool, local: bool) -> None:
        self._work = work
        self.begun = False
        self.size = size  # that it will bring
        self.ahead = ahead
        self.local = local  # on this machine's disk, not in long-term storage
        self.done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.done.add_done_callback(heard)

    async def run(self) -> None:
        try:
            found = await self._work()
        except BaseException as error:
            if not self.done.done():
                failed = StoreClosed("the store is stopping") if isinstance(error, asyncio.CancelledError) else error
                self.done.set_exception(failed)
            if not isinstance(error, Exception):
                raise
        else:
            if not self.done.done():
                self.done.set_result(found)


def heard(done: asyncio.Future[Any]) -> None:
    """Take the error of a future, so that asyncio does not report one that nobody waits for."""
    if not done.cancelled():
        done.exception()


class Gets:
    """The requests of one reader."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._wanted: deque[Get] = deque()
        self._ahead: deque[Get] = deque()
        self._running: dict[asyncio.Task[None], Get] = {}
        self._running_bytes = 0
        self._running_ahead = 0
        self._closed = False
        self.begun: Callable[[], None] = lambda: None
        """The listener for a request that begins: its bytes need room."""
        self._failing_since: float | None = None
        self._said = 0.0

    def __repr__(self) -> str:
        return f"<Gets {len(self._running)} running, {len(self._wanted)} wanted, {len(self._ahead)} ahead>"

    @property
    def running_bytes(self) -> int:
        """Bytes on their way."""
        return self._running_bytes

    def start(self, work: Callable[[], Awaitable[Any]], size: int, *, ahead: bool = False, local: bool = False) -> Get:
        """Run some work that brings `size` bytes, when its turn comes. Raises StoreClosed."""
        if self._closed:
            raise StoreClosed("the store is stopping")
        get = Get(work, size, ahead=ahead, local=local)
        (self._ahead if ahead else self._wanted).append(get)
        self._begin()
        return get

    def want(self, get: Get) -> None:
        """Let it go before read-ahead, since a reader waits for it from now on."""
        if get.ahead and not get.begun and not get.done.done():
            get.ahead = False
            self._ahead.remove(get)
            self._wanted.append(get)
            self._begin()

    async def wait(self, get: Get) -> Any:
        """The result or error of the work. A cancelled waiter cancels no other waiter."""
        self.want(get)
        await asyncio.wait((get.done,))
        return get.done.result()

    def brought(self, get: Get, size: int) -> None:
        """Note that this many of its bytes are here, before it has ended."""
        get.size -= size
        self._running_bytes -= size

    def drop(self, get: Get) -> bool:
        """Forget read-ahead that has not begun; False when it is too late for that."""
        if not get.ahead or get.begun or get.done.done():
            return False
        self._ahead.remove(get)
        get.done.cancel()
        return True

    async def close(self) -> None:
        """Give up everything; waiters get StoreClosed."""
        self._closed = True
        for get in (*self._wanted, *self._ahead):
            if not get.done.done():
                get.done.set_exception(StoreClosed("the store is stopping"))
        self._wanted.clear()
        self._ahead.clear()
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _begin(self) -> None:
        while len(self._running) < GETS_MAX:
            if self._wanted:
                waiting = self._wanted
            elif self._ahead and self._running_ahead < AHEAD_GETS_MAX:
                waiting = self._ahead
            else:
                return
            if self._running and self._running_bytes + waiting[0].size > self._bytes_max:
                return
            get = waiting.popleft()
            get.begun = True
            task = asyncio.ensure_future(get.run())
            self._running[task] = get
            self._running_bytes += get.size
            self._running_ahead += get.ahead
            task.add_done_callback(self._ended)
            self.begun()

    def _ended(self, task: asyncio.Task[None]) -> None:
        get = self._running.pop(task)
        self._running_bytes -= get.size
        self._running_ahead -= get.ahead
        self._note(get)
        if not self._closed:
            self._begin()

    def _note(self, get: Get) -> None:
        """Log once that long-term storage cannot be read, again from time to time, and once when it can be read."""
        error = None if get.done.cancelled() else get.done.exception()
        now = time.monotonic()
        if isinstance(error, TierUnavailable):
            if self._failing_since is None or now >= self._said + SAY_AGAIN_S:
                logger.warning("long-term storage cannot be read just now", extra={"error": str(error)})
                self._said = now
            self._failing_since = self._failing_since or now
        elif self._failing_since is not None and error is None:
            logger.info("long-term storage can be read again", extra={"seconds": round(now - self._failing_since, 1)})
            self._failing_since = None


async def translated(what: str, call: Awaitable[Any]) -> Any:
    """The result of a call of the storage; its errors become the store's."""
    try:
        return await call
    except ObjectNotFound as error:
        raise MissingChunk(error.key, what) from error
    except Corrupt as error:
        raise CorruptChunk(error.key, error.position, error.why) from error
    except StorageError as error:
        raise TierUnavailable(f"{what} cannot be read just now: {error}") from error
