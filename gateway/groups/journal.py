"""The only writer of the tables "groups", "consumergroups", "streamsgroups" and "offsets".

Keeps: changes reach the log in the order of submission; a change is submitted when `write_…`
returns. It shows in `CommittedOffsets` when it is durable, even if its caller no longer waits.
A generation gets assignments only once its record is synced, in every sync mode: so a generation's
number is not used twice after a power cut.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Collection, Coroutine, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final, Protocol, TypeAlias

from kio.schema.errors import ErrorCode

from core.applied.tables import Delete, Put, Table
from core.errors import StoreError
from core.trusted_clock import TrustedClock
from gateway.groups.classic.messages import GroupRecord
from gateway.groups.consumer.format import CONSUMER_TABLE, encode_key
from gateway.groups.consumer.messages import RowKey, RowKind
from gateway.groups.offsets.committed import CommittedOffsets
from gateway.groups.persistence import (
    GROUPS_TABLE,
    OFFSETS_TABLE,
    CommittedOffset,
    OffsetKey,
    encode_group,
    encode_offset,
    encode_offset_key,
)
from gateway.groups.streams import format as streams
from gateway.groups.streams import messages
from gateway.refusals import Asked, code_of

#: One log record holds no more changes than this; a larger write becomes several records.
CHANGES_PER_UPDATE_MAX: Final = 1_000
#: A group larger than this is refused, as Kafka refuses a group larger than its largest record.
GROUP_BYTES_MAX: Final = 16 * 1024 * 1024

_Change: TypeAlias = "tuple[OffsetKey | None, Put | Delete]"

_log: Final = logging.getLogger(__name__)


class TableStore(Protocol):
    """The part of a container that groups need."""

    trusted: TrustedClock

    def table(self, name: str) -> Table: ...

    async def update(self, *ops: Put | Delete) -> None: ...

    async def synced(self) -> None: ...


class GroupJournal:
    """Writes groups and offsets; returns the outcome as an error code for a group's clients."""

    def __init__(self, store: TableStore, offsets: CommittedOffsets) -> None:
        self._store = store
        self._offsets = offsets
        self._groups_table = store.table(GROUPS_TABLE)
        self._rows_table = store.table(CONSUMER_TABLE)
        self._streams_table = store.table(streams.STREAMS_TABLE)
        self._offsets_table = store.table(OFFSETS_TABLE)
        self._writes: set[asyncio.Future[ErrorCode] | asyncio.Future[None]] = set()
        self._groups_in_flight: Counter[str] = Counter()

    def write_group(self, group_id: str, record: GroupRecord) -> asyncio.Task[ErrorCode]:
        """Submit a group's record, from which a restart restores it."""
        value = encode_group(record)
        if len(value) > GROUP_BYTES_MAX:
            return self._start(_failed(ErrorCode.unknown_server_error))
        self._groups_in_flight[group_id] += 1
        return self._start(self._land_group(group_id, value))

    def write_rows(self, changes: Sequence[Put | Delete]) -> asyncio.Task[ErrorCode]:
        """Submit one record of changes of groups; the task ends when it is synced."""
        return self._start(self._land_synced([(None, change) for change in changes]))

    def write_offsets(
        self,
        offsets: Mapping[OffsetKey, CommittedOffset | None],
        *,
        without_group: str | None = None,
        without_rows: Collection[Delete] = (),
    ) -> asyncio.Task[ErrorCode]:
        """Submit offsets, None to delete one; the last part may also delete a group, with its rows."""
        changes: list[_Change] = [_offset_change(key, value) for key, value in offsets.items()]
        if without_group is not None:
            changes.append((None, Delete(GROUPS_TABLE, without_group.encode())))
        changes += [(None, row) for row in without_rows]
        self._offsets.begin(offsets)
        # Tasks start in the order of their creation: parts keep their order among other writes.
        parts = [
            self._start(self._land(changes[start : start + CHANGES_PER_UPDATE_MAX]))
            for start in range(0, len(changes), CHANGES_PER_UPDATE_MAX)
        ]
        return parts[0] if len(parts) == 1 else self._start(_first_failure(parts))

    def submitted(self, offsets: Collection[OffsetKey], logged: asyncio.Future[None]) -> None:
        """Note that another writer queued a record that holds these offsets."""
        if not offsets:
            return
        keys = list(offsets)
        self._offsets.begin(keys)
        self._writes.add(logged)
        logged.add_done_callback(partial(self._landed, keys))  # before the callers that wait for it resume

    def _landed(self, keys: Sequence[OffsetKey], logged: asyncio.Future[None]) -> None:
        self._writes.discard(logged)
        for key in keys:
            self._offsets.finish(key, self._offsets_table.get(encode_offset_key(key)))

    def groups(self) -> Iterator[tuple[str, bytes]]:
        """The entries of the table of groups, values not decoded."""
        return ((key.decode(), value) for key, value in self._groups_table.items())

    def holds_group(self, group_id: str) -> bool:
        """Is the group stored or being stored?"""
        is_stored = self._groups_table.get(group_id.encode()) is not None
        has_rows = self._rows_table.get(_head(group_id)) or self._streams_table.get(_streams_head(group_id))
        return is_stored or group_id in self._groups_in_flight or has_rows is not None

    def rows(self) -> Iterator[tuple[bytes, bytes]]:
        """The entries of the table of consumer groups, not decoded."""
        return self._rows_table.items()

    def streams_rows(self) -> Iterator[tuple[bytes, bytes]]:
        """The entries of the table of streams groups, not decoded."""
        return self._streams_table.items()

    def offsets(self) -> Iterator[tuple[bytes, bytes]]:
        """The entries of the table of offsets, not decoded."""
        return self._offsets_table.items()

    async def settle(self) -> None:
        """Wait until all submitted changes have ended."""
        if self._writes:
            await asyncio.wait(set(self._writes))

    async def _land_group(self, group_id: str, value: bytes) -> ErrorCode:
        try:
            return await self._land_synced([(None, Put(GROUPS_TABLE, group_id.encode(), value))])
        finally:
            self._groups_in_flight[group_id] -= 1
            if not self._groups_in_flight[group_id]:
                del self._groups_in_flight[group_id]

    async def _land_synced(self, changes: Sequence[_Change]) -> ErrorCode:
        if not changes:
            return ErrorCode.none
        try:
            error = await self._land(changes)
            if not error:
                await self._store.synced()
            return error
        except StoreError as exc:
            return code_of(exc, Asked.COORDINATOR)

    async def _land(self, changes: Sequence[_Change]) -> ErrorCode:
        try:
            await self._store.update(*(op for _, op in changes))
        except StoreError as exc:
            facts = {"error": str(exc), "changes": len(changes)}
            _log.warning("group state was not stored", extra=facts)
            return code_of(exc, Asked.COORDINATOR)
        finally:
            # The table's present value: after a failure, the value before the change.
            for key, op in changes:
                if key is not None:
                    self._offsets.finish(key, self._offsets_table.get(op.key))
        return ErrorCode.none

    def _start(self, write: Coroutine[Any, Any, ErrorCode]) -> asyncio.Task[ErrorCode]:
        task = asyncio.create_task(write)
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)
        return task


def _head(group_id: str) -> bytes:
    return encode_key(group_id, RowKey(RowKind.HEAD))


def _streams_head(group_id: str) -> bytes:
    return streams.encode_key(group_id, messages.RowKey(messages.RowKind.HEAD))


def _offset_change(key: OffsetKey, committed: CommittedOffset | None) -> _Change:
    encoded = encode_offset_key(key)
    if committed is None:
        return key, Delete(OFFSETS_TABLE, encoded)
    return key, Put(OFFSETS_TABLE, encoded, encode_offset(committed))


def offset_puts(offsets: Mapping[OffsetKey, CommittedOffset]) -> list[Put]:
    """The table puts that store these offsets."""
    return [Put(OFFSETS_TABLE, encode_offset_key(key), encode_offset(offset)) for key, offset in offsets.items()]


async def _failed(error: ErrorCode) -> ErrorCode:
    return error


async def _first_failure(parts: Sequence[asyncio.Task[ErrorCode]]) -> ErrorCode:
    errors = await asyncio.gather(*parts)
    return next((error for error in errors if error), ErrorCode.none)
