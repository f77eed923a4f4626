"""The tail cache: the newest entries in memory, up to a number of bytes, oldest out first.

The entry's row in the slot's columns holds it (`SlotColumns.payload`); this keeps the order of eviction and the sum.

**Invariant**: `used` never exceeds `limit` after an add, counting each entry with what it keeps alive beside its bytes.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from core.index.rows import SlotColumns

ENTRY_OVERHEAD: Final = 200
"""Bytes that a cached entry costs beside itself: objects for the buffer, its view, its place in the queue."""


class TailCache:
    """The order of eviction and the sum of the entries that rows hold."""

    __slots__ = ("_queue", "limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit  # bytes
        self.used = 0  # bytes
        self._queue: deque[tuple[SlotColumns, int, int]] = deque()

    def __repr__(self) -> str:
        return f"<TailCache {self.used}/{self.limit} bytes, {len(self._queue)} entries>"

    def added(self, columns: SlotColumns, row: int, size: int) -> None:
        """Take in a row whose payload was set just now."""
        charge = size + ENTRY_OVERHEAD
        self._queue.append((columns, row, charge))
        self.used += charge
        if self.used > self.limit:
            self._evict()

    def _evict(self) -> None:
        queue = self._queue
        while self.used > self.limit:
            columns, row, charge = queue.popleft()
            self.used -= charge
            if row < len(columns.payload):
                columns.payload[row] = None
