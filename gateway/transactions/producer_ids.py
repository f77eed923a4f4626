"""Producer ids, handed out from blocks.

Keeps: an id is never given twice, also across crashes and power cuts: a block belongs to this process
only once the log says that the next block begins after it, and is synced, whatever the sync mode. A stop
loses the rest of its block, which costs nothing: there are 2^63 ids.

Table `producerids`: b"next" -> u64 big-endian, the first id of the next block.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Final

from core.applied.tables import Put
from core.store import Store

TABLE: Final = "producerids"
NEXT_KEY: Final = b"next"
_ID: Final = struct.Struct(">Q")

BLOCK_IDS: Final = 1_000
"""Ids of a block, as in Kafka: one synced write per thousand producers."""
IDS_MAX: Final = 2**63 - 1


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
            stored = self._store.table(TABLE).get(NEXT_KEY)
            first = 0 if stored is None else _ID.unpack(stored)[0]
            end = first + BLOCK_IDS
            assert end <= IDS_MAX, "a block a microsecond would last for 300 years"
            await self._store.update(Put(TABLE, NEXT_KEY, _ID.pack(end)))
            await self._store.synced()
            self._next, self._end = first, end
