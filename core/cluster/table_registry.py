"""The registry of one process: tables in a container, the home.

A stream's row in table ``streams`` of the container that decides about it is the decision. That is the home for every
stream that is created here; the row is logged in the same record as the next id.

Settings of a kind are the table of that name. Table ``producerids`` (`WRITERS_TABLE`): b"next" -> u64 big-endian, the
first id of the next block. Table ``registry`` (`COUNTERS_TABLE`): b"epoch" -> u64 big-endian, the last epoch given.

**Invariants**: see `core.cluster.registry`.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Iterable
from typing import Final

from core.applied.tables import Delete, Put
from core.cluster.registry import NOTHING_HELD, Decide, Held, NewStream, SettingChanges, Settings
from core.container.container import Container
from core.errors import StoreError, StreamExists, UnknownStream
from core.log.records import Operation
from core.streams.state import (
    NEXT_STREAM_KEY,
    STREAM_IDS_TABLE,
    STREAMS_TABLE,
    StreamState,
    new_stream,
    stream_key,
)

WRITERS_TABLE: Final = "producerids"
COUNTERS_TABLE: Final = "registry"
NEXT_KEY: Final = b"next"
EPOCH_KEY: Final = b"epoch"
_NUMBER: Final = struct.Struct(">Q")


class TableRegistry:
    """The registry in the tables of a container.

    `home` is asked at every call, and raises StoreClosed after a stop. `deciding` gives a container that decides about
    streams, and raises NotHosted.
    """

    def __init__(self, home: Callable[[], Container], deciding: Callable[[int], Container]) -> None:
        self._home = home
        self._deciding = deciding
        self._names: set[str] = set()  # also of streams on their way to the log
        self._next_stream_id = 1
        self._counting = asyncio.Lock()
        self._changing = asyncio.Lock()

    def load(self, streams: Iterable[StreamState]) -> None:
        """Begin with the streams that a start has found, in all containers, whole or not."""
        found = list(streams)
        self._names = {state.name for state in found}
        self._next_stream_id = max(self._next_given(), max((state.id for state in found), default=0) + 1)

    def _next_given(self) -> int:
        return int.from_bytes(self._home().table(STREAM_IDS_TABLE).get(NEXT_STREAM_KEY) or b"", "big")

    # Streams

    def streams(self) -> Iterable[StreamState]:
        return [stream.state for stream in self._home().streams.values()]

    def stream(self, stream_id: int) -> StreamState | None:
        found = self._home().streams.get(stream_id)
        return None if found is None else found.state

    async def create(self, wanted: NewStream) -> StreamState:
        if wanted.name in self._names:
            raise StreamExists(wanted.name)
        home = self._home()
        stream_id = self._next_stream_id
        self._next_stream_id += 1
        state = new_stream(
            stream_id=stream_id,
            name=wanted.name,
            uuid=wanted.uuid,
            slots=wanted.slots,
            created_ms=wanted.created_ms,
            container=home.id,
            config=wanted.config,
            segments=wanted.segments,
            placement=wanted.placement,
        )
        self._names.add(wanted.name)
        try:
            # The next id is logged too: the id of a deleted stream must never come back.
            await home.update(
                Put(STREAMS_TABLE, stream_key(stream_id), state.encode()),
                Put(STREAM_IDS_TABLE, NEXT_STREAM_KEY, (stream_id + 1).to_bytes(4, "big")),
            )
        except StoreError:
            self._names.discard(wanted.name)
            raise
        return state

    async def change(self, state: StreamState, held: Held = NOTHING_HELD) -> None:
        container = self._deciding(state.container)
        stream = container.streams.get(state.id)
        if stream is None:
            raise UnknownStream(state.name)
        await container.change_stream(stream, state)

    async def delete(self, state: StreamState) -> None:
        container = self._deciding(state.container)
        if state.id not in container.streams:
            raise UnknownStream(state.name)
        await container.update(Delete(STREAMS_TABLE, stream_key(state.id)))
        self._names.discard(state.name)

    def was_given(self, stream_id: int) -> bool:
        return stream_id < self._next_given()

    # Settings

    def settings(self, kind: str) -> Settings:
        return self._home().table(kind).entries

    async def change_settings(self, kind: str, decide: Decide) -> SettingChanges:
        async with self._changing:  # a table has a change only once that is durable
            changes = decide(self.settings(kind))
            operations: list[Operation] = [
                Delete(kind, key) if value is None else Put(kind, key, value) for key, value in changes.items()
            ]
            if operations:
                await self._home().update(*operations)
        return changes

    # Counters

    async def take_writer_ids(self, count: int) -> range:
        first = await self._count(WRITERS_TABLE, NEXT_KEY, count)
        return range(first, first + count)

    async def next_epoch(self) -> int:
        return await self._count(COUNTERS_TABLE, EPOCH_KEY, 1) + 1

    async def _count(self, table: str, key: bytes, more: int) -> int:
        """Raise a counter, durably and synced; returns what it was."""
        async with self._counting:
            home = self._home()
            before = int.from_bytes(home.table(table).get(key) or b"", "big")
            await home.update(Put(table, key, _NUMBER.pack(before + more)))
            await home.synced()
            return before
