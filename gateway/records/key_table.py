"""The last offset of each key, and the records that it leaves of a batch: the inner part of compaction, in Python.

Runs where the native extension is not installed, and says how that one has to behave (`gateway.records.walking`).

A key is known by 16 bytes: BLAKE2b under a secret, 128 bits of SipHash in the native one. Among a million keys two are
alike with a probability of 1e-27. The secret never leaves the process, so a client that writes to the topic cannot look
for such a pair.

Invariant: bytes that cannot be judged raise InvalidBatch, and nothing was learned of them then.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final, NamedTuple

from gateway.records.record_check import Content
from gateway.records.records import INT64_MAX, INT64_MIN, TOO_FAR, RawRecord, iter_raw_records, write_varint
from gateway.wire.error_codes import INVALID_RECORD
from gateway.wire.errors import InvalidBatch

KEY_BYTES: Final = 16


class Sifted(NamedTuple):
    """The part of a batch that stays."""

    kept: int
    content: bytes | None
    """Its records; None when all stay."""
    newest: int
    """Their largest timestamp's distance from the base; says nothing when none stay."""
    has_tombstones: bool


class KeyTable:
    """The last offset of each key."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._last: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._last)

    def learn(self, content: Content, count: int, offset_max: int, base: int) -> None:
        """Raises InvalidBatch."""
        for record in _records(content, count, offset_max):
            if record.key is not None:
                self._last[self._known_as(record.key)] = base + record.offset_delta

    def sift(self, content: Content, count: int, offset_max: int, base: int, without_tombstones: bool) -> Sifted:
        """Drop records without a key, those with a later one of their key, and tombstones if so asked.

        Raises InvalidBatch.
        """
        records = _records(content, count, offset_max)
        kept = [
            record
            for record in records
            if record.key is not None
            and base + record.offset_delta >= self._last.get(self._known_as(record.key), INT64_MIN)
            and (record.has_value or not without_tombstones)
        ]
        return Sifted(
            len(kept),
            None if len(kept) == len(records) else b"".join([content[record.start : record.stop] for record in kept]),
            max((record.timestamp_delta for record in kept), default=INT64_MIN),
            not all(record.has_value for record in kept),
        )

    def _known_as(self, key: bytes) -> bytes:
        return blake2b(key, digest_size=KEY_BYTES, key=self._secret).digest()


def shifted(content: Content, count: int, shift: int) -> bytearray:
    """Records whose timestamps count from another base. Raises InvalidBatch."""
    out = bytearray()
    for record in iter_raw_records(bytes(content), count, INT64_MAX):
        timestamp_delta = record.timestamp_delta + shift
        if not INT64_MIN <= timestamp_delta <= INT64_MAX:
            raise InvalidBatch(INVALID_RECORD, TOO_FAR)
        body = bytearray((record.attributes,))
        write_varint(body, timestamp_delta)
        body += content[record.after_timestamp : record.stop]
        write_varint(out, len(body))
        out += body
    return out


def _records(content: Content, count: int, offset_max: int) -> list[RawRecord]:
    return list(iter_raw_records(bytes(content), count, offset_max))
