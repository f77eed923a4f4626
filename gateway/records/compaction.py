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

Keys and records are gone through by a `KeyTable`, natively where that can be (`gateway.records.walking`).
"""

from __future__ import annotations

import contextlib
import os
from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

from core.tiering.filters import CompactionScope
from gateway.records.compression import compress, decompress
from gateway.records.key_table import KEY_BYTES, Sifted
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
from gateway.records.record_check import Content
from gateway.records.records import DECOMPRESSED_BYTES_MAX, INT64_MAX, INT64_MIN, TOO_FAR, seal_batch
from gateway.records.walking import new_key_table, shifted
from gateway.wire.error_codes import INVALID_RECORD
from gateway.wire.errors import InvalidBatch
from tier2.chunk_format import AbortedTransaction
from tier2.storage import Buffer

HORIZON_MS_MAX: Final = 2**62
"""Largest delete horizon in ms: a base timestamp holds it, and a record's distance from it still fits its field."""


class Compactor:
    """The store's `EntryFilter` for one partition and round."""

    def __init__(self, scope: CompactionScope) -> None:
        self._scope = scope
        self._end = scope.end
        self._last = new_key_table(os.urandom(KEY_BYTES))
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
        with contextlib.suppress(InvalidBatch):
            self._last.learn(_opened(entry, header), header.record_count, header.last_offset_delta, header.base_offset)

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
        try:
            content = _opened(entry, header)
            sifted = self._last.sift(
                content, header.record_count, header.last_offset_delta, header.base_offset, self._is_over(header)
            )
            return self._left_of(entry, header, content, sifted) if sifted.kept else self._emptied(entry, header)
        except InvalidBatch:
            self._unknown_values = True
            return entry

    def _left_of(self, entry: memoryview, header: BatchHeader, content: Content, sifted: Sifted) -> Buffer:
        """The batch with the records that stay. Raises InvalidBatch."""
        horizon = self._horizon(header) if sifted.has_tombstones else None
        fresh = horizon is not None and not header.attributes & DELETE_HORIZON
        if sifted.content is None and not fresh:
            return entry
        own = min(header.base_timestamp + sifted.newest, INT64_MAX)  # a record's distance may lead beyond
        newest = header.max_timestamp if header.is_log_append_time else own
        kept = header._replace(record_count=sifted.kept, max_timestamp=newest)
        return _rebuilt(kept, content if sifted.content is None else sifted.content, horizon if fresh else None)

    def _marker(self, entry: memoryview, header: BatchHeader) -> Buffer | None:
        """Keep or remove the marker of a transaction."""
        stays = self._met.pop(header.producer_id, None)
        if not header.attributes & DELETE_HORIZON:
            if stays:
                return entry
            horizon = self._new_horizon()
            try:
                marked = _rebuilt(header, _opened(entry, header), horizon)
            except InvalidBatch:
                return entry
            self._is_due_at(horizon)
            return marked
        if header.base_timestamp > self._scope.now_ms:
            self._is_due_at(header.base_timestamp)
        elif stays is None and header.last_offset + 1 != self._end:
            return None
        return entry

    def _is_over(self, header: BatchHeader) -> bool:
        """Whether a batch's tombstones are past their time."""
        if not header.attributes & DELETE_HORIZON or self._unknown_values:
            return False
        return header.base_timestamp <= self._scope.now_ms

    def _horizon(self, header: BatchHeader) -> int:
        """The time until which a batch's tombstones stay."""
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


def _opened(entry: memoryview, header: BatchHeader) -> Content:
    """The bytes of a batch's records, decompressed. Raises InvalidBatch."""
    body = entry[HEADER_BYTES:]
    return body if header.codec == NONE else decompress(header.codec, body, DECOMPRESSED_BYTES_MAX)


def _rebuilt(header: BatchHeader, content: Content, new_horizon: int | None) -> Buffer:
    """A batch of these records, in its own codec; a new horizon becomes its base timestamp. Raises InvalidBatch."""
    if new_horizon is not None:
        shift = header.base_timestamp - new_horizon
        if shift < INT64_MIN:
            raise InvalidBatch(INVALID_RECORD, TOO_FAR)
        content = shifted(content, header.record_count, shift)
        header = header._replace(attributes=header.attributes | DELETE_HORIZON, base_timestamp=new_horizon)
    return _sealed(header, compress(header.codec, content))


def _sealed(header: BatchHeader, body: bytes) -> bytearray:
    length = HEADER_BYTES - LENGTH_PREFIX_BYTES + len(body)
    batch = bytearray(HEADER.pack(*header._replace(batch_length=length)))
    batch += body
    seal_batch(batch)
    return batch
