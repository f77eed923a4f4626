"""How far slots are compacted: the rows of table ``compactions``, and the counts that a start takes from them.

key: u32 stream, u32 slot, big-endian; value: u8 version (1), i64 end, u64 bytes that lie before it, i64 time when a
round would remove tombstones that the last one kept, ms (-1: there are none). A slot without a row is all dirty.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from core.container.container import Container
from core.errors import CorruptState
from core.streams.live import Slot
from core.streams.removed import Removed
from core.tiering.catalog import Catalog
from core.tiering.rewriting.requests import SlotKey

CLEANED_TABLE: Final = "compactions"
_KEY: Final = struct.Struct(">II")
_VALUE: Final = struct.Struct("<BqQq")
_VERSION: Final = 1


class Cleaned(NamedTuple):
    """How far one slot is compacted."""

    end: int = 0
    size: int = 0
    due_ms: int = -1

    def encode(self) -> bytes:
        return _VALUE.pack(_VERSION, *self)


def key_of(slot: Slot) -> SlotKey:
    return SlotKey(slot.stream.id, slot.number)


def cleaned_key(slot: SlotKey) -> bytes:
    return _KEY.pack(*slot)


def decode_cleaned_key(key: bytes) -> SlotKey:
    """Raises CorruptState."""
    try:
        return SlotKey(*_KEY.unpack(key))
    except struct.error as error:
        raise CorruptState(f"a key of table {CLEANED_TABLE} cannot be read: {error}") from error


def decode_cleaned(value: bytes) -> Cleaned:
    """Raises CorruptState."""
    try:
        version, *fields = _VALUE.unpack(value)
    except struct.error as error:
        raise CorruptState(f"a row of table {CLEANED_TABLE} cannot be read: {error}") from error
    if version != _VERSION:
        raise CorruptState(f"compaction row version {version} is newer than this release")
    return Cleaned(*fields)


def slot_in(container: Container, key: SlotKey) -> Slot | None:
    """The slot, unless its stream is gone, or it has left the container."""
    return container.slot_at(key.stream_id, key.slot)


def count_removed(container: Container, catalog: Catalog) -> None:
    """Count the bytes that compaction has taken out of each slot, because no checkpoint of a slot has them. Blocks."""
    for key in container.table(CLEANED_TABLE).entries:
        slot_key = decode_cleaned_key(key)
        slot = slot_in(container, slot_key)
        if slot is not None:
            runs = catalog.iter_runs(slot_key.stream_id, slot_key.slot, slot.start)
            slot.removed = Removed.of_runs((run.first, run.end, run.removed) for run in runs)
