"""Checkpoints bring the applied state on disk up to a position P of the log, from which a start replays.

**Invariants**

- The applied state is written from values that were durable, and only after the log is synced up to them.
- A row is deleted only if its table says so: memory does not have those that are saved.
- P is written after every value that was dirty at P, and then all is flushed. A failure makes those values dirty again,
  and RocksDB is opened again before the next try.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from core.applied.metadata import (
    BATCH_OPERATIONS,
    BEHIND_ALL,
    Metadata,
    slot_item,
    slot_key,
    table_item,
    table_key,
)
from core.applied.tables import StoredTable, Table
from core.config import MIB
from core.container.arrivals import Place
from core.container.metadata_thread import MetadataThread
from core.container.unsaved import Taken, Unsaved
from core.errors import StorageFailure
from core.index.rows import BlockRef
from core.log.durable_log import DurableLog
from core.log.log_file import LogPosition
from core.streams.live import Slot, Stream
from core.streams.saving import encoding_slot
from core.streams.state import STREAMS_TABLE
from core.turns import Turn

logger = logging.getLogger(__name__)

BATCH_BYTES: Final = MIB
"""The most bytes of values in one write to RocksDB, unless a single value is larger."""

CAPTURE_ROWS: Final = 2000
"""Rows of tables that are captured in one turn."""


class Source(Protocol):
    """The container, as a checkpoint sees it."""

    @property
    def log(self) -> DurableLog: ...
    @property
    def metadata(self) -> Metadata: ...
    @property
    def unsaved(self) -> Unsaved: ...
    @property
    def streams(self) -> Mapping[int, Stream]: ...
    @property
    def tables(self) -> Mapping[str, Table]: ...
    @property
    def applied_lsn(self) -> int: ...
    def is_here(self, slot: Slot) -> bool: ...
    def slot_at(self, stream_id: int, number: int) -> Slot | None: ...


@dataclass(slots=True)
class _Values:
    """The contents of one checkpoint: values, keys without a value, and the keys of streams that are gone.

    The last are deleted together with P: replay from an older P may come to records of such a stream, and needs its
    slots to read them. So are the values of slots that have left. Once RocksDB has the values of `stored`, they leave
    memory.
    """

    puts: list[tuple[bytes, bytes]] = field(default_factory=list)
    deletes: list[bytes] = field(default_factory=list)
    gone: list[bytes] = field(default_factory=list)
    left: list[tuple[Place, int]] = field(default_factory=list)  # slots whose rows of files before this LSN are gone
    stored: dict[StoredTable, list[tuple[bytes, bytes | None]]] = field(default_factory=dict)


class Checkpoints:
    """The checkpoints of one container. For the event loop; `thread` does what blocks."""

    def __init__(self, source: Source, thread: MetadataThread) -> None:
        self._source = source
        self._thread = thread
        self._position = source.metadata.position() or LogPosition(0, 1, 0)
        self._log_bytes = 0  # written to the log before the last one began
        self._lock = asyncio.Lock()

    @property
    def position(self) -> LogPosition:
        """P: the position that the applied state on disk reflects."""
        return self._position

    @property
    def log_bytes_since(self) -> int:
        """Bytes written to the log since the last one began."""
        return self._source.log.stats.bytes_written - self._log_bytes

    async def take(self, *, clean: bool = False) -> None:
        """Bring the applied state on disk up to what is durable now. A failure is logged and tried again later.

        Raises StorageFailure when the log is poisoned.
        """
        async with self._lock:
            await self._take(clean)

    async def _take(self, clean: bool) -> None:
        source, thread = self._source, self._thread
        position = source.log.durable_position
        self._log_bytes = source.log.stats.bytes_written
        if (position.lsn <= self._position.lsn and not clean) or not await thread.is_writable():
            return
        taken = source.unsaved.take(source.streams)
        refs = thread.take_unflushed()
        try:
            thread.forget_slots(taken.gone)
            values = await self._capture(taken.slots, taken.rows)
            self._capture_left(taken.gone, values)
            if not clean:
                await source.log.synced(source.applied_lsn)
            await thread.run(self._write, position, values, taken.dead_streams, clean)
            self._position = position
            for table, saved in values.stored.items():
                table.saved(saved)
        except StorageFailure:
            raise
        except asyncio.CancelledError:  # the store is closing: its last checkpoint saves all of this
            self._undo(taken, refs)
            raise
        except Exception as error:
            logger.error("checkpoint failed and will be tried again", extra={"error": str(error)})
            self._undo(taken, refs)
            thread.write_failed()

    async def _capture(self, slots: list[Slot], rows: set[tuple[str, bytes]]) -> _Values:
        source, values = self._source, _Values()
        turn = Turn()
        for slot in slots:
            slot.dirty = False
            if not slot.stream.deleted and source.is_here(slot):
                encoded = await turn.through(encoding_slot(slot))
                # Only now: a writer may be newer than when this began, but not than what is applied.
                values.puts.append(slot_item(slot.stream.id, slot.number, source.applied_lsn, encoded))
        for number, (name, key) in enumerate(rows, 1):
            if number % CAPTURE_ROWS == 0:
                await asyncio.sleep(0)
            table = source.tables[name]
            value = table.get(key)
            if isinstance(table, StoredTable):
                if table.is_saved(key):  # it changed while the last one began, which has it as it is: it is not gone
                    continue
                values.stored.setdefault(table, []).append((key, value))
            if value is not None:
                values.puts.append(table_item(name, key, source.applied_lsn, value))
            elif name == STREAMS_TABLE:
                values.gone.append(table_key(name, key))
            else:
                values.deletes.append(table_key(name, key))
        return values

    def _capture_left(self, gone: Collection[Place], values: _Values) -> None:
        """Slots that have left; one may have come back since, and then has rows of newer files only."""
        for place in gone:
            slot = self._source.slot_at(*place)
            values.left.append((place, BEHIND_ALL if slot is None else slot.since_lsn))
            if slot is None:
                values.gone.append(slot_key(*place))

    def _write(self, position: LogPosition, values: _Values, dead: list[int], clean: bool) -> None:
        metadata = self._source.metadata
        for puts in _batches(values.puts):
            metadata.write(puts)
        for start in range(0, len(values.deletes), BATCH_OPERATIONS):
            metadata.write((), values.deletes[start : start + BATCH_OPERATIONS])
        for place, before_lsn in values.left:
            metadata.forget_slot_blocks(*place, before_lsn)
        metadata.commit(position, values.gone, clean=clean)
        # After P: the next start forgets again any of these that a crash brings back.
        for stream_id in dead:
            metadata.forget_stream(stream_id)

    def _undo(self, taken: Taken, refs: list[BlockRef]) -> None:
        self._source.unsaved.put_back(taken)
        self._thread.put_back(refs)


def _batches(puts: Sequence[tuple[bytes, bytes]]) -> Iterator[Sequence[tuple[bytes, bytes]]]:
    """Batches of bounded size, because the interpreter stands still while RocksDB takes one over."""
    begin = size = 0
    for number, (_, value) in enumerate(puts):
        if number - begin >= BATCH_OPERATIONS or (number > begin and size + len(value) > BATCH_BYTES):
            yield puts[begin:number]
            begin, size = number, 0
        size += len(value)
    if begin < len(puts):
        yield puts[begin:]
