"""Bounds on memory that all connections share, and the lines of connections that wait for it.

Invariants: `used` is the sum of charges that are not yet released. A bound is checked before an item
(a request, a response) is begun, so each check overshoots it by at most one item. Waiters are served
in the order of their arrival, from the loop, never from inside a release.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Hashable


class Budget:
    """Bytes of one kind, and callbacks that wait for room."""

    def __init__(self, limit: int, loop: asyncio.AbstractEventLoop) -> None:
        self.limit = limit
        self.used = 0
        self._loop = loop
        self._waiting: deque[Callable[[], None]] = deque()
        self._pumping = False

    def __repr__(self) -> str:
        return f"<Budget {self.used} of {self.limit}, {len(self._waiting)} waiting>"

    @property
    def exhausted(self) -> bool:
        return self.used >= self.limit

    @property
    def room(self) -> int:
        return max(0, self.limit - self.used)

    @property
    def waiters(self) -> int:
        return len(self._waiting)

    def charge(self, size: int) -> None:
        self.used += size

    def release(self, size: int) -> None:
        self.used -= size
        if self._waiting and not self._pumping and self.used < self.limit:
            self._pump_soon()

    def wait(self, callback: Callable[[], None]) -> None:
        """Call back once, when there is room (each waiter waits at most once at a time)."""
        self._waiting.append(callback)
        if self.used < self.limit and not self._pumping:
            self._pump_soon()

    def _pump_soon(self) -> None:
        self._pumping = True
        self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._pumping = False
        for _ in range(len(self._waiting)):  # a callback that must wait again goes to the end
            if self.used >= self.limit or not self._waiting:
                return
            self._waiting.popleft()()


class ReceiveBudget(Budget):
    """Bytes of requests that have arrived in part.

    If incomplete requests alone reach the bound, none of them could ever be completed; so one
    connection at a time may go on regardless. That one is bounded by the largest request and by the
    time that a request may take to arrive.
    """

    def __init__(self, limit: int, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(limit, loop)
        self._privileged: Hashable | None = None

    def admits(self, who: Hashable) -> bool:
        """May this connection receive more of its request now?"""
        if self.used < self.limit or self._privileged is who:
            return True
        if self._privileged is None:
            self._privileged = who
            return True
        return False

    def finished(self, who: Hashable, size: int) -> None:
        """The request is complete or its connection is gone."""
        self.used -= size
        if self._privileged is who:
            self._privileged = None
            if self._waiting and not self._pumping:
                self._pump_soon()
        elif self._waiting and not self._pumping and self.used < self.limit:
            self._pump_soon()

    def _pump(self) -> None:
        self._pumping = False
        for _ in range(len(self._waiting)):
            if not self._waiting or (self.used >= self.limit and self._privileged is not None):
                return
            self._waiting.popleft()()
