"""The guard before acknowledgements: does the coordinator still have our claim, now that the put is answered?

All containers of a node share its reads: a claim that comes while one is on its way waits for the next one. A read
names what the containers expect, so that the coordinator sends nothing where that holds.

**Invariant**: a question is answered by a read that began after it. An answer from before the put would tell nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from core.errors import StoreError

logger = logging.getLogger(__name__)

PAUSE_S: Final = 0.05
PAUSE_MAX_S: Final = 1.0

ReadEpochs = Callable[[Mapping[int, int]], Awaitable[Mapping[int, int]]]
"""The epochs of these containers' claims, at least, read after the call, which tells those that are expected. Raises
StoreError."""


@dataclass(slots=True)
class _Round:
    """Those who share a read."""

    answer: asyncio.Future[Mapping[int, int]]
    expected: dict[int, int] = field(default_factory=dict)  # the newest epoch of each container that was asked for


class Guard:
    """See the module. For the event loop."""

    def __init__(self, read: ReadEpochs) -> None:
        self._read = read
        self._next: _Round | None = None  # those who ask now
        self._reading: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Guard {'reads' if self._reading is not None else 'idle'}>"

    async def is_ours(self, container: int, epoch: int) -> bool:
        """Whether the container's claim has this epoch. Waits while the coordinator is away, or refuses."""
        asked = self._next
        if asked is None:
            asked = self._next = _Round(asyncio.get_running_loop().create_future())
            if self._reading is None:
                self._reading = asyncio.create_task(self._read_for_all(), name="guard")
        asked.expected[container] = max(epoch, asked.expected.get(container, epoch))
        return (await asyncio.shield(asked.answer)).get(container) == epoch

    async def close(self) -> None:
        """End. Whoever still waits is cancelled."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    async def _read_for_all(self) -> None:
        asked: _Round | None = None
        try:
            while self._next is not None:
                asked, self._next = self._next, None
                asked.answer.set_result(await self._epochs(asked.expected))
        finally:
            self._reading = None
            for left in (asked, self._next):
                if left is not None:
                    left.answer.cancel()

    async def _epochs(self, expected: Mapping[int, int]) -> Mapping[int, int]:
        pause_s = PAUSE_S
        while True:
            try:
                return await self._read(expected)
            except StoreError as error:
                logger.warning("acknowledgements wait for the coordinator", extra={"reason": str(error)})
            except Exception:  # whoever waits would wait for ever, and nobody would know why
                logger.exception("a defect: acknowledgements wait for the coordinator, which is asked again. Report it")
            await asyncio.sleep(pause_s)
            pause_s = min(PAUSE_MAX_S, 2 * pause_s)
