"""A slot's value in the applied state: its bytes, and nothing else. All numbers are little-endian.

A value of version 1 ends where the transactions begin, one of version 2 behind them. Version 3 is for a slot that has
come from another container. The value stands behind the LSN that it reflects (`core.applied.metadata`).

Head, then its leader epochs:

    ======  ====  =====================================================
    offset  type  field
    ======  ====  =====================================================
    0       u8    version (2 or 3)
    1       i64   start: first sequence number
    9       i64   end: behind the last durable entry
    17      u64   bytes ever appended
    25      u64   of those, before the start
    33      i64   tiered end: chunks hold everything before
    41      u64   bytes ever appended before the tiered end
    49      u16   count of leader epochs, for each:
    51      i32       leader epoch
    55      i64       its first sequence number
    ======  ====  =====================================================

Writers (`core.streams.writers`), behind the head:

    ======  ====  =====================================================
    offset  type  field
    ======  ====  =====================================================
    0       u32   count of writers, for each:
    4       i64       writer id
    12      i16       epoch
    14      i64       last use, ms
    22      u8        count of batches, oldest first, for each:
    23      i16           epoch
    25      i32           first sequence
    29      i32           last sequence
    33      i64           first sequence number of the slot
    41      u32           count of sequence numbers
    45      i64           largest timestamp, ms
    ======  ====  =====================================================

The newest batch has sequences of -2 if a recovery has lost the batches after it.

Stretches of segments, behind the writers:

    ======  ====  =====================================================
    offset  type  field
    ======  ====  =====================================================
    0       u32   count of stretches, oldest first, for each:
    4       i64       first sequence number
    12      u64       segment
    20      u64       bytes ever appended before it
    ======  ====  =====================================================

Transactions, behind the stretches, from version 2 on:

    ======  ====  =====================================================
    offset  type  field
    ======  ====  =====================================================
    0       u32   count of transactions that are not over, for each:
    4       i64       first sequence number
    12      i64       writer id
    20      u64       bytes ever appended before it
    ...     u32   count of aborted transactions, for each:
    +4      i64       its marker's sequence number
    +12     i64       first sequence number
    +20     i64       writer id
    +28     i64       stable end when it had ended
    ======  ====  =====================================================

Arrival, behind the transactions, in version 3:

    ======  ====  =====================================================
    offset  type  field
    ======  ====  =====================================================
    0       u64   first LSN of the oldest log file that may have entries
                  of the slot since it came to this container; older
                  files may have some of an earlier stay
    ======  ====  =====================================================
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Final, NamedTuple

from core.errors import CorruptState
from core.streams.transactions import NO_TRANSACTIONS, SlotTransactions
from core.streams.writers import BATCHES_KEPT, WriterBatch

VERSION: Final = 2
ARRIVED_VERSION: Final = 3
TRANSACTIONS_SINCE: Final = 2
_HEAD: Final = struct.Struct("<BqqQQqQH")
_EPOCH: Final = struct.Struct("<iq")
_COUNT: Final = struct.Struct("<I")
_WRITER: Final = struct.Struct("<qhqB")
_BATCH: Final = struct.Struct("<hiiqIq")
_WRITERS: Final = [
    struct.Struct(_WRITER.format + _BATCH.format.lstrip("<") * count) for count in range(BATCHES_KEPT + 2)
]
"""A writer with this many batches, a gap among them."""
_SEGMENT: Final = struct.Struct("<qQQ")
_SINCE: Final = struct.Struct("<Q")
assert _HEAD.size == 51
assert _WRITER.size == 19
assert _BATCH.size == 30


class SegmentStretch(NamedTuple):
    """The entries that a slot appended to one segment. A stretch ends where the next one begins."""

    first: int
    id: int
    bytes_before: int


class SavedWriter(NamedTuple):
    """The durable state of one writer."""

    writer_id: int
    epoch: int
    last_use_ms: int
    batches: Sequence[WriterBatch]


class SavedSlot(NamedTuple):
    """The durable state of a slot."""

    start: int
    end: int
    total_bytes: int
    start_bytes: int
    tiered_end: int
    tiered_bytes: int
    leader_epochs: list[tuple[int, int]]
    writers: list[SavedWriter]
    segments: list[SegmentStretch]
    transactions: SlotTransactions | None
    since_lsn: int = 0  # 0: the slot was always in this container

    def encode(self) -> bytes:
        """The slot's value. Transactions that began at or behind `end` are left out."""
        head = encode_head(
            start=self.start,
            end=self.end,
            total_bytes=self.total_bytes,
            start_bytes=self.start_bytes,
            tiered_end=self.tiered_end,
            tiered_bytes=self.tiered_bytes,
            leader_epochs=self.leader_epochs,
            since_lsn=self.since_lsn,
        )
        writers = b"".join(encode_writer(*writer) for writer in self.writers)
        transactions = NO_TRANSACTIONS if self.transactions is None else self.transactions.encode(self.end)
        rest = encode_rest(self.segments, transactions, self.since_lsn)
        return joined(head, len(self.writers), writers, rest)


def encode_head(
    *,
    start: int,
    end: int,
    total_bytes: int,
    start_bytes: int,
    tiered_end: int,
    tiered_bytes: int,
    leader_epochs: Sequence[tuple[int, int]],
    since_lsn: int = 0,
) -> bytes:
    """The part of a slot's value before its writers."""
    version = ARRIVED_VERSION if since_lsn else VERSION
    return b"".join(
        (
            _HEAD.pack(version, start, end, total_bytes, start_bytes, tiered_end, tiered_bytes, len(leader_epochs)),
            *(_EPOCH.pack(*epoch) for epoch in leader_epochs),
        )
    )


def encode_writer(writer_id: int, epoch: int, last_use_ms: int, batches: Sequence[WriterBatch]) -> bytes:
    """One writer, as it lies in a slot's value."""
    count = len(batches)
    return _WRITERS[count].pack(writer_id, epoch, last_use_ms, count, *chain.from_iterable(batches))


def encode_rest(segments: Sequence[SegmentStretch], transactions: bytes = NO_TRANSACTIONS, since_lsn: int = 0) -> bytes:
    """The part behind the writers; `transactions` as `SlotTransactions` encodes them."""
    return b"".join(
        (
            _COUNT.pack(len(segments)),
            *(_SEGMENT.pack(*stretch) for stretch in segments),
            transactions,
            _SINCE.pack(since_lsn) if since_lsn else b"",
        )
    )


def joined(head: bytes, writer_count: int, writers: bytes | bytearray, rest: bytes) -> bytes:
    """A slot's value, made of its parts; `writers` are those of `encode_writer`, one after another."""
    return b"".join((head, _COUNT.pack(writer_count), writers, rest))


def encode_tiered_rest(writers: Iterable[bytes]) -> bytes:
    """The part behind the head, of a slot whose entries are all in chunks; `writers` as `encode_writer` makes them."""
    encoded = list(writers)
    return joined(b"", len(encoded), b"".join(encoded), encode_rest(()))


def decode_slot(value: bytes) -> SavedSlot:
    """Read a slot's value. Raises CorruptState."""
    try:
        version, start, end, total, before, tiered_end, tiered_bytes, epochs = _HEAD.unpack_from(value)
        if version > ARRIVED_VERSION:
            raise CorruptState(f"slot state version {version} is newer than this release")
        position = _HEAD.size
        leader_epochs = [_EPOCH.unpack_from(value, position + n * _EPOCH.size) for n in range(epochs)]
        writers, position = _decode_writers(value, position + epochs * _EPOCH.size)
        (count,) = _COUNT.unpack_from(value, position)
        position += _COUNT.size
        segments = [SegmentStretch(*_SEGMENT.unpack_from(value, position + n * _SEGMENT.size)) for n in range(count)]
        position += count * _SEGMENT.size
        transactions: SlotTransactions | None = None
        if version >= TRANSACTIONS_SINCE:
            transactions, position = SlotTransactions.decode(value, position)
        since_lsn = _SINCE.unpack_from(value, position)[0] if version >= ARRIVED_VERSION else 0
    except struct.error as error:
        raise CorruptState(f"the state of a slot cannot be read: {error}") from error
    return SavedSlot(
        start, end, total, before, tiered_end, tiered_bytes, leader_epochs, writers, segments, transactions, since_lsn
    )


def _decode_writers(value: bytes, position: int) -> tuple[list[SavedWriter], int]:
    (count,) = _COUNT.unpack_from(value, position)
    position += _COUNT.size
    writers: list[SavedWriter] = []
    for _ in range(count):
        writer_id, epoch, last_use_ms, batches = _WRITER.unpack_from(value, position)
        position += _WRITER.size
        end = position + batches * _BATCH.size
        found = [WriterBatch(*_BATCH.unpack_from(value, at)) for at in range(position, end, _BATCH.size)]
        writers.append(SavedWriter(writer_id, epoch, last_use_ms, found))
        position = end
    return writers, position
