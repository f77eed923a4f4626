"""The applied state: RocksDB behind five kinds of keys. The only module that knows rocksdict.

Its own WAL is off: the durable log is its WAL. A checkpoint writes every dirty value, each with the LSN that it
reflects, then the position P, then flushes. If only a prefix of that reaches the disk, replay from the old P mends it.

**Invariants**

- There is one column family, so the flushed writes are a prefix of all writes.
- No value reflects an LSN that the log had not synced when the value was written here.
- A crash may bring back rows that were deleted, but never the log files that they name. So an open deletes rows of
  missing files again.

Keys (numbers big-endian, so that they sort), and values (numbers little-endian):

    b"mcheckpoint"                         → P: u64 LSN, u64 file's first LSN, u64 position in it
    b"mclean"                              → u64 last LSN at the last clean stop
    b"mindexed"                            → u64 first LSN of the newest file whose rows are all among the ``i`` keys
    b"mfirst"                              → u64 first LSN of the oldest file that has ``i`` keys; written behind the
                                             deletion of the keys of older files
    b"s" + u32 stream + u32 slot           → u64 LSN, the slot's state (core.streams.slot_format)
    b"t" + u8 name length + name + key     → u64 LSN, a table's value
    b"i" + u32 stream + u32 slot + u64 first sequence number
                                           → place of a slot's rows of one log file: u64 file's first LSN, i64 end,
                                             i64 largest timestamp, u64 bytes before, u64 position, u32 rows, u32 CRC,
                                             u64 bytes
"""

from __future__ import annotations

import errno
import logging
import os
import re
import struct
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import rocksdict

from core.config import StoreConfig
from core.errors import CorruptState, StorageFailure
from core.index.rows import BlockRef
from core.log.files import KEPT
from core.log.log_file import LogPosition
from tier2.shortage import FORBIDDEN, SHORTAGES

logger = logging.getLogger(__name__)

_LSN: Final = struct.Struct("<Q")
_POSITION: Final = struct.Struct("<QQQ")
_SLOT: Final = struct.Struct(">II")
_BLOCK_KEY: Final = struct.Struct(">IIQ")
_BLOCK: Final = struct.Struct("<QqqQQIIQ")
_BEHIND_SLOT: Final = b"\xff" * 9
"""Sorts behind all keys that go on with eight bytes."""

_CHECKPOINT_KEY: Final = b"mcheckpoint"
_CLEAN_KEY: Final = b"mclean"
_INDEXED_KEY: Final = b"mindexed"
_FIRST_KEY: Final = b"mfirst"
BATCH_OPERATIONS: Final = 500
"""Operations of one write: a batch of 1,000 holds the GIL for several milliseconds."""

KEY_BYTES_MAX: Final = 64
"""At least the length of any key of a table that is skipped."""

BEHIND_ALL: Final = (1 << 63) - 1
"""An LSN that no log reaches."""

STALL_PAUSE_S: Final = 0.02
STALL_RETRIES: Final = 1500

REOPEN_RETRIES: Final = 500
"""A reader's iterator keeps the old instance open for a moment: wait for it, 10 s at most."""


class Metadata:
    """The container's RocksDB. Every method may block; call them from the metadata thread (or a reader thread)."""

    def __init__(self, path: Path, config: StoreConfig) -> None:
        self._path = path
        self._config = config
        self._lock = threading.Lock()  # guards reopening against readers
        self._db = self._open()

    def _open(self) -> Any:
        options = rocksdict.Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_write_buffer_size(self._config.rocksdb_write_buffer_bytes)
        options.set_max_write_buffer_number(2)
        options.set_keep_log_file_num(2)
        options.set_max_open_files(64)
        blocks = rocksdict.BlockBasedOptions()
        blocks.set_block_cache(rocksdict.Cache(self._config.rocksdb_cache_bytes))
        blocks.set_cache_index_and_filter_blocks(True)
        options.set_block_based_table_factory(blocks)
        options.set_max_background_jobs(2)
        options.set_stats_dump_period_sec(0)
        options.set_stats_persist_period_sec(0)
        try:
            db = rocksdict.Rdict(str(self._path), options)
        except Exception as error:
            if (lack := _lack(error)) is not None:
                words = os.strerror(lack)
                named = re.search(rf"({re.escape(str(self._path))}[^:]*): {re.escape(words)}", str(error))
                raise OSError(lack, f"{words} ({error})", named[1] if named else str(self._path)) from error
            if os.strerror(errno.ENOSPC) in str(error):
                raise StorageFailure(
                    f"the applied state in {self._path} cannot be opened: {error}. Free some disk space"
                ) from error
            raise CorruptState(
                f"the applied state in {self._path} cannot be opened: {error}. "
                "Keep a copy, then restore the data directory from a backup"
            ) from error
        writes: Any = rocksdict.WriteOptions()  # its stubs say methods where there are properties
        writes.disable_wal = True
        writes.no_slowdown = True
        db.set_write_options(writes)
        return db

    def reopen(self) -> None:
        """Start over after a failed flush. Values that were not flushed are gone and must be written again.

        Raises OSError if this process lacks something. Then call it again; until then readers get the same error.
        """
        with self._lock:
            self._close()
            for attempt in range(REOPEN_RETRIES):
                try:
                    self._db = self._open()
                    return
                except (CorruptState, OSError):
                    if attempt == REOPEN_RETRIES - 1:
                        raise
                    time.sleep(STALL_PAUSE_S)

    def snapshot(self, directory: Path) -> None:
        """Make a directory of all that is flushed; its files are links, which cost no room. Raises StorageFailure."""
        with self._lock:
            try:
                rocksdict.Checkpoint(self._db).create_checkpoint(str(directory))
            except Exception as error:
                raise StorageFailure(f"no snapshot of the applied state in {self._path}: {error}") from error

    def close(self) -> None:
        with self._lock:
            self._close()

    def _close(self) -> None:
        try:
            self._db.close()
        except Exception as error:  # the log still holds the values that it could not flush
            logger.warning("RocksDB closed without its last writes", extra={"error": str(error)})

    # The checkpoint

    def position(self) -> LogPosition | None:
        """The position in the log that the applied state reflects; None in a new store."""
        value = self._db.get(_CHECKPOINT_KEY)
        return LogPosition(*_POSITION.unpack(value)) if value is not None else None

    def clean_lsn(self) -> int | None:
        """The last LSN of the log at the last clean stop."""
        value = self._db.get(_CLEAN_KEY)
        return int(_LSN.unpack(value)[0]) if value is not None else None

    def commit(self, position: LogPosition, gone: Iterable[bytes] = (), *, clean: bool = False) -> None:
        """Record that everything up to `position` was written, and flush. `clean`: the log ends there.

        `gone` are keys that must not vanish before the new P is written.
        """
        puts = [(_CHECKPOINT_KEY, _POSITION.pack(position.lsn, position.file_lsn, position.position))]
        if clean:
            puts.append((_CLEAN_KEY, _LSN.pack(position.lsn)))
        self.write(puts, gone)
        self._db.flush(True)

    def write(self, puts: Iterable[tuple[bytes, bytes]], deletes: Iterable[bytes] = ()) -> None:
        """Write a small batch. Callers cut larger ones at `BATCH_OPERATIONS`."""
        puts, deletes = list(puts), list(deletes)
        for _ in range(STALL_RETRIES):
            batch = rocksdict.WriteBatch(raw_mode=True)
            for key, value in puts:
                batch.put(key, value)
            for key in deletes:
                batch.delete(key)
            try:
                self._db.write(batch)
                return
            except Exception as error:
                # A stalled write would hold the GIL until a flush has ended. So it is refused and tried again later.
                if "Incomplete" not in str(error):
                    raise
                time.sleep(STALL_PAUSE_S)
        raise OSError(f"RocksDB in {self._path} took no writes for {STALL_RETRIES * STALL_PAUSE_S:.0f} s")

    # Slots and tables

    def slots(self) -> Iterator[tuple[int, int, int, bytes]]:
        """All saved slots: stream id, slot, LSN, state."""
        for key, value in self._items(b"s"):
            stream_id, slot = _SLOT.unpack_from(key, 1)
            yield stream_id, slot, _LSN.unpack_from(value)[0], value[8:]

    def tables(self, skipped: Collection[str] = ()) -> Iterator[tuple[str, bytes, int, bytes]]:
        """All saved table entries: table, key, LSN, value. Skipped tables are jumped over, not read."""
        with self._lock:
            iterator = self._db.iter()
        iterator.seek(b"t")
        while iterator.valid() and (key := iterator.key()).startswith(b"t"):
            size = key[1]
            table = key[2 : 2 + size].decode()
            if table in skipped:
                iterator.seek(table_key(table, b"") + b"\xff" * KEY_BYTES_MAX)
                continue
            value = iterator.value()
            yield table, key[2 + size :], _LSN.unpack_from(value)[0], value[8:]
            iterator.next()

    def table_value(self, table: str, key: bytes) -> bytes | None:
        """A saved table entry's value."""
        value = self._db.get(table_key(table, key))
        return None if value is None else value[8:]

    def table_items_from(self, table: str, start: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Saved entries of a table from the key `start` on, in order."""
        name = table_key(table, b"")
        with self._lock:
            iterator = self._db.iter()
        iterator.seek(name + start)
        while iterator.valid() and (key := iterator.key()).startswith(name):
            yield key[len(name) :], iterator.value()[8:]
            iterator.next()

    def table_items(
        self, table: str, prefix: bytes, start: bytes = b"", hidden: Collection[bytes] = ()
    ) -> Iterator[tuple[bytes, bytes]]:
        """Saved entries of a table whose keys begin with `prefix`, in order, without those that are hidden.

        Begins with the last one at or before `start`, if there is one.
        """
        name = table_key(table, b"")
        full_prefix, skip = name + prefix, len(name)
        with self._lock:
            iterator = self._db.iter()
        iterator.seek_for_prev(max(name + start, full_prefix))
        while iterator.valid() and iterator.key().startswith(full_prefix) and iterator.key()[skip:] in hidden:
            iterator.prev()
        if not iterator.valid() or not iterator.key().startswith(full_prefix):
            iterator.seek(full_prefix)
        while iterator.valid() and (key := iterator.key()).startswith(full_prefix):
            if key[skip:] not in hidden:
                yield key[skip:], iterator.value()[8:]
            iterator.next()

    def forget_stream(self, stream_id: int) -> int:
        """Delete the keys that a deleted stream left; returns their number."""
        gone = 0
        for kind in (b"i", b"s"):  # the slots last: by them a start sees that something is left
            prefix = kind + stream_id.to_bytes(4, "big")
            keys: list[bytes] = []
            for key, _ in self._items(prefix):
                keys.append(key)
                if len(keys) == BATCH_OPERATIONS:
                    self.write((), keys)
                    gone, keys = gone + len(keys), []
            self.write((), keys)
            gone += len(keys)
        return gone

    def forget_slot_blocks(self, stream_id: int, slot: int, before_lsn: int) -> None:
        """Delete the rows that a slot which has left has in log files before this one."""
        keys = [block_key(ref) for ref in self.blocks_from(stream_id, slot, 0) if ref.file_lsn & ~KEPT < before_lsn]
        for start in range(0, len(keys), BATCH_OPERATIONS):
            self.write((), keys[start : start + BATCH_OPERATIONS])

    # Places of the rows of complete log files

    def indexed_lsn(self) -> int:
        """First LSN of the newest file whose rows are registered; 0 when there is none."""
        value = self._db.get(_INDEXED_KEY)
        return int(_LSN.unpack(value)[0]) if value is not None else 0

    def register(self, refs: Sequence[BlockRef]) -> None:
        """Note the places of rows, whole files in the order of the log; then note these files as complete here."""
        for start in range(0, len(refs), BATCH_OPERATIONS):
            self.write(block_item(ref) for ref in refs[start : start + BATCH_OPERATIONS])
        newest = max((ref.file_lsn for ref in refs), default=0)
        if newest > self.indexed_lsn():
            self.write([(_INDEXED_KEY, _LSN.pack(newest))])

    def forget_blocks(self, refs: Sequence[BlockRef], first_lsn: int) -> None:
        """Delete the rows of a file that is given up; `first_lsn` is the next file's."""
        keys = [block_key(ref) for ref in refs]
        for start in range(0, len(keys), BATCH_OPERATIONS):
            self.write((), keys[start : start + BATCH_OPERATIONS])
        self.write([(_FIRST_KEY, _LSN.pack(first_lsn))])

    def forget_blocks_before(self, first_lsn: int) -> int:
        """Forget rows of files before this one, if a crash has brought any back; returns their number.

        This costs a look at each slot that has rows, or nothing if the last deletions are known to be here.
        """
        known = self._db.get(_FIRST_KEY)
        if known is not None and _LSN.unpack(known)[0] >= first_lsn:
            return 0
        gone, keys = 0, []
        for key in self._blocks_before(first_lsn):
            keys.append(key)
            if len(keys) == BATCH_OPERATIONS:
                self.write((), keys)
                gone, keys = gone + len(keys), []
        self.write([(_FIRST_KEY, _LSN.pack(first_lsn))], keys)
        return gone + len(keys)

    def _blocks_before(self, first_lsn: int) -> Iterator[bytes]:
        """Keys of rows of older files. They are the first of each slot, since its files follow one another."""
        with self._lock:
            iterator = self._db.iter()
        iterator.seek(b"i")
        while iterator.valid() and (key := iterator.key())[:1] == b"i":
            if _LSN.unpack_from(iterator.value())[0] < first_lsn:
                yield key
                iterator.next()
            else:
                iterator.seek(key[: 1 + _SLOT.size] + _BEHIND_SLOT)

    def replace_blocks(self, refs: Sequence[BlockRef], gone: Sequence[BlockRef] = ()) -> None:
        """Replace some rows' places and delete others, durably: once this returns, their old files may go.

        A slot that has left and come back has other rows with the same keys, which lead to other files: they stay.
        """
        for start in range(0, len(refs), BATCH_OPERATIONS):
            self.write(block_item(ref) for ref in refs[start : start + BATCH_OPERATIONS])
        keys = [block_key(ref) for ref in gone if self._is_named(ref)]
        for start in range(0, len(keys), BATCH_OPERATIONS):
            self.write((), keys[start : start + BATCH_OPERATIONS])
        if refs or gone:
            self._db.flush(True)

    def _is_named(self, ref: BlockRef) -> bool:
        """Whether a row leads to these rows' file, or to the log file that it was copied from."""
        known = self.block_at(ref.stream_id, ref.slot, ref.first)
        return known is not None and known.first == ref.first and (known.file_lsn ^ ref.file_lsn) & ~KEPT == 0

    def block_at(self, stream_id: int, slot: int, offset: int) -> BlockRef | None:
        """The last block of a slot that begins at or before `offset`."""
        with self._lock:
            iterator = self._db.iter()
            iterator.seek_for_prev(b"i" + _BLOCK_KEY.pack(stream_id, slot, offset))
            return self._block(iterator, stream_id, slot)

    def blocks_from(self, stream_id: int, slot: int, offset: int) -> Iterator[BlockRef]:
        """Blocks of a slot that hold anything at or after `offset`, in order."""
        first = self.block_at(stream_id, slot, offset)
        with self._lock:
            iterator = self._db.iter()
        start = offset if first is None else first.first
        iterator.seek(b"i" + _BLOCK_KEY.pack(stream_id, slot, start))
        while (ref := self._block(iterator, stream_id, slot)) is not None:
            if ref.end > offset:
                yield ref
            iterator.next()

    @staticmethod
    def _block(iterator: Any, stream_id: int, slot: int) -> BlockRef | None:
        if not iterator.valid():
            return None
        key = iterator.key()
        if len(key) != 1 + _BLOCK_KEY.size or key[:1] != b"i":
            return None
        own_stream, own_slot, first = _BLOCK_KEY.unpack_from(key, 1)
        if (own_stream, own_slot) != (stream_id, slot):
            return None
        lsn, end, stamp, before, position, rows, crc, size = _BLOCK.unpack(iterator.value())
        return BlockRef(stream_id, slot, lsn, first, end, stamp, before, position, rows, crc, size)

    def _items(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        with self._lock:
            iterator = self._db.iter()
        iterator.seek(prefix)
        while iterator.valid():
            key = iterator.key()
            if not key.startswith(prefix):
                return
            yield key, iterator.value()
            iterator.next()


def _lack(error: Exception) -> int | None:
    """The errno if RocksDB failed because this process lacks something, else None."""
    return next((number for number in SHORTAGES | FORBIDDEN if os.strerror(number) in str(error)), None)


def slot_key(stream_id: int, slot: int) -> bytes:
    """The key of a slot's state."""
    return b"s" + _SLOT.pack(stream_id, slot)


def slot_item(stream_id: int, slot: int, lsn: int, state: bytes) -> tuple[bytes, bytes]:
    """A slot's state as a key and value."""
    return slot_key(stream_id, slot), _LSN.pack(lsn) + state


def table_key(table: str, key: bytes) -> bytes:
    """The key of a table's entry."""
    name = table.encode()
    return b"t" + bytes((len(name),)) + name + key


def table_item(table: str, key: bytes, lsn: int, value: bytes) -> tuple[bytes, bytes]:
    """A table's entry as a key and value."""
    return table_key(table, key), _LSN.pack(lsn) + value


def block_key(ref: BlockRef) -> bytes:
    return b"i" + _BLOCK_KEY.pack(ref.stream_id, ref.slot, ref.first)


def block_item(ref: BlockRef) -> tuple[bytes, bytes]:
    """A block's place, as a key and value."""
    value = _BLOCK.pack(
        ref.file_lsn, ref.end, ref.max_timestamp, ref.bytes_before, ref.position, ref.rows, ref.crc, ref.bytes
    )
    return block_key(ref), value
