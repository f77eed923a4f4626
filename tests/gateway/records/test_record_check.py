"""Records are held against the claims of their batch's header, and unreadable ones are refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.records.record_batch import HEADER_BYTES, read_header
from gateway.records.record_check import PLACES_MAX, UNITS_PER_STEP, Timely, check_records, iter_stamps
from gateway.records.records import (
    Record,
    build_batch,
    iter_raw_records,
    iter_records,
    seal_batch,
    write_varint,
)
from gateway.wire.error_codes import INVALID_RECORD, MESSAGE_TOO_LARGE
from gateway.wire.errors import InvalidBatch
from tests.gateway.records.conftest import Walker

pytestmark = pytest.mark.slow


def at_once(units: int) -> None:
    """Nobody waits for this one."""


def varint(number: int) -> bytes:
    out = bytearray()
    write_varint(out, number)
    return bytes(out)


def raw(*fields: int | bytes, length: int | None = None) -> bytes:
    """A record of varints and bytes, after its byte of attributes."""
    body = b"\0" + b"".join(varint(one) if isinstance(one, int) else one for one in fields)
    return varint(len(body) if length is None else length) + body


GOOD = raw(0, 0, 1, b"k", 1, b"v", 1, 1, b"h", -1)
BAD = {
    "a header without a key": raw(0, 0, -1, -1, 1, -1, 1, b"x"),
    "a header that is not there": raw(0, 0, -1, -1, 2, 1, b"h", -1),
    "a header's value of -2 bytes": raw(0, 0, -1, -1, 1, 1, b"h", -2),
    "a header's key beyond the record": raw(0, 0, -1, -1, 1, 60, b"h", -1),
    "-1 headers": raw(0, 0, -1, -1, -1),
    "a key of -2 bytes": raw(0, 0, -2, -1, 0),
    "a key beyond the record": raw(0, 0, 50, b"k", -1, 0),
    "a value of -2 bytes": raw(0, 0, -1, -2, 0),
    "a value beyond the record": raw(0, 0, -1, 70, b"v", 0),
    "a negative length": raw(0, 0, -1, -1, 0, length=-6),
    "a length beyond the batch": raw(0, 0, -1, -1, 0, length=60),
    "bytes after the headers": raw(0, 0, -1, -1, 0, b"more"),
    "a record cut short": GOOD[:-3],
    "bytes after the last record": GOOD + b"\0",
    "a record more": GOOD + GOOD,
    "a timestamp of 70 bits": raw(b"\xff" * 9 + b"\x7f", 0, -1, -1, 0),
    "a varint without an end": raw(b"\x80" * 11, 0, -1, -1, 0),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("before", [0, 300])
def test_what_no_reader_takes(walker: Walker, name: str, before: int) -> None:
    """INVALID_RECORD, wherever in a batch it is."""
    good = b"".join(raw(0, n, -1, -1, 0) for n in range(before))

    with pytest.raises(InvalidBatch) as refused:
        walker.check_records(good + BAD[name], before + 1, at_once)
    assert refused.value.error_code == INVALID_RECORD


def test_what_the_records_say(walker: Walker) -> None:
    """Timestamps, places without a key (an empty one is a key), and whether offsets are places."""
    records = [Record(n, 10**12 - n * n, None if n % 70 == 0 else b"k" * n, b"v" * 300) for n in range(200)]
    content = bytes(build_batch(records)[HEADER_BYTES:])

    found = walker.check_records(content, 200, at_once, Timely(-10_000, -4, -1))
    assert found.newest == 0
    assert found.untimely == [0, *range(101, 200)]
    assert found.without_key == [0, 70, 140]
    assert found.are_numbered
    assert walker.check_records(raw(0, 0, 0, -1, 0), 1, at_once).without_key == []
    assert walker.check_records(content, 200, at_once).untimely == []


def test_the_first_places_are_named(walker: Walker) -> None:
    """Of many records that are not taken, the first hundred."""
    content = b"".join(raw(1, n, -1, -1, 0) for n in range(300))

    found = walker.check_records(content, 300, at_once, Timely(2, 5))
    assert found.untimely == found.without_key == list(range(PLACES_MAX))


@settings(max_examples=400, deadline=None)
@given(place=st.integers(0, 10_000), value=st.integers(0, 255), cut=st.integers(0, 40))
def test_what_passes_can_be_read(walker: Walker, place: int, value: int, cut: int) -> None:
    """Readers and compaction can read every batch that has passed, and find the same in it."""
    records = [
        Record(n, 3 * n, b"k" * (n % 3 * 60) if n % 4 else None, b"v" * n, [("h", b"x")] * (n % 3)) for n in range(80)
    ]
    batch = build_batch(records)
    del batch[len(batch) - cut :]
    batch[HEADER_BYTES + place % (len(batch) - HEADER_BYTES)] = value
    content = bytes(batch[HEADER_BYTES:])

    try:
        found = walker.check_records(content, 80, at_once)
    except InvalidBatch:
        return
    batch[HEADER_BYTES:] = walker.numbered(content, 80, at_once)
    batch[8:12] = (len(batch) - 12).to_bytes(4, "big")
    seal_batch(batch)
    header = read_header(batch)
    compacted = list(iter_raw_records(bytes(batch[HEADER_BYTES:]), 80, header.last_offset_delta))
    assert found.without_key == [n for n, record in enumerate(compacted) if record.key is None]
    assert [r.offset for r in iter_records(batch)] == list(range(80))
    times = [r.timestamp for r in iter_records(batch)]
    assert found.newest == max(times)
    assert list(iter_stamps(batch[HEADER_BYTES:], 80, at_once)) == list(zip(times, range(80), strict=True))
    for first in (0, 40, 79):
        newest = max(times[first:])
        for found_stamp in (
            walker.find_newest(batch[HEADER_BYTES:], 80, at_once, first),
            walker.find_first(batch[HEADER_BYTES:], 80, at_once, newest, first),
        ):
            assert found_stamp == (newest, times.index(newest, first))


def test_numbers_are_the_places(walker: Walker) -> None:
    """Records with any offset deltas get their places, and stay as they are else."""
    records = [raw(n, 900 - n, 1, b"k", 1, b"v", 1, 1, b"\xff", -1) for n in range(300)]
    assert not walker.check_records(b"".join(records), 300, at_once).are_numbered

    fixed = walker.numbered(b"".join(records), 300, at_once)
    assert bytes(fixed) == b"".join(raw(n, n, 1, b"k", 1, b"v", 1, 1, b"\xff", -1) for n in range(300))


def test_work_is_told_in_small_steps() -> None:
    """A check of many records, or of one with many headers, can be paused or ended at every few hundred."""
    told: list[int] = []
    headers = raw(0, 0, -1, -1, 10_000, b"\0\0" * 10_000)
    check_records(headers + b"".join(raw(0, n, -1, -1, 0) for n in range(1, 3_000)), 3_000, told.append)

    assert sum(told) == 13_000
    assert max(told) <= UNITS_PER_STEP


def test_too_many_records(walker: Walker) -> None:
    """More than are ever opened are not gone through."""
    with pytest.raises(InvalidBatch) as refused:
        walker.check_records(bytes(7 * walker.RECORDS_MAX + 7), walker.RECORDS_MAX + 1, at_once)
    assert refused.value.error_code == MESSAGE_TOO_LARGE


@pytest.mark.parametrize("size", [0, 1, 57, 58, 63, 64, 65, 127, 128, 3_000, 4_020, 5_000])
def test_one_record_without_a_key(walker: Walker, size: int) -> None:
    """The quick look at one record takes just those batches whose record can be read, whatever byte is changed."""
    batch = bytearray(build_batch([Record(0, 1_700_000_000_000, None, bytes(size))]))
    assert walker.are_as_claimed(memoryview(batch), 1, 0, False)
    assert not walker.are_as_claimed(memoryview(batch), 1, 1, False)
    assert not walker.are_as_claimed(memoryview(batch), 1, 0, True)

    for position in (*range(HEADER_BYTES, HEADER_BYTES + 10), len(batch) - 1):
        if position < len(batch):
            changed = bytearray(batch)
            changed[position] ^= 2
            if walker.are_as_claimed(memoryview(changed), 1, 0, False):
                (record,) = iter_records(changed)
                assert record.timestamp == 1_700_000_000_000


@pytest.mark.parametrize("count", [1, 2, 8])
@pytest.mark.parametrize("key_size", [None, 0, 3, 70, 9_000])
@pytest.mark.parametrize("value_size", [None, 0, 40, 300, 9_000])
def test_quick_look_at_small_batches(walker: Walker, count: int, key_size: int | None, value_size: int | None) -> None:
    """A small batch is taken at the quick look if it is in order, and never if a full one would refuse it."""
    key, value = (None if size is None else bytes(size) for size in (key_size, value_size))
    batch = build_batch([Record(n, 1_700_000_000_000 + 100 * n, key, value) for n in range(count)])
    newest = 100 * (count - 1)
    assert walker.are_as_claimed(memoryview(batch), count, newest, key is not None)
    assert walker.are_as_claimed(memoryview(batch), count, newest, True) == (key is not None)

    for position in (*range(HEADER_BYTES, min(len(batch), HEADER_BYTES + 12)), len(batch) - 1):
        for bit in range(8):
            changed = bytearray(batch)
            changed[position] ^= 1 << bit
            if walker.are_as_claimed(memoryview(changed), count, newest, False):
                found = walker.check_records(bytes(changed[HEADER_BYTES:]), count, at_once)
                assert found.are_numbered
                assert found.newest == newest


def test_quick_look_finds_lengths_below_zero(walker: Walker) -> None:
    """A length that reads as a negative one is not taken for the positive one beside it."""
    batch = build_batch([Record(0, 1_700_000_000_000, b"key", b"value")])
    assert walker.are_as_claimed(memoryview(batch), 1, 0, False)
    batch[HEADER_BYTES] |= 1

    assert not walker.are_as_claimed(memoryview(batch), 1, 0, False)
