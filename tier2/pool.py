"""Blocking calls with deadlines, in threads of their own.

Invariants: a caller waits no longer than its deadline, and neither threads nor waiting calls grow without bound. A
thread cannot be killed, so a call that hangs keeps its thread until its own time-out; that is why reads and writes have
a pool each. A call learns through its `Deadline` that its caller has given up.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from tier2.storage import TimedOut, Unavailable

T = TypeVar("T")

WAITING_PER_THREAD_MAX: Final = 64
"""Calls for each thread that may wait: more would only time out."""


class Deadline:
    """The time by which a blocking call must end; the call checks it between steps."""

    def __init__(self, what: str, timeout_s: float) -> None:
        self._what = what
        self._timeout_s = timeout_s
        self._end = time.monotonic() + timeout_s
        self._lock = threading.Lock()
        self._expired = False
        self._interrupt: Callable[[], None] | None = None

    def check(self) -> None:
        """Raise TimedOut when no time is left, or the caller has given up."""
        if self._expired or time.monotonic() >= self._end:
            raise self.timed_out()

    def timed_out(self) -> TimedOut:
        return TimedOut(f"{self._what} took longer than {self._timeout_s:g} s")

    def interrupt_with(self, interrupt: Callable[[], None] | None) -> None:
        """Set the function that ends the step which begins now; called at once if the caller has given up. None: the
        step is over."""
        with self._lock:
            self._interrupt = interrupt
            if self._expired and interrupt is not None:
                interrupt()

    def expire(self) -> None:
        """The caller has given up: end the call's step. From any thread."""
        with self._lock:
            self._expired = True
            if self._interrupt is not None:
                self._interrupt()


class BlockingPool:
    """A fixed number of threads, and a bounded number of calls that wait for one."""

    def __init__(self, name: str, threads: int) -> None:
        self._name = name
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._calls_max = threads * (1 + WAITING_PER_THREAD_MAX)
        self._lock = threading.Lock()
        self._active: set[Deadline] = set()
        self._closed = False

    def __repr__(self) -> str:
        return f"<BlockingPool {self._name}: {len(self._active)} of {self._calls_max} calls>"

    async def run(self, what: str, timeout_s: float, call: Callable[[Deadline], T]) -> T:
        """Run `call` in a thread. Raises its exceptions, TimedOut, and Unavailable when there are too many calls."""
        deadline = Deadline(what, timeout_s)
        with self._lock:
            if self._closed or len(self._active) >= self._calls_max:
                why = "is closed" if self._closed else f"has {len(self._active)} calls in hand, too many"
                raise Unavailable(f"{what}: {self._name} {why}")
            future = self._executor.submit(_call, call, deadline)
            self._active.add(deadline)
        future.add_done_callback(lambda _: self._done(deadline))
        waiting = asyncio.wrap_future(future)
        try:
            await asyncio.wait({waiting}, timeout=timeout_s)
            if waiting.cancelled():
                raise Unavailable(f"{what}: {self._name} has been closed")
            if waiting.done():
                return waiting.result()
            raise deadline.timed_out()
        finally:
            if not waiting.done():
                waiting.cancel()
                deadline.expire()

    def _done(self, deadline: Deadline) -> None:
        with self._lock:
            self._active.discard(deadline)

    def close(self) -> None:
        """Give up all calls; does not wait for those that hang."""
        with self._lock:
            self._closed = True
            active = list(self._active)
        self._executor.shutdown(wait=False, cancel_futures=True)
        for deadline in active:
            deadline.expire()


def _call(call: Callable[[Deadline], T], deadline: Deadline) -> T:
    deadline.check()
    return call(deadline)
