"""The only writer of the tables "groups", "consumergroups", "streamsgroups" and "offsets".

Keeps: changes reach the log in the order of submission; a change is submitted when `write_…`
returns. The record of a large group is encoded in a thread, and later changes wait for that. A
change shows in `CommittedOffsets` when it is durable, even if its caller no longer waits.
A generation gets assignments only once its record is synced, in every sync mode: so a generation's
number is not used twice after a power cut.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, Final, Protocol, TypeAlias

from kio.schema.errors import ErrorCode

from core.applied.tables import Delete, Put, Table
from core.errors import StoreError
from core.log.records import Operation
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
    least_bytes,
)
from gateway.groups.streams import format as streams
from gateway.groups.streams import messages
from gateway.refusals import Asked, code_of

#: One log record holds no more changes than this; a larger write becomes several records.
CHANGES_PER_UPDATE_MAX: Final = 1_000
#: The record of a group with more members is encoded in a thread: these take some 3 ms.
MEMBERS_AT_ONCE: Final = 500
#: The same of one with more bytes.
BYTES_AT_ONCE: Final = 1024 * 1024
#: A group larger than this is refused, as Kafka refuses a group larger than its largest record.
GROUP_BYTES_MAX: Final = 16 * 1024 * 1024

Rows: TypeAlias = AsyncIterator[Sequence[tuple[bytes, bytes]]]
"""Keys and values of a table; others run between two steps."""

_Change: TypeAlias = "tuple[OffsetKey | None, Put | Delete]"

_Write: TypeAlias = Callable[[], Coroutine[Any, Any, ErrorCode]]

_log: Final = logging.getLogger(__name__)


class TableStore(Protocol):
    """The part of a container that groups need."""

    trusted: TrustedClock

    def table(self, name: str) -> Table: ...

    async def update(self, *ops: Put | Delete) -> None: ...

    def submit(self, operations: Sequence[Operation]) -> asyncio.Future[None]: ...

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
        self._last: asyncio.Future[None] | None = None  # done when the last of those that wait in line has gone
        self._groups_in_flight: Counter[str] = Counter()

    def write_group(self, group_id: str, record: GroupRecord) -> asyncio.Task[ErrorCode]:
        """Submit a group's record, from which a restart restores it."""
        self._groups_in_flight[group_id] += 1
        if least_bytes(record) > GROUP_BYTES_MAX:  # to put it together for that alone would take long, in any thread
            write = self._start(partial(_failed, ErrorCode.unknown_server_error))
        elif not is_large(record):
            write = self._start(partial(self._land_group, group_id, encode_group(record)))
        else:
            encoding = asyncio.create_task(asyncio.to_thread(encode_group, record))
            write = self._start(lambda: self._land_group(group_id, encoding.result()), encoding)
        write.add_done_callback(lambda _: self._group_landed(group_id))
        return write

    def write_rows(self, changes: Sequence[Put | Delete]) -> asyncio.Task[ErrorCode]:
        """Submit one record of changes of groups; the task ends when it is synced."""
        return self._start(partial(self._land_synced, [(None, change) for change in changes]))

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
            self._start(partial(self._land, changes[start : start + CHANGES_PER_UPDATE_MAX]))
            for start in range(0, len(changes), CHANGES_PER_UPDATE_MAX)
        ]
        return parts[0] if len(parts) == 1 else self._start(partial(_first_failure, parts))

    def delete_offsets(self, keys: Sequence[OffsetKey]) -> asyncio.Task[ErrorCode]:
        """Submit the deletion of CHANGES_PER_UPDATE_MAX offsets at most, none of which is in flight: at once, so that
        whatever anybody commits from this call on lies behind it."""
        try:
            logged = self._store.submit([Delete(OFFSETS_TABLE, encode_offset_key(key)) for key in keys])
        except StoreError as refused:
            return self._start(partial(_failed, _not_stored(refused, len(keys))))
        self.submitted(keys, logged)
        return self._start(partial(_outcome, logged, len(keys)))

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

    def groups(self) -> Rows:
        """The entries of the table of groups, not decoded, in steps."""
        return self._groups_table.in_steps()

    def holds_group(self, group_id: str) -> bool:
        """Is the group stored or being stored?"""
        is_stored = self._groups_table.get(group_id.encode()) is not None
        has_rows = self._rows_table.get(_head(group_id)) or self._streams_table.get(_streams_head(group_id))
        return is_stored or group_id in self._groups_in_flight or has_rows is not None

    def rows(self) -> Rows:
        """The same of consumer groups."""
        return self._rows_table.in_steps()

    def streams_rows(self) -> Rows:
        """The same of streams groups."""
        return self._streams_table.in_steps()

    def offsets(self) -> Rows:
        """The same of offsets."""
        return self._offsets_table.in_steps()

    async def settle(self) -> None:
        """Wait until all submitted changes have ended."""
        if self._writes:
            await asyncio.wait(set(self._writes))

    async def _land_group(self, group_id: str, value: bytes) -> ErrorCode:
        if len(value) > GROUP_BYTES_MAX:
            return ErrorCode.unknown_server_error
        return await self._land_synced([(None, Put(GROUPS_TABLE, group_id.encode(), value))])

    def _group_landed(self, group_id: str) -> None:
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
            return _not_stored(exc, len(changes))
        finally:
            # The table's present value: after a failure, the value before the change.
            for key, op in changes:
                if key is not None:
                    self._offsets.finish(key, self._offsets_table.get(op.key))
        return ErrorCode.none

    def _start(self, write: _Write, first: asyncio.Task[bytes] | None = None) -> asyncio.Task[ErrorCode]:
        """Begin a write behind all that were begun before. It waits for what is to be done `first`, and so do those
        that come behind it."""
        before = self._last
        if first is None and before is None:
            task = asyncio.create_task(write())
        else:
            gone = self._last = asyncio.get_running_loop().create_future()
            task = asyncio.create_task(self._in_line(before, first, gone, write))
            task.add_done_callback(lambda _: self._go_after(before, gone))  # if it is cancelled in line
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)
        return task

    async def _in_line(
        self,
        before: asyncio.Future[None] | None,
        first: asyncio.Task[bytes] | None,
        gone: asyncio.Future[None],
        write: _Write,
    ) -> ErrorCode:
        await asyncio.wait([one for one in (before, first) if one is not None])
        self._go(gone)  # the write hands its change over before it waits for anything, and the next one runs then
        return await write()

    def _go_after(self, before: asyncio.Future[None] | None, gone: asyncio.Future[None]) -> None:
        if before is None or before.done():
            self._go(gone)
        else:
            before.add_done_callback(lambda _: self._go(gone))

    def _go(self, gone: asyncio.Future[None]) -> None:
        if not gone.done():
            gone.set_result(None)
        if self._last is gone:
            self._last = None


def is_large(record: GroupRecord) -> bool:
    """Is a group's record to be encoded in a thread?"""
    return len(record.members) > MEMBERS_AT_ONCE or least_bytes(record) > BYTES_AT_ONCE


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


def _not_stored(error: StoreError, changes: int) -> ErrorCode:
    _log.warning("group state was not stored", extra={"error": str(error), "changes": changes})
    return code_of(error, Asked.COORDINATOR)


async def _outcome(logged: asyncio.Future[None], changes: int) -> ErrorCode:
    try:
        await logged
    except StoreError as error:
        return _not_stored(error, changes)
    return ErrorCode.none


async def _failed(error: ErrorCode) -> ErrorCode:
    return error


async def _first_failure(parts: Sequence[asyncio.Task[ErrorCode]]) -> ErrorCode:
    errors = await asyncio.gather(*parts)
    return next((error for error in errors if error), ErrorCode.none)
