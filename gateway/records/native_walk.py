"""Records walked by the native extension: the same as `record_check` and `key_table` do, some fifty times as fast.

Importing this raises ImportError where the extension is not installed, or was built from other sources.

A step of the extension cannot be paused, as it costs no more than `BYTES_PER_UNIT` says; it is told to `spend` before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.records import _native
from gateway.records.key_table import Sifted
from gateway.records.record_batch import SMALLEST_RECORD_BYTES
from gateway.records.record_check import (
    ANY_TIME,
    CUT_SHORT,
    HEADERS_MAX,
    Content,
    Records,
    Spend,
    Stamp,
    Timely,
    check_count,
)
from gateway.records.records import DECOMPRESSED_BYTES_MAX, INT64_MIN, TOO_FAR, check_stored_count
from gateway.wire.error_codes import INVALID_RECORD, MESSAGE_TOO_LARGE
from gateway.wire.errors import InvalidBatch

VERSION: Final = 1
if _native.VERSION != VERSION:
    raise ImportError(f"the native extension is of version {_native.VERSION}, not {VERSION}: build it again")

RECORDS_PER_UNIT: Final = 64
BYTES_PER_UNIT: Final = 512
"""Bytes in a unit, a microsecond: the smallest records, and record headers, take 1 to 2 ns a byte."""
AT_ONCE_BYTES_MAX: Final = 2 * 1024 * 1024
"""Some 4 ms of the smallest records."""
RECORDS_MAX: Final = DECOMPRESSED_BYTES_MAX // SMALLEST_RECORD_BYTES
"""Records are bounded by their bytes alone."""

_FAULTS: Final[tuple[Callable[[int, int, int], str], ...]] = (
    lambda place, a, b: "no fault",
    lambda place, a, b: CUT_SHORT,
    lambda place, a, b: "a varint is cut short or too long",
    lambda place, a, b: f"a record of {a} bytes, {b} are left",
    lambda place, a, b: f"record {place}: a key of {a} bytes",
    lambda place, a, b: f"record {place}: a value of {a} bytes",
    lambda place, a, b: f"record {place} is not as long as it says",
    lambda place, a, b: f"{a} bytes follow the last record",
    lambda place, a, b: f"more than {HEADERS_MAX} record headers",
    lambda place, a, b: f"{a} record headers in {b} bytes",
    lambda place, a, b: "a record header without a key",
    lambda place, a, b: f"a record header of {a} bytes",
    lambda place, a, b: f"offset delta {a} after {b}",
    lambda place, a, b: TOO_FAR,
    lambda place, a, b: f"length {a} with {b} bytes left in a record",
)
"""The words for each kind of `Fault`, in the extension's order."""
_TOO_MANY: Final = 8

are_as_claimed: Final = _native.are_as_claimed


def check_records(b: Content, count: int, spend: Spend, timely: Timely = ANY_TIME) -> Records:
    check_count(count, len(b), RECORDS_MAX)
    spend(len(b) // BYTES_PER_UNIT)
    try:
        return Records(*_native.check(b, count, *timely))
    except _native.Fault as fault:
        raise _invalid(fault) from None


def numbered(b: Content, count: int, spend: Spend) -> bytearray:
    spend(2 * len(b) // BYTES_PER_UNIT)
    try:
        return _native.numbered(b, count)
    except _native.Fault as fault:
        raise _invalid(fault) from None


def find_first(b: Content, count: int, spend: Spend, timestamp_min: int, offset_min: int) -> Stamp | None:
    return _look_up(b, count, spend, False, timestamp_min, offset_min)


def find_newest(b: Content, count: int, spend: Spend, offset_min: int) -> Stamp | None:
    return _look_up(b, count, spend, True, INT64_MIN, offset_min)


def _look_up(b: Content, count: int, spend: Spend, largest: bool, timestamp_min: int, offset_min: int) -> Stamp | None:
    if count * SMALLEST_RECORD_BYTES > len(b):
        raise InvalidBatch(INVALID_RECORD, f"{count} records cannot be in {len(b)} bytes")
    spend(len(b) // BYTES_PER_UNIT)
    try:
        return _native.look_up(b, count, largest, timestamp_min, offset_min)
    except _native.Fault as fault:
        raise _invalid(fault) from None


def shifted(content: Content, count: int, shift: int) -> bytearray:
    check_stored_count(count, len(content), RECORDS_MAX)
    try:
        return _native.shifted(content, count, shift)
    except _native.Fault as fault:
        raise _invalid(fault) from None


class KeyTable:
    """The last offset of each key, 24 bytes each and up to as much again of empty room."""

    def __init__(self, secret: bytes) -> None:
        self._table = _native.KeyTable(secret)

    def __len__(self) -> int:
        return len(self._table)

    def learn(self, content: Content, count: int, offset_max: int, base: int) -> None:
        check_stored_count(count, len(content), RECORDS_MAX)
        try:
            self._table.learn(content, count, offset_max, base)
        except _native.Fault as fault:
            raise _invalid(fault) from None

    def sift(self, content: Content, count: int, offset_max: int, base: int, without_tombstones: bool) -> Sifted:
        check_stored_count(count, len(content), RECORDS_MAX)
        try:
            return Sifted(*self._table.sift(content, count, offset_max, base, without_tombstones))
        except _native.Fault as fault:
            raise _invalid(fault) from None


def _invalid(fault: _native.Fault) -> InvalidBatch:
    kind, place, a, b = fault.args
    return InvalidBatch(MESSAGE_TOO_LARGE if kind == _TOO_MANY else INVALID_RECORD, _FAULTS[kind](place, a, b))
