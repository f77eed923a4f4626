"""Tables: small key-value maps that a container keeps, changed only through its log.

A resident table is wholly in memory (consumer-group offsets, producer-id blocks, configuration: small). RocksDB holds
a copy as of the last checkpoint. A stored table grows with the data, so memory holds only the changes that RocksDB
does not have yet.

**Invariants**

- A table holds the outcome of the durable log records, nothing more and nothing less.
- A reader never sees half of a record, in whatever thread it is.
- A stored table's change leaves memory only after RocksDB has it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final

from core.log.records import Delete, Put
from core.turns import let_go

__all__ = ["STORED_TABLES", "Delete", "Put", "StoredTable", "Table", "new_table"]

STORED_TABLES: Final = frozenset({"runs", "chunks"})

ROWS_AT_ONCE: Final = 1_000
"""Keys that one step looks at: some 3 ms, what is done with a small row included."""
BYTES_AT_ONCE: Final = 64 * 1024
"""Bytes of values after which a step ends. A row that is longer is a step of its own."""

GROUP_BYTES: Final = 8
"""The first bytes of a stored table's keys, which name the group: a slot, a chunk's epoch."""


class Table:
    """One table's applied state."""

    __slots__ = ("_passes", "entries", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.entries: dict[bytes, bytes] = {}
        self._passes: list[_Pass] = []  # by those keys that are there now

    def __len__(self) -> int:
        return len(self.entries)

    def get(self, key: bytes) -> bytes | None:
        return self.entries.get(key)

    def apply(self, operation: Put | Delete) -> None:
        """Take in the operations of a durable record."""
        if self._passes:
            self._settle_passes(operation)
        if isinstance(operation, Put):
            self.entries[operation.key] = operation.value
        else:
            self.entries.pop(operation.key, None)

    def items(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """All entries whose key begins with `prefix`, in no order; safe against changes in between."""
        return ((key, value) for key, value in list(self.entries.items()) if key.startswith(prefix))

    async def in_steps(self, prefix: bytes = b"", most: int = ROWS_AT_ONCE) -> AsyncIterator[list[tuple[bytes, bytes]]]:
        """All entries whose key begins with `prefix`, in no order, some at a time, with others' work between two steps.

        A step looks at `most` keys at most. An entry is as it is when its step begins: one that was deleted by then is
        left out, and so may be one that comes after the first step.
        """
        passing = _Pass(self.entries)
        self._passes.append(passing)
        keys: list[bytes] = []
        first = 0
        try:
            while keys or (keys := passing.some(most)):
                step, first = self._step(keys, first, prefix)
                if step:
                    yield step
                if first == len(keys):
                    keys, first = [], 0
                await asyncio.sleep(0)
        finally:
            if passing in self._passes:
                self._passes.remove(passing)

    def _step(self, keys: Sequence[bytes], first: int, prefix: bytes) -> tuple[list[tuple[bytes, bytes]], int]:
        """Entries of the keys from number `first` on, and the number of the next one to look at."""
        step: list[tuple[bytes, bytes]] = []
        size = 0
        while first < len(keys):
            key = keys[first]
            value = self.entries.get(key) if key.startswith(prefix) else None
            if value is not None:
                if step and size + len(value) > BYTES_AT_ONCE:
                    break
                step.append((key, value))
                size += len(value)
            first += 1
        return step, first

    async def let_go(self) -> None:
        """Forget all, in turns: the container is closed. A walk through the table ends at once."""
        for passing in self._passes:
            passing.end()
        self._passes.clear()
        entries, self.entries = self.entries, {}
        await let_go(entries)

    def _settle_passes(self, operation: Put | Delete) -> None:
        """A change of values disturbs nobody; before keys come or go, those that go through them take what is left."""
        if isinstance(operation, Put) != (operation.key in self.entries):
            for passing in self._passes:
                passing.settle()
            self._passes.clear()


class _Pass:
    """One that goes through all keys of a table, of which it copies none as long as they are the same: a copy of a
    million takes 20 ms, and Python's collector looks at all of it for as long again."""

    __slots__ = ("_keys",)

    def __init__(self, keys: Iterable[bytes]) -> None:
        self._keys = iter(keys)

    def some(self, most: int) -> list[bytes]:
        """The next keys."""
        return list(islice(self._keys, most))

    def settle(self) -> None:
        """The keys are about to change."""
        self._keys = iter(list(self._keys))

    def end(self) -> None:
        """The keys are about to go."""
        self._keys = iter(())


class StoredTable(Table):
    """The changes of a table in RocksDB that RocksDB does not have yet.

    Threads look rows up while the loop applies records. So what is unsaved of a group is replaced and never changed.
    """

    __slots__ = ("_unsaved", "version")

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._unsaved: dict[bytes, Mapping[bytes, bytes | None]] = {}  # by group; None: deleted
        self.version = 0
        """Counts the records that have changed it: what was looked up in memory and then on the disk is of one moment
        if it is the same before and after. For any thread."""

    def __len__(self) -> int:
        return sum(map(len, self._unsaved.values()))

    def get(self, key: bytes) -> bytes | None:
        """The value if it is unsaved; None if it is saved, or deleted."""
        return self._unsaved.get(key[:GROUP_BYTES], {}).get(key)

    def is_saved(self, key: bytes) -> bool:
        """Whether RocksDB has the key as it is, or as little of it."""
        return key not in self._unsaved.get(key[:GROUP_BYTES], {})

    def apply(self, operation: Put | Delete) -> None:
        self.apply_all((operation,))

    def apply_all(self, operations: Iterable[Put | Delete]) -> None:
        """Take in all operations of a durable record on this table, at once for other threads."""
        changed: dict[bytes, dict[bytes, bytes | None]] = {}
        for operation in operations:
            group = operation.key[:GROUP_BYTES]
            new = changed.get(group)
            if new is None:
                new = changed[group] = dict(self._unsaved.get(group, {}))
            new[operation.key] = operation.value if isinstance(operation, Put) else None
        self._unsaved.update(changed)
        self.version += 1  # behind it: who has looked before finds that it has changed

    def unsaved(self, group: bytes) -> Mapping[bytes, bytes | None]:
        """A group's unsaved values as they are at one moment; None: deleted. For any thread."""
        return self._unsaved.get(group, {})

    def groups(self) -> list[bytes]:
        """All groups with unsaved changes. For any thread."""
        return list(self._unsaved)

    def saved(self, values: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Drop these from memory, since RocksDB has them now, but for those that changed meanwhile."""
        changed: dict[bytes, dict[bytes, bytes | None]] = {}
        for key, value in values:
            group = key[:GROUP_BYTES]
            known = changed.get(group, self._unsaved.get(group, {}))
            if key in known and known[key] is value:
                if group not in changed:
                    changed[group] = dict(known)
                del changed[group][key]
        for group, left in changed.items():
            if left:
                self._unsaved[group] = left
            else:
                del self._unsaved[group]


def new_table(name: str) -> Table:
    """An empty table, resident or stored by its name."""
    return StoredTable(name) if name in STORED_TABLES else Table(name)
