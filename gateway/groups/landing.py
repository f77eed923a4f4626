"""How groups that are rows of a table are stored.

Keeps: a group has one write in flight, and what changes meanwhile goes into the next one, so that a thousand heartbeats
share a few syncs. A write that fails is not lost: its rows go with the next. The head of a group lands last; if the
rows need several records, one that says so lands first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Generic, Protocol, TypeVar

from kio.schema.errors import ErrorCode

from core.applied.tables import Delete, Put
from core.turns import Turn
from gateway.groups.journal import GroupJournal

ROWS_PER_RECORD_MAX: Final = 1_000
"""Rows in one record of the log."""
BYTES_PER_RECORD_MAX: Final = 4 * 1024 * 1024
"""Bytes of rows in one record of the log, beyond which it takes no further row."""

KeyT = TypeVar("KeyT")


class RowGroup(Protocol[KeyT]):
    """A group that notes which of its rows have changed, those that changed last at the end."""

    changed: dict[KeyT, None]


GroupT = TypeVar("GroupT", bound=RowGroup[Any])


class Landing(Generic[GroupT, KeyT]):
    """See the module. `change` stores one row as it is now, `unfinished` a head whose rows are still to come."""

    def __init__(
        self,
        journal: GroupJournal,
        head: KeyT,
        change: Callable[[GroupT, KeyT], Put | Delete],
        unfinished: Callable[[GroupT], Put],
    ) -> None:
        self._journal = journal
        self._head = head
        self._change = change
        self._unfinished = unfinished
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
        others = [key for key in keys if key != self._head]
        if self._head in keys and len(others) > ROWS_PER_RECORD_MAX:
            part.append(self._unfinished(group))
        for key in others:
            if len(part) >= ROWS_PER_RECORD_MAX or size >= BYTES_PER_RECORD_MAX:
                error = await self._journal.write_rows(part)
                if error is not ErrorCode.none:
                    return error
                part, size = [], 0
            await turn.breathe()
            change = self._change(group, key)
            size += len(change.value) if isinstance(change, Put) else 0
            part.append(change)
        if self._head in keys:
            part.append(self._change(group, self._head))
        return await self._journal.write_rows([*also, *part])
