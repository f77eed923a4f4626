"""How groups that are rows of a table are stored, and read again.

Keeps: a group has one write in flight, and what changes meanwhile goes into the next one, so that a thousand heartbeats
share a few syncs. A write that fails is not lost: its rows go with the next. The head of a group lands last; if the
rows need several records, one that says so lands first. A long row is encoded, and decoded, in a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Generic, TypeVar

from kio.schema.errors import ErrorCode

from core.applied.tables import Delete, Put
from core.turns import Turn
from gateway.groups.journal import GroupJournal
from gateway.groups.modern.group import ModernGroup
from gateway.groups.modern.rows import Row

ROWS_PER_RECORD_MAX: Final = 1_000
"""Rows in one record of the log."""
BYTES_PER_RECORD_MAX: Final = 4 * 1024 * 1024
"""Bytes of rows in one record of the log, beyond which it takes no further row."""

SIZE_AT_ONCE: Final = 2_000
"""Topics, partitions, names or tasks of a row that is encoded at once, in some 2 ms."""
BYTES_AT_ONCE: Final = 32 * 1024
"""Bytes of a row that is decoded at once, in some 2 ms."""

KeyT = TypeVar("KeyT")
GroupT = TypeVar("GroupT", bound=ModernGroup[Any, Any, Any, Any])


@dataclass(frozen=True, slots=True)
class Form(Generic[GroupT, KeyT]):
    """How groups of one kind are rows: `head` is the row of a group itself, `unfinished` its value as long as other
    rows are still to come, `keys` all rows that a group may have. `decode` gives what a row says, and raises
    UnreadableRecord, as `decode_key` does."""

    table: str
    head: KeyT
    encode_key: Callable[[str, KeyT], bytes]
    decode_key: Callable[[bytes], tuple[str, KeyT]]
    decode: Callable[[KeyT, bytes], Any]
    row: Callable[[GroupT, KeyT], Row | None]
    unfinished: Callable[[GroupT], bytes]
    keys: Callable[[GroupT], Iterable[KeyT]]

    def deletion(self, group_id: str, key: KeyT) -> Delete:
        return Delete(self.table, self.encode_key(group_id, key))


class Landing(Generic[GroupT, KeyT]):
    """See the module."""

    def __init__(self, journal: GroupJournal, form: Form[GroupT, KeyT]) -> None:
        self._journal = journal
        self._form = form
        self._writes: dict[GroupT, asyncio.Task[ErrorCode]] = {}
        self._next_writes: dict[GroupT, asyncio.Task[ErrorCode]] = {}
        self._also: dict[GroupT, list[Put | Delete]] = {}

    def __len__(self) -> int:
        return len(self._writes)

    def write(self, group: GroupT) -> None:
        """Submit what has changed, with the next write of the group if one is in flight."""
        current = self._writes.get(group)
        if current is None:
            write = self._writes[group] = asyncio.create_task(self._land(group))
            write.add_done_callback(partial(self._written, group))
        elif group not in self._next_writes:
            self._next_writes[group] = asyncio.create_task(self._land_after(current, group))

    def also(self, group: GroupT, change: Put | Delete) -> None:
        """Store a change together with the group's next rows, in the record of its head."""
        self._also.setdefault(group, []).append(change)

    async def stored(self, group: GroupT) -> ErrorCode:
        """Wait until everything that changed so far is durable."""
        write = self._next_writes.get(group) or self._writes.get(group)
        return ErrorCode.none if write is None else await asyncio.shield(write)

    def is_storing(self, group: GroupT) -> bool:
        return group in self._writes

    async def settle(self) -> None:
        """Wait until all writes have ended."""
        await asyncio.gather(*self._writes.values(), *self._next_writes.values(), return_exceptions=True)

    async def _land_after(self, current: asyncio.Task[ErrorCode], group: GroupT) -> ErrorCode:
        await asyncio.wait([current])
        return await self._land(group)

    def _written(self, group: GroupT, write: asyncio.Task[ErrorCode]) -> None:
        following = self._next_writes.pop(group, None)
        if following is None:
            del self._writes[group]
            return
        self._writes[group] = following
        following.add_done_callback(partial(self._written, group))

    async def _land(self, group: GroupT) -> ErrorCode:
        """Store all rows that have changed by now; those of a write that failed stay among the changed ones."""
        keys = list(group.changed)
        also = self._also.pop(group, [])
        group.changed.clear()
        error = await self._land_rows(group, keys, also)
        if error is not ErrorCode.none:
            group.changed = dict.fromkeys(key for key in keys if key not in group.changed) | group.changed
            if also:
                self._also[group] = also + self._also.get(group, [])
        return error

    async def _land_rows(self, group: GroupT, keys: list[KeyT], also: list[Put | Delete]) -> ErrorCode:
        turn = Turn()
        part: list[Put | Delete] = []
        size = 0
        head = self._form.head
        has_head = is_whole = head in keys
        for key in keys:
            if key == head:
                continue
            if len(part) >= ROWS_PER_RECORD_MAX or size >= BYTES_PER_RECORD_MAX:
                first = [self._unfinished(group)] if is_whole else []
                error = await self._journal.write_rows([*first, *part])
                if error is not ErrorCode.none:
                    return error
                part, size, is_whole = [], 0, False
            await turn.breathe()
            change = await self._change(group, key)
            size += len(change.value) if isinstance(change, Put) else 0
            part.append(change)
        if has_head:
            has_changed = head in group.changed  # while rows were encoded: its targets are still to come
            part.append(self._unfinished(group) if has_changed else await self._change(group, head))
        return await self._journal.write_rows([*also, *part])

    def _unfinished(self, group: GroupT) -> Put:
        """The head, as long as other rows are still to come."""
        return Put(
            self._form.table, self._form.encode_key(group.group_id, self._form.head), self._form.unfinished(group)
        )

    async def _change(self, group: GroupT, key: KeyT) -> Put | Delete:
        """A row as it is now."""
        row = self._form.row(group, key)
        if row is None:
            return self._form.deletion(group.group_id, key)
        value = row.encode() if row.size <= SIZE_AT_ONCE else await asyncio.to_thread(row.encode)
        return Put(self._form.table, self._form.encode_key(group.group_id, key), value)
