"""Tables: small key-value maps that a container keeps, changed only through its log.

The whole of a resident table is in memory (consumer-group offsets, producer-id blocks, configuration: small), RocksDB
holds a copy as of the last checkpoint. Of a stored table (one that grows with what is stored) memory holds only what
RocksDB does not have yet.

**Invariants**: a table holds what durable log records say, nothing more and nothing less; a reader never sees half of
a record. A stored table's change leaves memory only after RocksDB has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from core.log.records import Delete, Put

__all__ = ["STORED_TABLES", "Delete", "Put", "StoredTable", "Table", "new_table"]

STORED_TABLES: Final = frozenset({"runs", "chunks"})

GROUP_BYTES: Final = 8
"""The keys of a stored table begin with this many bytes that say what belongs together: a slot, a chunk's epoch."""


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

    def apply(self, operation: Put | Delete) -> None:
        """Take in what a durable record says."""
        if isinstance(operation, Put):
            self.entries[operation.key] = operation.value
        else:
            self.entries.pop(operation.key, None)

    def items(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """All entries whose key begins with `prefix`, in no order; safe against changes in between."""
        return ((key, value) for key, value in list(self.entries.items()) if key.startswith(prefix))


class StoredTable(Table):
    """What RocksDB does not have yet of a table that lives there."""

    __slots__ = ("_unsaved",)

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._unsaved: dict[bytes, dict[bytes, bytes | None]] = {}  # by group; None: deleted

    def __len__(self) -> int:
        return sum(map(len, self._unsaved.values()))

    def get(self, key: bytes) -> bytes | None:
        """The value if it is unsaved; None says only that it is not, or deleted."""
        return self._unsaved.get(key[:GROUP_BYTES], {}).get(key)

    def apply(self, operation: Put | Delete) -> None:
        value = operation.value if isinstance(operation, Put) else None
        self._unsaved.setdefault(operation.key[:GROUP_BYTES], {})[operation.key] = value

    def unsaved(self, group: bytes) -> dict[bytes, bytes | None]:
        """A copy of what is unsaved of a group; None: deleted. For any thread."""
        return dict(self._unsaved.get(group, {}))

    def groups(self) -> list[bytes]:
        """All groups of which something is unsaved. For any thread."""
        return list(self._unsaved)

    def saved(self, values: Iterable[tuple[bytes, bytes | None]]) -> None:
        """RocksDB has these now: those that did not change meanwhile leave memory."""
        for key, value in values:
            group = self._unsaved.get(key[:GROUP_BYTES])
            if group is not None and key in group and group[key] is value:
                del group[key]
                if not group:
                    del self._unsaved[key[:GROUP_BYTES]]


def new_table(name: str) -> Table:
    """An empty table of the kind that its name says."""
    return StoredTable(name) if name in STORED_TABLES else Table(name)
