"""Rows as Kafka's records: the bytes that Kafka's own schemas give."""

from __future__ import annotations

from gateway.coordination.homes import Homes
from gateway.groups.classic.messages import GroupRecord, MemberRecord, Protocol
from gateway.groups.persistence import CommittedOffset, OffsetKey, encode_group, encode_offset, encode_offset_key
from gateway.internal_topics.messages import group_record, offset_record, transaction_record
from gateway.internal_topics.partitions import Partitions
from gateway.transactions.persistence import encode_transaction
from gateway.transactions.places import Place, Places
from gateway.transactions.transaction import Transaction, TransactionState

GROUP_PARTITIONS = Partitions(Homes([0]), 50)


def test_offset() -> None:
    """A committed offset is a key of version 1 and a value of version 4, with the topic's id in a tagged field."""
    row = encode_offset_key(OffsetKey("g", "t", 3))
    record = offset_record(row, encode_offset(CommittedOffset(5, 2, "m", 1_000, topic_id=b"\x07" * 16)))

    assert record.key.hex() == "000100016700017400000003"
    assert record.value is not None
    assert record.value.hex() == "0004000000000000000500000002026d00000000000003e8010010" + "07" * 16
    assert record.timestamp == 1_000


def test_long_metadata() -> None:
    """From 127 bytes on its length takes a second byte."""
    row = encode_offset_key(OffsetKey("g", "t", 3))
    for length, told in ((0, "01"), (126, "7f"), (127, "8001"), (4_096, "8120")):
        committed = CommittedOffset(5, 2, "m" * length, 1_000, topic_id=b"\x07" * 16)
        value = offset_record(row, encode_offset(committed)).value
        assert value is not None
        assert value[14:].startswith(bytes.fromhex(told) + b"m" * length + b"\x00")


def test_offset_without_id() -> None:
    """One that does not name its topic's id is a value of version 3."""
    row = encode_offset_key(OffsetKey("g", "t", 3))
    record = offset_record(row, encode_offset(CommittedOffset(5, 2, "m", 1_000)))

    assert record.key.hex() == "000100016700017400000003"
    assert record.value is not None
    assert record.value.hex() == "000300000000000000050000000200016d00000000000003e8"
    assert record.timestamp == 1_000
    assert offset_record(row, None).value is None


def test_group() -> None:
    """A group is a key of version 2 and a value of version 3, with each member's subscription to the protocol."""
    member = MemberRecord(
        member_id="m",
        instance_id=None,
        client_id="c",
        client_host="h",
        session_timeout_ms=7,
        rebalance_timeout_ms=8,
        protocols=(Protocol("other", b"no"), Protocol("range", b"yes")),
        assignment=b"\x01",
    )
    group = GroupRecord(
        generation=4,
        state_since_ms=1_000,
        protocol_type="consumer",
        protocol_name="range",
        leader="m",
        members=(member,),
    )
    record = group_record(b"g", encode_group(group))

    assert record.key.hex() == "0002000167"
    assert record.value is not None
    assert record.value.hex() == (
        "0003"
        "0008636f6e73756d6572"
        "00000004"
        "000572616e6765"
        "00016d"
        "00000000000003e8"
        "00000001"
        "00016d"
        "ffff"
        "000163"
        "000168"
        "00000008"
        "00000007"
        "00000003796573"
        "0000000101"
    )


def test_transaction() -> None:
    """A transaction lists its partitions by topic, its groups as partitions of __consumer_offsets."""
    transaction = Transaction(
        transactional_id="x",
        producer_id=1,
        epoch=2,
        timeout_ms=3,
        state=TransactionState.ONGOING,
        partitions=Places([Place(9, 4), Place(9, 1), Place(8, 0)]),
        groups=frozenset({"a"}),
        started_ms=6,
        changed_ms=7,
    )
    record = transaction_record(b"x", encode_transaction(transaction), {9: "t"}.get, GROUP_PARTITIONS.of)

    assert record.key.hex() == "0000000178"
    assert record.value is not None
    assert record.value.hex() == (
        "0000"
        "0000000000000001"
        "0002"
        "00000003"
        "01"
        "00000002"
        "000174"
        "00000002"
        "00000001"
        "00000004"
        "0012" + b"__consumer_offsets".hex() + "00000001"
        "0000002f"
        "0000000000000007"
        "0000000000000006"
    )
