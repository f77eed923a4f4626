"""The stored form of consumer groups: written values come back, and released forms stay readable for ever."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import hypothesis.strategies as st
import pytest
from hypothesis import given

from gateway.groups.classic.messages import Protocol
from gateway.groups.consumer import format as stored
from gateway.groups.consumer.messages import (
    ClassicFacts,
    CurrentRecord,
    HeadRecord,
    MemberRecord,
    MemberState,
    RowKey,
    RowKind,
)
from gateway.groups.persistence import UnreadableRecord

I32 = st.integers(-(2**31), 2**31 - 1)
I64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(max_size=20)
TOPICS = st.uuids()
PARTITIONS = st.integers(0, 2**31 - 1)
HELD = st.dictionaries(TOPICS, st.dictionaries(PARTITIONS, I32, min_size=1, max_size=3), max_size=3)
HEADS = st.builds(HeadRecord, epoch=I32, target_epoch=I32, signature=I64, state_since_ms=I64)
CURRENT = st.builds(
    CurrentRecord, epoch=I32, previous_epoch=I32, state=st.sampled_from(MemberState), assigned=HELD, revoking=HELD
)
TARGETS = st.dictionaries(TOPICS, st.frozensets(PARTITIONS, max_size=3), max_size=3)
CLASSIC = st.builds(
    ClassicFacts, I32, st.lists(st.builds(Protocol, TEXT, st.binary(max_size=9)), max_size=3).map(tuple)
)
MEMBERS = st.builds(
    MemberRecord,
    member_id=st.just("m"),
    instance_id=st.none() | TEXT,
    rack_id=st.none() | TEXT,
    client_id=TEXT,
    client_host=TEXT,
    rebalance_timeout_ms=I32,
    names=st.frozensets(TEXT, max_size=3),
    regex=TEXT,
    assignor=st.none() | TEXT,
    classic=st.none() | CLASSIC,
)
TOPIC = UUID(int=0x0102030405060708090A0B0C0D0E0F10)

#: As this release writes them. Never change these bytes: data directories hold them.
GOLDEN: dict[str, tuple[Any, bytes]] = {
    "head": (
        HeadRecord(epoch=7, target_epoch=6, signature=-2, state_since_ms=1_700_000_000_000),
        bytes.fromhex("01 07000000 06000000 feffffffffffffff 0068e5cf8b010000"),
    ),
    "member": (
        MemberRecord(
            member_id="m",
            instance_id="i",
            rack_id=None,
            client_id="c",
            client_host="/h",
            rebalance_timeout_ms=60_000,
            names=frozenset({"b", "a"}),
            regex="x.*",
            assignor="range",
            classic=ClassicFacts(45_000, (Protocol("range", b"\x00\x01"),)),
        ),
        bytes.fromhex(
            "01 01000000 69 ffffffff 01000000 63 02000000 2f68 60ea0000 02000000 01000000 61 01000000 62"
            "03000000 782e2a 05000000 72616e6765 01 c8af0000 01000000 05000000 72616e6765 02000000 0001"
        ),
    ),
    "current": (
        CurrentRecord(
            epoch=5,
            previous_epoch=4,
            state=MemberState.UNREVOKED_PARTITIONS,
            assigned={TOPIC: {2: 5, 1: 3}},
            revoking={},
        ),
        bytes.fromhex(
            "01 05000000 04000000 02 01000000 0102030405060708090a0b0c0d0e0f10 02000000"
            "01000000 03000000 02000000 05000000 00000000"
        ),
    ),
    "target": (
        {TOPIC: frozenset({3, 1})},
        bytes.fromhex("01 01000000 0102030405060708090a0b0c0d0e0f10 02000000 01000000 03000000"),
    ),
    "regex": (frozenset({"b", "a"}), bytes.fromhex("01 02000000 01000000 61 01000000 62")),
}
ENCODE: dict[str, Any] = {
    "head": stored.encode_head,
    "member": stored.encode_member,
    "current": stored.encode_current,
    "target": stored.encode_target,
    "regex": stored.encode_regex,
}
DECODE: dict[str, Any] = {
    "head": stored.decode_head,
    "member": lambda data: stored.decode_member("m", data),
    "current": stored.decode_current,
    "target": stored.decode_target,
    "regex": stored.decode_regex,
}


@pytest.mark.parametrize("kind", GOLDEN)
def test_golden(kind: str) -> None:
    """Each kind of row is written as in the first release, and read."""
    record, data = GOLDEN[kind]
    assert ENCODE[kind](record) == data
    assert DECODE[kind](data) == record


def test_golden_key() -> None:
    """A key is written as in the first release, and read."""
    key = RowKey(RowKind.CURRENT, "m")
    assert stored.encode_key("g", key) == bytes.fromhex("0100 67 02 6d")
    assert stored.decode_key(bytes.fromhex("0100 67 02 6d")) == ("g", key)


@given(
    st.one_of(
        *(
            st.tuples(st.just(kind), what)
            for kind, what in (
                ("head", HEADS),
                ("member", MEMBERS),
                ("current", CURRENT),
                ("target", TARGETS),
                ("regex", st.frozensets(TEXT, max_size=3)),
            )
        )
    )
)
def test_come_back(record: tuple[str, Any]) -> None:
    """What is written is read."""
    kind, value = record
    assert DECODE[kind](ENCODE[kind](value)) == value


@given(st.text(max_size=20), st.builds(RowKey, st.sampled_from(RowKind), TEXT))
def test_keys_come_back(group: str, key: RowKey) -> None:
    """What is written as a key is read."""
    assert stored.decode_key(stored.encode_key(group, key)) == (group, key)


@pytest.mark.parametrize("kind", GOLDEN)
def test_damage(kind: str) -> None:
    """Bytes that are too few or too many, or of another version, are named and never misread."""
    data = GOLDEN[kind][1]
    for damaged in (b"", b"\x02" + data[1:], data + b"\x00", *(data[:end] for end in range(1, len(data)))):
        with pytest.raises(UnreadableRecord):
            DECODE[kind](damaged)


@pytest.mark.parametrize("data", [b"", b"\x09", b"\x01\x00g", b"\x01\x00g\x09m", b"\x01\x00\xff\x01m"])
def test_damaged_key(data: bytes) -> None:
    """A key that is none is named."""
    with pytest.raises(UnreadableRecord):
        stored.decode_key(data)
