"""Tables: small key-value maps that a container keeps, changed only through its log.

A resident table is wholly in memory (consumer-group offsets, producer-id blocks, configuration: small). RocksDB holds
a copy as of the last checkpoint. A stored table grows with the data, so memory holds only the changes that RocksDB
does not have yet.

**Invariants**

- A table holds the outcome of the durable log records, nothing more and nothing less.
- A reader never sees half of a record.
- A stored table's change leaves memory only after RocksDB has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from core.log.records import Delete, Put

__all__ = ["STORED_TABLES", "Delete", "Put", "StoredTable", "Table", "new_table"]

STORED_TABLES: Final = frozenset({"runs", "chunks"})

GROUP_BYTES: Final = 8
"""The first bytes of a stored table's keys, which name the group: a slot, a chunk's epoch."""


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
        """Take in the operations of a durable record."""
        if isinstance(operation, Put):
            self.entries[operation.key] = operation.value
        else:
            self.entries.pop(operation.key, None)

    def items(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """All entries whose key begins with `prefix`, in no order; safe against changes in between."""
        return ((key, value) for key, value in list(self.entries.items()) if key.startswith(prefix))


class StoredTable(Table):
    """The changes of a table in RocksDB that RocksDB does not have yet."""

    __slots__ = ("_unsaved",)

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._unsaved: dict[bytes, dict[bytes, bytes | None]] = {}  # by group; None: deleted

    def __len__(self) -> int:
        return sum(map(len, self._unsaved.values()))

    def get(self, key: bytes) -> bytes | None:
        """The value if it is unsaved; None if it is saved, or deleted."""
        return self._unsaved.get(key[:GROUP_BYTES], {}).get(key)

    def apply(self, operation: Put | Delete) -> None:
        value = operation.value if isinstance(operation, Put) else None
        self._unsaved.setdefault(operation.key[:GROUP_BYTES], {})[operation.key] = value

    def unsaved(self, group: bytes) -> dict[bytes, bytes | None]:
        """A copy of a group's unsaved values; None: deleted. For any thread."""
        return dict(self._unsaved.get(group, {}))

    def groups(self) -> list[bytes]:
        """All groups with unsaved changes. For any thread."""
        return list(self._unsaved)

    def saved(self, values: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Drop these from memory, since RocksDB has them now, but for those that changed meanwhile."""
        for key, value in values:
            group = self._unsaved.get(key[:GROUP_BYTES])
            if group is not None and key in group and group[key] is value:
                del group[key]
                if not group:
                    del self._unsaved[key[:GROUP_BYTES]]


def new_table(name: str) -> Table:
    """An empty table, resident or stored by its name."""
    return StoredTable(name) if name in STORED_TABLES else Table(name)
