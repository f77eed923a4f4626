"""Taking connections from listening sockets: one descriptor at a time, and only while there is one to take.

Invariants: a connection beyond a bound holds a descriptor only until it is closed, at once. When connections come too
fast, or this process has no descriptor, they wait in the kernel's queue and none is refused; if they come too fast for
one listener, the others go on. Other nodes wait only for descriptors, as in Kafka: rates are for clients. A turn takes
at most `TURN_MAX` connections, then gives way.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Sequence
from typing import Final

from gateway.network.binding import BACKLOG, Binding
from tier2.shortage import is_shortage

logger = logging.getLogger(__name__)

TURN_MAX: Final = 16
"""Connections that are taken in one turn of the loop: with all that is made for each, some 0.2 ms."""
SHORT_PAUSE_S: Final = 0.1
"""Pause after the process had no descriptor, or no memory, for a connection."""
TOLD_EVERY_S: Final = 10.0

INNER_PEER: Final = ("another node", 0)
"""The address of a connection that came by a socket file: only this machine's nodes know of it."""

Take = Callable[[socket.socket, tuple[str, int], Binding], None]


class Acceptor:
    """The sockets of all listeners. `take` gets each connection; `pace` says how long to wait before the next, and
    `pace_at` how long at one listener, by its name."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        take: Take,
        pace: Callable[[], float],
        pace_at: Callable[[str], float] = lambda name: 0.0,
    ) -> None:
        self._loop = loop
        self._take = take
        self._pace = pace
        self._pace_at = pace_at
        self._resting: dict[str, asyncio.TimerHandle] = {}  # listeners whose connections wait
        self._sockets: list[tuple[socket.socket, Binding]] = []
        self._watching = False
        self._pause: asyncio.TimerHandle | None = None
        self._told_s = -TOLD_EVERY_S
        self.shortages = 0
        self.waiting_s = 0.0  # how long connections were held up, in all

    def start(self, bindings: Sequence[Binding]) -> None:
        """Listen, and take connections as they come. Raises OSError."""
        for binding in bindings:
            for bound in binding.sockets:
                bound.listen(BACKLOG)
                self._sockets.append((bound, binding))
        self._watch()

    def stop(self) -> None:
        """Take no further connections; the sockets are closed."""
        self._unwatch()
        if self._pause is not None:
            self._pause.cancel()
        for rest in self._resting.values():
            rest.cancel()
        for bound, _ in self._sockets:
            bound.close()
        self._sockets.clear()

    def _watch(self) -> None:
        self._pause = None
        self._watching = True
        for bound, binding in self._sockets:
            if binding.name not in self._resting:
                self._loop.add_reader(bound, self._accept, bound, binding)

    def _unwatch(self) -> None:
        if self._watching:
            self._watching = False
            for bound, _ in self._sockets:
                self._loop.remove_reader(bound)

    def _wait(self, seconds: float) -> None:
        """Take no connection for a while."""
        self._unwatch()
        if self._pause is not None:
            self._pause.cancel()
        self.waiting_s += seconds
        self._pause = self._loop.call_later(seconds, self._watch)

    def _hold_up(self, seconds: float) -> None:
        """Take no client's connection for a while."""
        for bound, binding in self._sockets:
            if not binding.inner:
                self._loop.remove_reader(bound)
        if self._pause is None:
            self.waiting_s += seconds
            self._pause = self._loop.call_later(seconds, self._watch)

    def _rest(self, name: str, seconds: float) -> None:
        """Take no connection of one listener for a while."""
        for bound, binding in self._sockets:
            if binding.name == name:
                self._loop.remove_reader(bound)
        self.waiting_s += seconds
        self._resting[name] = self._loop.call_later(seconds, self._rested, name)

    def _rested(self, name: str) -> None:
        del self._resting[name]
        if self._watching:
            for bound, binding in self._sockets:
                if binding.name == name:
                    self._loop.add_reader(bound, self._accept, bound, binding)

    def _accept(self, bound: socket.socket, binding: Binding) -> None:
        for _ in range(TURN_MAX):
            if not self._watching or binding.name in self._resting:
                return
            if not binding.inner and (wait_s := self._pace()) > 0:
                self._hold_up(wait_s)
                return
            if (wait_s := self._pace_at(binding.name)) > 0:
                self._rest(binding.name, wait_s)
                return
            try:
                accepted, address = bound.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                self._not_accepted(error)
                return
            self._take(accepted, address[:2] or INNER_PEER, binding)

    def _not_accepted(self, error: OSError) -> None:
        """Pause: the socket is level-triggered, so the loop would try again at once, in vain."""
        self.shortages += is_shortage(error)
        now = time.monotonic()
        if now - self._told_s >= TOLD_EVERY_S:
            self._told_s = now
            logger.error("no connection can be taken just now, will be tried again", extra={"error": str(error)})
        self._wait(SHORT_PAUSE_S)
