"""The records of a client's batch, checked once before they are stored; and a stored batch, looked up by time.

A batch's header is a claim. Here it is compared with the records: their number is the header's count, each has its
declared length, with lengths and header keys that a reader takes, and nothing follows the last. These are the claims
that consumers need for reading, or other parts rely on.

Nothing is copied and no text is decoded: a record costs under a microsecond. The caller's `spend` learns of the work
before it is done, at most `UNITS_PER_STEP` at a time; it may pause there, or raise to end it.

This is what runs where the native extension is not installed, and what says how that one has to behave
(`gateway.records.walking`).

Invariant: if `check_records` returned, `iter_records` reads every record, once they are numbered by their places.
"""

from array import array
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import islice, product
from typing import Final, NamedTuple

from gateway.records.record_batch import HEADER_BYTES, SMALLEST_RECORD_BYTES
from gateway.records.records import (
    HEADER_FIELD_BYTES_MIN,
    INT64_MAX,
    INT64_MIN,
    RECORDS_MAX,
    VARINT_BYTES_MAX,
    VARLONG_BYTES_MAX,
    read_varint,
    write_varint,
)
from gateway.wire.error_codes import INVALID_RECORD, MESSAGE_TOO_LARGE
from gateway.wire.errors import InvalidBatch

Content = bytes | bytearray | memoryview
"""A batch's records, decompressed."""
Spend = Callable[[int], None]
"""Learns of the next units of work: records, and record headers."""

UNITS_PER_STEP: Final = 256
"""Units of work between two calls of `spend`: a quarter of a millisecond."""
COPIED_BYTES_MAX: Final = 4_096
"""Records of a batch up to this size are copied first: bytes are read faster than a view of them."""
FEW_HEADERS_MAX: Final = 16
"""Record headers of a small batch that are checked along with its records."""
NO_TIMESTAMP_YET: Final = -(2**64)

CUT_SHORT: Final = "a record is cut short, or its timestamp is no number of 64 bits"

_HEAD_WITHOUT_KEY: Final = b"\0\0\0\x01"
"""Attributes, timestamp delta 0, offset delta 0, a null key."""
_NO_HEADERS: Final = b"\0"
_NOTHING_BEGINS_SO: Final = b"\xff" * 16

HEADERS_MAX: Final = 1_000_000
"""Record headers of one batch that is opened."""
PLACES_MAX: Final = 100
"""Records of one batch, the first ones, that are named for a fault."""
RECORDS_PER_UNIT: Final = 1
"""Records that are checked in one unit of work."""
AT_ONCE_BYTES_MAX: Final = 0
"""Size of a batch of any number of records that `are_as_claimed` goes through on the event loop."""


class Timely(NamedTuple):
    """The timestamps that a topic takes, as distances from a batch's base."""

    low: int = INT64_MIN
    high: int = INT64_MAX
    exempt: int = 0
    """One that is taken although it lies outside."""


ANY_TIME: Final = Timely()


class Records(NamedTuple):
    """Facts about a batch's records, which its header only claims."""

    newest: int
    """The largest timestamp's distance from the base."""
    untimely: list[int]
    """Places of the first records with a timestamp that the topic does not take."""
    without_key: list[int]
    """Places of the first records that have no key."""
    are_numbered: bool
    """Each record's offset delta is its place."""


Stamp = tuple[int, int]
"""A record's timestamp and offset, as distances from the batch's bases."""


def are_as_claimed(batch: memoryview, count: int, newest_delta: int, with_keys: bool) -> bool:
    """Whether the records of an uncompressed batch are just as its header says, and need no further check.

    True for batches of honest clients; for others `check_records` finds the fault. Runs for every small batch, hence
    without a call for each field: numbers of one byte are compared undecoded, as are sizes of two. Such a number is
    twice its value, or odd if that is negative.
    """
    size = len(batch)
    if size > COPIED_BYTES_MAX:
        return _are_as_claimed(batch[HEADER_BYTES:], count, newest_delta, with_keys)
    b = bytes(batch[HEADER_BYTES:])
    if count == 1 and not (newest_delta or with_keys or b[-1]) and b.startswith(_front_of_one(size - HEADER_BYTES)):
        return True
    return _are_as_claimed(b, count, newest_delta, with_keys)


def _are_as_claimed(b: Content, count: int, newest_delta: int, with_keys: bool) -> bool:
    p, newest, headers_left = 0, NO_TIMESTAMP_YET, FEW_HEADERS_MAX
    end = len(b)
    try:
        for number in range(0, count << 1, 2):  # of one byte: so few records have no larger one
            length = b[p]
            if length < 128:
                p += 1
            elif (byte := b[p + 1]) < 128:
                length = length & 127 | byte << 7
                p += 2
            else:
                length, p = read_varint(b, p, end)
                length <<= 1
            stop = p + (length >> 1)
            delta = b[p + 1]
            if delta & 129:
                delta, p = read_varint(b, p + 1, stop, VARLONG_BYTES_MAX)
                delta <<= 1
            else:
                p += 2
            if delta > newest:
                newest = delta
            if b[p] != number:
                return False
            key = b[p + 1]
            if key == 1:  # null
                if with_keys:
                    return False
                p += 2
            elif key < 128:
                p += 2 + (key >> 1)
            else:
                key, p = read_varint(b, p + 1, stop)
                if key < 0:
                    return False
                p += key
                key = 0
            value = b[p]
            if value == 1:  # null
                p += 1
            elif value < 128:
                p += 1 + (value >> 1)
            elif (byte := b[p + 1]) < 128:
                value = value & 127 | byte << 7
                p += 2 + (value >> 1)
            else:
                value, p = read_varint(b, p, stop)
                if value < 0:
                    return False
                p += value
                value = 0
            if b[p]:
                headers, p = read_varint(b, p, stop)
                headers_left -= headers
                if headers < 0 or headers_left < 0:
                    return False
                p = _check_headers(b, p, stop, headers, headers_left, _no_pause)
            else:
                p += 1
            if p != stop or length & 1 or (key & 1 and key != 1) or (value & 1 and value != 1):
                return False
    except (IndexError, InvalidBatch):
        return False
    return p == end and newest == newest_delta << 1


@lru_cache(COPIED_BYTES_MAX)
def _front_of_one(size: int) -> bytes:
    """The bytes before the value of a record that is alone in `size` bytes, without a key and without headers.

    Such records come one in each request, and comparing these bytes is the quickest check. If no record has that size,
    returns bytes with which no batch begins.
    """
    for length_bytes, value_bytes in product(range(1, VARINT_BYTES_MAX + 1), repeat=2):
        length = _varint(size - length_bytes)
        value = size - length_bytes - len(_HEAD_WITHOUT_KEY) - value_bytes - len(_NO_HEADERS)
        if value >= 0 and (len(length), len(_varint(value))) == (length_bytes, value_bytes):
            return length + _HEAD_WITHOUT_KEY + _varint(value)
    return _NOTHING_BEGINS_SO


def _varint(value: int) -> bytes:
    out = bytearray()
    write_varint(out, value)
    return bytes(out)


def _no_pause(units: int) -> None:
    """The `spend` for work so small that no pace needs to learn of it."""


def check_records(b: Content, count: int, spend: Spend, timely: Timely = ANY_TIME) -> Records:
    """Check `count` records, which must be all of `b`. Raises InvalidBatch, and the exceptions of `spend`."""
    end = len(b)
    check_count(count, end, RECORDS_MAX)
    deltas = array("q")
    without_key: list[int] = []
    misnumbered, position, headers_left = False, 0, HEADERS_MAX
    try:
        for first in range(0, count, UNITS_PER_STEP):
            last = min(count, first + UNITS_PER_STEP)
            spend(last - first)
            for place in range(first, last):
                p, stop, timestamp_delta, delta, key = _read_front(b, position, end)
                deltas.append(timestamp_delta)
                misnumbered |= delta != place
                if key < 0:
                    if len(without_key) < PLACES_MAX:
                        without_key.append(place)
                    if key < -1:
                        raise InvalidBatch(INVALID_RECORD, f"record {place}: a key of {key} bytes")
                else:
                    p += key
                byte = b[p]
                value, p = (byte >> 1 ^ -(byte & 1), p + 1) if byte < 128 else read_varint(b, p, stop)
                if value > 0:
                    p += value
                elif value < -1:
                    raise InvalidBatch(INVALID_RECORD, f"record {place}: a value of {value} bytes")
                if b[p]:
                    headers, p = read_varint(b, p, stop)
                    headers_left -= headers
                    p = _check_headers(b, p, stop, headers, headers_left, spend)
                else:
                    p += 1
                if p != stop:
                    raise InvalidBatch(INVALID_RECORD, f"record {place} is not as long as it says")
                position = stop
    except (IndexError, OverflowError):
        raise InvalidBatch(INVALID_RECORD, CUT_SHORT) from None
    if position != end:
        raise InvalidBatch(INVALID_RECORD, f"{end - position} bytes follow the last record")
    return Records(max(deltas), _untimely(deltas, timely), without_key, not misnumbered)


def check_count(count: int, size: int, records_max: int) -> None:
    """Raises InvalidBatch when that many records cannot be in that many bytes, or are more than are opened."""
    if count > records_max:
        raise InvalidBatch(MESSAGE_TOO_LARGE, f"{count} records, at most {records_max} are opened")
    if count <= 0 or count * SMALLEST_RECORD_BYTES > size:
        raise InvalidBatch(INVALID_RECORD, f"{count} records cannot be in {size} bytes")


def _untimely(deltas: "array[int]", timely: Timely) -> list[int]:
    low, high, exempt = timely
    if low <= min(deltas) and max(deltas) <= high:
        return []
    outside = (place for place, delta in enumerate(deltas) if not low <= delta <= high and delta != exempt)
    return list(islice(outside, PLACES_MAX))


def _read_front(b: Content, p: int, end: int) -> tuple[int, int, int, int, int]:
    """The record at p: its key's position, its end, its deltas of timestamp and offset, its key's length."""
    byte = b[p]
    length, p = (byte >> 1 ^ -(byte & 1), p + 1) if byte < 128 else read_varint(b, p, end)
    stop = p + length
    if length < SMALLEST_RECORD_BYTES - 1 or stop > end:
        raise InvalidBatch(INVALID_RECORD, f"a record of {length} bytes, {end - p} are left")
    p += 1  # one byte of unused attributes
    byte = b[p]
    if byte < 128:
        timestamp_delta, p = byte >> 1 ^ -(byte & 1), p + 1
    else:
        timestamp_delta, p = read_varint(b, p, stop, VARLONG_BYTES_MAX)
    byte = b[p]
    delta, p = (byte >> 1 ^ -(byte & 1), p + 1) if byte < 128 else read_varint(b, p, stop)
    byte = b[p]
    key, p = (byte >> 1 ^ -(byte & 1), p + 1) if byte < 128 else read_varint(b, p, stop)
    return p, stop, timestamp_delta, delta, key


def _check_headers(b: Content, p: int, stop: int, count: int, left: int, spend: Spend) -> int:
    """The end of the record's headers."""
    if left < 0:
        raise InvalidBatch(MESSAGE_TOO_LARGE, f"more than {HEADERS_MAX} record headers")
    if count < 0 or count * HEADER_FIELD_BYTES_MIN > stop - p:
        raise InvalidBatch(INVALID_RECORD, f"{count} record headers in {stop - p} bytes")
    for first in range(0, count, UNITS_PER_STEP):
        step = min(count - first, UNITS_PER_STEP)
        spend(step)
        for _ in range(step):
            length, p = read_varint(b, p, stop)
            if length < 0:
                raise InvalidBatch(INVALID_RECORD, "a record header without a key")
            length, p = read_varint(b, p + length, stop)
            if length < -1:
                raise InvalidBatch(INVALID_RECORD, f"a record header of {length} bytes")
            p += max(length, 0)
    return p


def numbered(b: Content, count: int, spend: Spend) -> bytearray:
    """Records that passed `check_records`, with their places as offset deltas."""
    out = bytearray()
    position, end = 0, len(b)
    for place in range(count):
        if not place % UNITS_PER_STEP:
            spend(2 * UNITS_PER_STEP)
        length, start = read_varint(b, position, end)
        position = start + length
        _, delta_at = read_varint(b, start + 1, position, VARLONG_BYTES_MAX)
        _, rest = read_varint(b, delta_at, position)
        body = bytearray(b[start:delta_at])
        write_varint(body, place)
        body += b[rest:position]
        write_varint(out, len(body))
        out += body
    return out


def find_first(b: Content, count: int, spend: Spend, timestamp_min: int, offset_min: int) -> Stamp | None:
    """The first record of a stored batch that is not before either. Raises InvalidBatch, and exceptions of `spend`."""
    return next((stamp for stamp in iter_stamps(b, count, spend, offset_min) if stamp[0] >= timestamp_min), None)


def find_newest(b: Content, count: int, spend: Spend, offset_min: int) -> Stamp | None:
    """The first of the records with the largest timestamp. Raises InvalidBatch, and exceptions of `spend`."""
    return max(iter_stamps(b, count, spend, offset_min), key=lambda stamp: stamp[0], default=None)


def iter_stamps(b: Content, count: int, spend: Spend, offset_min: int = 0) -> Iterator[Stamp]:
    """The records of a stored batch from an offset on. Raises InvalidBatch, and exceptions of `spend`."""
    position, end = 0, len(b)
    if count * SMALLEST_RECORD_BYTES > end:
        raise InvalidBatch(INVALID_RECORD, f"{count} records cannot be in {end} bytes")
    try:
        for place in range(count):
            if not place % UNITS_PER_STEP:
                spend(UNITS_PER_STEP)
            _, position, timestamp_delta, delta, _ = _read_front(b, position, end)
            if not INT64_MIN <= timestamp_delta <= INT64_MAX:
                raise IndexError
            if delta >= offset_min:
                yield timestamp_delta, delta
    except IndexError:
        raise InvalidBatch(INVALID_RECORD, CUT_SHORT) from None
