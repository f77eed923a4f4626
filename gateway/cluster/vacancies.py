"""Containers that change their node just now: whoever asks for their leaders waits a moment, and is told the next one.

A client that hears of no leader asks again after 100 ms, then after twice as long each time. A container that is handed
over has its next leader within that time, so an answer that waits for it spares the client the rest of its pause. For
the same reason the next leader lets a request wait that reaches it a moment too early.

**Invariants**

- Nobody waits longer than `WAIT_S` at a time, and nobody for a container that has had no leader for `RECENT_S`: one
  that nobody can open holds up no client. Other answers of the same connection wait with this one.
- A wait decides nothing: afterwards the request is handled by what is so then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from typing import Final, Protocol

from gateway.cluster.nodes import NOBODY

WAIT_S: Final = 0.3
RECENT_S: Final = 3.0


class Leaders(Protocol):
    """Who leads a container; see `gateway.cluster.nodes`."""

    def leader(self, container_id: int) -> int: ...


class Vacancies:
    """See the module. For the event loop. `containers`: those of the cluster; none without one, and nobody waits."""

    def __init__(self, leaders: Leaders, containers: Iterable[int] = ()) -> None:
        self._leaders = leaders
        self._containers = tuple(containers)
        self._since: dict[int, float] = {}  # without a leader; the loop's time
        self._changed = asyncio.Event()
        self.coming: set[int] = set()
        """Containers that are being opened here."""

    def __repr__(self) -> str:
        return f"<Vacancies {sorted(self._since)}, coming {sorted(self.coming)}>"

    def __bool__(self) -> bool:
        """Whether a container has no leader."""
        return bool(self._since)

    def look(self) -> None:
        """Leaders may have changed."""
        now_s = asyncio.get_running_loop().time()
        for container in self._containers:
            if self._leaders.leader(container) == NOBODY:
                self._since.setdefault(container, now_s)
            else:
                self._since.pop(container, None)
        self._changed.set()
        self._changed = asyncio.Event()

    async def filled(self, containers: Collection[int]) -> None:
        """Wait until each of these has a leader, or has had none for long, or the time is over."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + WAIT_S
        while any(self._is_new(one) for one in containers) and loop.time() < deadline_s:
            try:
                async with asyncio.timeout_at(deadline_s):
                    await self._changed.wait()
            except TimeoutError:
                return

    def _is_new(self, container: int) -> bool:
        since_s = self._since.get(container)
        return since_s is not None and asyncio.get_running_loop().time() < since_s + RECENT_S
