"""The stored formats: written values come back, and released forms stay readable...."""

from __future__ import annotations

from collections.abc import Callable

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from gateway.groups.classic.messages import GroupRecord, MemberRecord, Protocol
from gateway.groups.persistence import (
    NO_TOPIC_ID,
    CommittedOffset,
    OffsetKey,
    UnreadableRecord,
    decode_group,
    decode_offset,
    decode_offset_key,
    encode_group,
    encode_offset,
    encode_offset_key,
    offset_times_ms,
    offset_topic_id,
)

pytestmark = pytest.mark.slow

I32 = st.integers(-(2**31), 2**31 - 1)
I64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(max_size=20)
MEMBERS = st.builds(
    MemberRecord,
    member_id=TEXT,
    instance_id=st.none() | TEXT,
    client_id=TEXT,
    client_host=TEXT,
    session_timeout_ms=I32,
    rebalance_timeout_ms=I32,
    protocols=st.lists(st.builds(Protocol, TEXT, st.binary(max_size=20)), max_size=3).map(tuple),
    assignment=st.binary(max_size=20),
)
GROUPS = st.builds(
    GroupRecord,
    generation=I32,
    state_since_ms=I64,
    protocol_type=st.none() | TEXT,
    protocol_name=st.none() | TEXT,
    leader=st.none() | TEXT,
    members=st.lists(MEMBERS, max_size=3).map(tuple),
)
TOPIC_IDS = st.just(NO_TOPIC_ID) | st.binary(min_size=16, max_size=16)
OFFSETS = st.builds(CommittedOffset, I64, I32, st.text(max_size=50), I64, I64, TOPIC_IDS)
KEYS = st.builds(OffsetKey, TEXT, TEXT, st.integers(0, 2**31 - 1))

#: As release 0.1 writes it. Never change these bytes: data directories hold them.
GOLDEN_GROUP = GroupRecord(
    generation=7,
    state_since_ms=1_700_000_000_000,
    protocol_type="consumer",
    protocol_name="range",
    leader="c-1",
    members=(
        MemberRecord(
            member_id="c-1",
            instance_id=None,
            client_id="c",
            client_host="/127.0.0.1",
            session_timeout_ms=45_000,
            rebalance_timeout_ms=300_000,
            protocols=(Protocol("range", b"\x00\x01"),),
            assignment=b"\xff",
        ),
    ),
)
GOLDEN_GROUP_BYTES = bytes.fromhex(
    "01070000000068e5cf8b010000"
    "08000000636f6e73756d65720500000072616e676503000000632d31"
    "01000000"
    "03000000632d31ffffffff01000000630a0000002f3132372e302e302e31"
    "c8af0000e0930400"
    "010000000500000072616e6765020000000001"
    "01000000ff"
)
GOLDEN_OFFSET = CommittedOffset(5, 2, "m", 1_000)
GOLDEN_OFFSET_BYTES = bytes.fromhex("01050000000000000002000000e803000000000000ffffffffffffffff6d")
GOLDEN_OFFSET_2 = GOLDEN_OFFSET._replace(topic_id=b"\x07" * 16)
GOLDEN_OFFSET_2_BYTES = bytes.fromhex(
    "02050000000000000002000000e803000000000000ffffffffffffffff070707070707070707070707070707076d"
)
GOLDEN_KEY = OffsetKey("g", "t", 3)
GOLDEN_KEY_BYTES = bytes.fromhex("01006701007400000003")


def test_golden_group() -> None:
    """A group as release 0.1 stored it is read and written as then."""
    assert decode_group(GOLDEN_GROUP_BYTES) == GOLDEN_GROUP
    assert encode_group(GOLDEN_GROUP) == GOLDEN_GROUP_BYTES


def test_golden_offset() -> None:
    """A committed offset is read and written as release 0.1 did, without its topic's id, and with it."""
    assert decode_offset(GOLDEN_OFFSET_BYTES) == GOLDEN_OFFSET
    assert encode_offset(GOLDEN_OFFSET) == GOLDEN_OFFSET_BYTES
    assert decode_offset(GOLDEN_OFFSET_2_BYTES) == GOLDEN_OFFSET_2
    assert encode_offset(GOLDEN_OFFSET_2) == GOLDEN_OFFSET_2_BYTES
    assert decode_offset_key(GOLDEN_KEY_BYTES) == GOLDEN_KEY
    assert encode_offset_key(GOLDEN_KEY) == GOLDEN_KEY_BYTES


@given(GROUPS)
@settings(max_examples=100, deadline=None)
def test_groups_come_back(record: GroupRecord) -> None:
    """Every group that can be written is read back as it was."""
    assert decode_group(encode_group(record)) == record


@given(KEYS, OFFSETS)
@settings(max_examples=100, deadline=None)
def test_offsets_come_back(key: OffsetKey, committed: CommittedOffset) -> None:
    """Every offset that can be written is read back as it was, metadata exactly; parts of it without the rest, too."""
    stored = encode_offset(committed)
    assert decode_offset(stored) == committed
    assert offset_topic_id(stored) == committed.topic_id
    assert offset_times_ms(stored) == (committed.commit_ms, committed.expire_ms)
    assert decode_offset_key(encode_offset_key(key)) == key


@given(st.lists(KEYS, min_size=2, max_size=2, unique=True))
@settings(max_examples=100, deadline=None)
def test_keys_are_distinct(keys: list[OffsetKey]) -> None:
    """Two places never share a key, whatever their names contain."""
    first, second = map(encode_offset_key, keys)

    assert first != second


@pytest.mark.parametrize(("decode", "newest"), [(decode_group, 1), (decode_offset, 2)])
@pytest.mark.parametrize("wrong", [0, 1])
def test_other_versions_are_refused(decode: Callable[[bytes], object], newest: int, wrong: int) -> None:
    """A value of a version that we do not know is refused, and the error says why."""
    version = wrong and newest + 1
    with pytest.raises(UnreadableRecord, match=f"version {version}, this release reads up to {newest}"):
        decode(bytes([version]) + GOLDEN_GROUP_BYTES[1:])


def test_cut_anywhere() -> None:
    """A group that is cut anywhere, or has a byte too many, is refused, never half read."""
    for size in range(len(GOLDEN_GROUP_BYTES)):
        with pytest.raises(UnreadableRecord):
            decode_group(GOLDEN_GROUP_BYTES[:size])
    with pytest.raises(UnreadableRecord):
        decode_group(GOLDEN_GROUP_BYTES + b"\x00")


def test_an_offset_that_is_cut() -> None:
    """Before its metadata, which may be empty: it is refused, and no part of a topic's id is one."""
    for whole in (GOLDEN_OFFSET_BYTES, GOLDEN_OFFSET_2_BYTES):
        for size in range(len(whole) - 1):
            with pytest.raises(UnreadableRecord):
                decode_offset(whole[:size])
        assert decode_offset(whole[:-1]).metadata == ""


@given(st.binary(max_size=200), st.sampled_from([b"\x01", b"\x02"]))
@settings(max_examples=200, deadline=None)
def test_garbage(data: bytes, version: bytes) -> None:
    """Damaged bytes raise UnreadableRecord or are read; nothing else happens."""
    for decode in (decode_group, decode_offset, decode_offset_key):
        try:
            decode(version + data)
        except UnreadableRecord:
            continue
