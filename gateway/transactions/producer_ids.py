"""Producer ids, handed out from blocks.

Keeps: an id is never given twice, also across crashes and power cuts: the registry gives each block once. A stop loses
the rest of its block, which costs nothing: there are 2^63 ids.
"""

from __future__ import annotations

import asyncio
from typing import Final

from core.store import Store

BLOCK_IDS: Final = 1_000
"""Ids of a block, as in Kafka: one synced write per thousand producers."""


class ProducerIds:
    """Hands out ids for the whole broker."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._next = 0
        self._end = 0  # of the block that is ours
        self._claiming = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<ProducerIds next {self._next}, {self._end - self._next} left in the block>"

    async def allocate(self) -> int:
        """An id that no producer ever had. Raises StoreError when no block can be claimed."""
        while self._next == self._end:
            await self._claim()
        allocated = self._next
        self._next += 1
        return allocated

    async def _claim(self) -> None:
        async with self._claiming:
            if self._next != self._end:
                return  # claimed by another call while this one waited
            block = await self._store.registry.take_writer_ids(BLOCK_IDS)
            self._next, self._end = block.start, block.stop
