"""Slots on their way into a container: the table ``arriving.slots`` of its log.

A slot that comes from another container is filled before it is decided that it comes. Until then it is an object beside
its stream's own, and its entries are frames of this log like any others.

Table ``arriving.slots`` (`ARRIVING_TABLE`): u32 stream, u32 slot, both big-endian -> the slot's value
(`core.streams.slot_format`, version 3). A put begins the slot anew in that state; its entries follow as frames. The
last put has the state of the slot where it came from: writers, transactions, leader epochs. A delete ends the arrival:
the slot is here if this container's copy of its stream says so, and else it is gone.

**Invariants**

- Frames of a slot lie behind the row that begins it, in log files from `since_lsn` on.
- A row says nothing about who owns the slot. Only the stream's state does, in the registry first.
"""

from __future__ import annotations

import struct
from typing import Final

from core.applied.tables import Delete, Put

ARRIVING_TABLE: Final = "arriving.slots"
_KEY: Final = struct.Struct(">II")

Place = tuple[int, int]
"""A slot, by the id of its stream and its number."""


def arrival_put(place: Place, value: bytes) -> Put:
    """Begin a slot in this state."""
    return Put(ARRIVING_TABLE, _KEY.pack(*place), value)


def arrival_delete(place: Place) -> Delete:
    """End an arrival."""
    return Delete(ARRIVING_TABLE, _KEY.pack(*place))


def place_of(key: bytes) -> Place:
    """The slot that a row is about."""
    stream_id, number = _KEY.unpack(key)
    return stream_id, number
