"""Compaction of record batches: the last value of each key stays. Runs in the store's worker process.

After Kafka's cleaner (KIP-58, KIP-98 for transactions, KIP-534 for tombstones and markers); only offsets decide, not
other versions (KIP-280).

Invariants:
- The record with a key's largest offset below the round's end stays, unless it is a tombstone past its time.
- Offsets never change: a batch keeps its base offset and its last offset, however few records stay in it.
- A tombstone stays for `delete.retention.ms` after the first round that saw it: until the *delete horizon*, which that
  round writes into the batch (attribute bit 6; the base timestamp is the horizon then).
- A committed transaction's batches are like any others; an aborted one's records do not stay, and hide no older value.
- A transaction's marker stays while any record of the transaction does, then until a delete horizon. It leaves in a
  round that has met no record of the transaction: even if that round fails, no data is left without its marker.
- An aborted transaction is listed while any part of it is left, its marker included: for a listed transaction a reader
  skips its writer's entries up to the marker.
- A batch that cannot be judged is kept as it is: it is damaged, or grows beyond the bounds of an opened batch. No
  tombstone behind such a batch is removed, as an older value of its key may lie in it.
- The last batch of a writer and the last one of the round stay as a bare header if they are empty: they hold the
  writer's last sequence, and the partition's last offset.

A key is known by 16 bytes: BLAKE2b under a secret of the round. Among a million keys two are alike with a probability
of 1e-27. The secret never leaves the process, so a client that writes to the topic cannot look for such a pair.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

from core.tiering.filters import CompactionScope
from gateway.records.compression import compress, decompress
from gateway.records.record_batch import (
    CODEC_MASK,
    DELETE_HORIZON,
    HEADER,
    HEADER_BYTES,
    LENGTH_PREFIX_BYTES,
    NO_TIMESTAMP,
    NONE,
    BatchHeader,
    read_header,
)
from gateway.records.records import DECOMPRESSED_BYTES_MAX, RawRecord, iter_raw_records, seal_batch, write_varint
from gateway.wire.errors import InvalidBatch
from tier2.chunk_format import AbortedTransaction
from tier2.storage import Buffer

KEY_BYTES: Final = 16
HORIZON_MS_MAX: Final = 2**62
"""Largest delete horizon in ms: a base timestamp holds it, and a record's distance from it still fits its field."""


class _Opened(NamedTuple):
    """A batch's records, and their bytes."""

    payload: bytes | bytearray
    records: list[RawRecord]


class Compactor:
    """The store's `EntryFilter` for one partition and round."""

    def __init__(self, scope: CompactionScope) -> None:
        self._scope = scope
        self._end = scope.end
        self._secret = os.urandom(KEY_BYTES)
        self._last: dict[bytes, int] = {}
        self._unknown_values = False
        self._due_ms: int | None = None
        self._writers = scope.writers
        self._aborted: dict[int, list[AbortedTransaction]] = {}  # by writer: those that overlap the run
        self._met: dict[int, bool] = {}  # writers with a transaction that was met; whether any of it stays
        self._left: set[int] = set()  # last offsets of aborted transactions that stay in part

    def __repr__(self) -> str:
        return f"<Compactor [{self._scope.begin}, {self._end}): {len(self._last)} keys, {len(self._met)} transactions>"

    @property
    def held(self) -> int:
        return len(self._last)

    @property
    def due_ms(self) -> int | None:
        """The next delete horizon."""
        return self._due_ms

    def end_at(self, end: int) -> None:
        self._end = end

    def run_begins(self, aborted: Sequence[AbortedTransaction]) -> None:
        self._aborted = {}
        for transaction in aborted:
            self._aborted.setdefault(transaction.writer_id, []).append(transaction)

    def has_left(self, transaction: AbortedTransaction) -> bool:
        return transaction.last in self._left

    def learn(self, entry: memoryview) -> None:
        header = read_header(entry)
        if header.is_control or self._aborted_by(header) is not None:
            return
        opened = _open(entry, header)
        if opened is None:
            return
        base, last = header.base_offset, self._last
        for record in opened.records:
            if record.key is not None:
                last[self._known_as(record.key)] = base + record.offset_delta

    def keep(self, entry: memoryview) -> Buffer | None:
        header = read_header(entry)
        aborted = self._aborted_by(header)
        if header.is_control:
            kept = self._marker(entry, header)
        else:
            kept = self._compacted(entry, header) if aborted is None else self._emptied(entry, header)
            if header.is_transactional:
                stays = self._met.get(header.producer_id, False)
                self._met[header.producer_id] = stays or kept is not None
        if aborted is not None and kept is not None:
            self._left.add(aborted.last)
        return kept

    def _aborted_by(self, header: BatchHeader) -> AbortedTransaction | None:
        """The aborted transaction that a batch belongs to or ends."""
        known = self._aborted.get(header.producer_id)
        if known is None or not header.is_transactional:
            return None
        place = bisect_left(known, header.base_offset, key=lambda one: one.last)
        found = known[place] if place < len(known) else None
        return found if found is not None and found.first <= header.base_offset else None

    def _compacted(self, entry: memoryview, header: BatchHeader) -> Buffer | None:
        opened = _open(entry, header)
        if opened is None:
            self._unknown_values = True
            return entry
        kept = [record for record in opened.records if self._stays(record, header)]
        if not kept:
            return self._emptied(entry, header)
        horizon = self._horizon(header, kept)
        fresh = horizon is not None and not header.attributes & DELETE_HORIZON
        if len(kept) == len(opened.records) and not fresh:
            return entry
        return _rebuilt(header, opened.payload, kept, horizon if fresh else None)

    def _marker(self, entry: memoryview, header: BatchHeader) -> Buffer | None:
        """Keep or remove the marker of a transaction."""
        stays = self._met.pop(header.producer_id, None)
        if not header.attributes & DELETE_HORIZON:
            opened = None if stays else _open(entry, header)
            if opened is None:
                return entry
            horizon = self._new_horizon()
            self._is_due_at(horizon)
            return _rebuilt(header, opened.payload, opened.records, horizon)
        if header.base_timestamp > self._scope.now_ms:
            self._is_due_at(header.base_timestamp)
        elif stays is None and header.last_offset + 1 != self._end:
            return None
        return entry

    def _known_as(self, key: bytes) -> bytes:
        return blake2b(key, digest_size=KEY_BYTES, key=self._secret).digest()

    def _stays(self, record: RawRecord, header: BatchHeader) -> bool:
        if record.key is None:  # from a time when the topic was not compacted
            return False
        if header.base_offset + record.offset_delta < self._last.get(self._known_as(record.key), -1):
            return False
        return record.has_value or not self._is_over(header)

    def _is_over(self, header: BatchHeader) -> bool:
        """Whether a batch's tombstones are past their time."""
        if not header.attributes & DELETE_HORIZON or self._unknown_values:
            return False
        return header.base_timestamp <= self._scope.now_ms

    def _horizon(self, header: BatchHeader, kept: list[RawRecord]) -> int | None:
        """The time until which a batch's tombstones stay; None when there are none."""
        if all(record.has_value for record in kept):
            return None
        horizon = header.base_timestamp if header.attributes & DELETE_HORIZON else self._new_horizon()
        if not self._unknown_values:
            self._is_due_at(horizon)
        return horizon

    def _new_horizon(self) -> int:
        seen_ms = max(self._scope.now_ms, self._scope.stamp_ms)
        return min(seen_ms + self._scope.tombstone_ms, HORIZON_MS_MAX)

    def _is_due_at(self, horizon: int) -> None:
        self._due_ms = horizon if self._due_ms is None else min(self._due_ms, horizon)

    def _emptied(self, entry: memoryview, header: BatchHeader) -> Buffer | None:
        last_of_writer = header.has_producer_id and self._writers.get(header.producer_id) == header.last_offset
        if not last_of_writer and header.last_offset + 1 != self._end:
            return None
        if not header.record_count:
            return entry
        return _sealed(
            header._replace(
                attributes=header.attributes & ~(CODEC_MASK | DELETE_HORIZON),
                base_timestamp=NO_TIMESTAMP,
                record_count=0,
            ),
            b"",
        )


def _open(entry: memoryview, header: BatchHeader) -> _Opened | None:
    """The opened batch; None for one that must stay as it is."""
    try:
        body = entry[HEADER_BYTES:]
        payload = bytes(body) if header.codec == NONE else decompress(header.codec, body, DECOMPRESSED_BYTES_MAX)
        return _Opened(payload, list(iter_raw_records(header, payload)))
    except InvalidBatch:
        return None


def _rebuilt(header: BatchHeader, payload: bytes | bytearray, kept: list[RawRecord], new_horizon: int | None) -> Buffer:
    """The batch with some of its records, in its own codec; a new horizon becomes its base timestamp."""
    base = header.base_timestamp
    if not header.is_log_append_time:
        header = header._replace(max_timestamp=max(base + record.timestamp_delta for record in kept))
    if new_horizon is None:
        records = b"".join([payload[record.start : record.stop] for record in kept])
    else:
        header = header._replace(attributes=header.attributes | DELETE_HORIZON, base_timestamp=new_horizon)
        out = bytearray()
        for record in kept:
            _write_shifted(out, payload, record, base - new_horizon)
        records = bytes(out)
    return _sealed(header._replace(record_count=len(kept)), compress(header.codec, records))


def _write_shifted(out: bytearray, payload: bytes | bytearray, record: RawRecord, shift_ms: int) -> None:
    """A record whose timestamp counts from another base."""
    body = bytearray((record.attributes,))
    write_varint(body, record.timestamp_delta + shift_ms)
    body += payload[record.after_timestamp : record.stop]
    write_varint(out, len(body))
    out += body


def _sealed(header: BatchHeader, body: bytes) -> bytearray:
    length = HEADER_BYTES - LENGTH_PREFIX_BYTES + len(body)
    batch = bytearray(HEADER.pack(*header._replace(batch_length=length)))
    batch += body
    seal_batch(batch)
    return batch
