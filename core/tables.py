"""Tables: small key-value maps that a container keeps, changed only through its log.

The whole of each table is in memory (consumer-group offsets, producer-id blocks, configuration: small), RocksDB holds a
copy as of the last checkpoint.

**Invariant**: a table holds what durable log records say, nothing more and nothing less; a reader never sees half of
a record.
"""

from __future__ import annotations

from collections.abc import Iterator

from core.log.records import Delete, Put

__all__ = ["Delete", "Put", "Table"]


class Table:
    """One table's applied state."""

    __slots__ = ("entries", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.entries: dict[bytes, bytes] = {}

    def __len__(self) -> int:
        return len(self.entries)

    def get(self, key: bytes) -> bytes | None:
        return self.entries.get(key)

    def items(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """All entries whose key begins with `prefix`, in no order; safe against changes in between."""
        return ((key, value) for key, value in list(self.entries.items()) if key.startswith(prefix))
