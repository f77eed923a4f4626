"""The key space: slots cover it once, and doubling their number cuts each in two."""

from __future__ import annotations

import zlib
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.streams.keyspace import (
    KeyRange,
    covers,
    key_point,
    position_of_slot,
    reverse_bits,
    run_range,
    slot_range,
    slots_in_key_order,
)

powers = st.integers(0, 9).map(lambda k: 2**k)
hashes = st.integers(0, 2**32 - 1)


def murmur2(data: bytes) -> int:
    """Kafka's default partitioner (org.apache.kafka.common.utils.Utils.murmur2), unsigned."""
    m, mask = 0x5BD1E995, 0xFFFF_FFFF
    h = 0x9747B28C ^ len(data)
    whole = len(data) & ~3
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * m & mask
        k = (k ^ k >> 24) * m & mask
        h = (h * m & mask) ^ k
    rest = data[whole:]
    if rest:
        h = (h ^ int.from_bytes(rest, "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return h ^ h >> 15


@pytest.mark.parametrize(
    ("key", "expected"), [(b"21", -973932308), (b"foobar", -790332482), (b"a-little-bit-long-string", -985981536)]
)
def test_murmur2_is_kafkas(key: bytes, expected: int) -> None:
    """The values are those of Kafka's own UtilsTest."""
    assert expected & 0xFFFF_FFFF == murmur2(key)


@given(st.one_of(powers, st.integers(1, 700)))
def test_slots_cover_the_key_space(slots: int) -> None:
    """In key order each slot's range begins where the one before ends, from 0 to 1."""
    ranges = [slot_range(slot, slots) for slot in slots_in_key_order(slots)]
    assert ranges[0].low == 0
    assert ranges[-1].high == 1
    assert all(left.high == right.low for left, right in pairwise(ranges))


@given(hashes, powers)
def test_a_key_lies_in_the_slot_that_kafka_chooses(key_hash: int, slots: int) -> None:
    """For a power of two the slot of a hash, `hash mod N`, owns the point of that hash."""
    assert key_point(key_hash) in slot_range(key_hash % slots, slots)


@given(powers)
def test_doubling_cuts_each_range_in_two(slots: int) -> None:
    """The lower half stays slot p, the upper becomes p + N."""
    for slot in range(slots):
        whole, low, high = slot_range(slot, slots), slot_range(slot, 2 * slots), slot_range(slot + slots, 2 * slots)
        assert (whole.low, whole.high) == (low.low, high.high)
        assert low.high == high.low


@given(st.binary(max_size=40), powers)
def test_doubling_moves_a_key_nowhere_else(key: bytes, slots: int) -> None:
    """With either hash that Kafka's clients use a key of slot p stays in p or goes to p + N."""
    for key_hash in (murmur2(key) & 0x7FFF_FFFF, zlib.crc32(key)):
        before, after = key_hash % slots, key_hash % (2 * slots)
        assert after in (before, before + slots)
        assert key_point(key_hash) in slot_range(after, 2 * slots)


@given(hashes)
def test_reversing_twice_changes_nothing(value: int) -> None:
    assert value == reverse_bits(reverse_bits(value, 32), 32)


@given(st.integers(1, 1_000))
def test_positions_are_a_permutation(slots: int) -> None:
    assert list(range(slots)) == sorted(position_of_slot(slot, slots) for slot in range(slots))


@given(st.integers(1, 200), st.data())
def test_runs_cover(slots: int, data: st.DataObject) -> None:
    """Any cut covers; a run that is missing, doubled or longer does not."""
    cuts = sorted({0, slots, *data.draw(st.lists(st.integers(0, slots), max_size=6))})
    runs = list(pairwise(cuts))
    shuffled = data.draw(st.permutations(runs))
    assert covers(shuffled, slots)
    assert not covers(runs[1:], slots)
    assert not covers([*runs, runs[0]], slots)
    assert not covers(runs, slots + 1)
    assert sum((run_range(*run, slots).high - run_range(*run, slots).low for run in runs), Fraction(0)) == 1


@pytest.mark.parametrize(("low", "high"), [(0, 0), (-1, 1), (1, 0), (0, 2)])
def test_no_key_range(low: int, high: int) -> None:
    with pytest.raises(ValueError, match="no key range"):
        KeyRange(Fraction(low), Fraction(high))
