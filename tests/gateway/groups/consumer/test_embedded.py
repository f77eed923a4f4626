"""Subscriptions and assignments of consumers of the classic protocol: read, written, and never trusted."""

from __future__ import annotations

import struct

import hypothesis.strategies as st
import pytest
from hypothesis import given

from gateway.groups.consumer.embedded import (
    TOPICS_MAX,
    Malformed,
    Subscription,
    read_assignment,
    read_subscription,
    write_assignment,
    write_subscription,
)
from tests.gateway.groups.harness import subscription

TEXT = st.text(max_size=9)
PARTITIONS = st.dictionaries(TEXT, st.lists(st.integers(0, 2**31 - 1), max_size=3).map(tuple), max_size=3)


@given(st.integers(0, 3), st.lists(TEXT, max_size=3).map(tuple), st.none() | st.binary(max_size=9), PARTITIONS, TEXT)
def test_subscriptions_come_back(
    version: int, topics: tuple[str, ...], data: bytes | None, owned: dict[str, tuple[int, ...]], rack: str
) -> None:
    """What is written is read, as far as the version has it."""
    read = read_subscription(write_subscription(Subscription(version, topics, data, owned, rack)))
    assert read.topics == topics
    assert read.user_data == data
    assert read.owned == (owned if version >= 1 else None)
    assert read.rack_id == (rack if version >= 3 else None)


@given(st.integers(0, 3), PARTITIONS)
def test_assignments_come_back(version: int, partitions: dict[str, tuple[int, ...]]) -> None:
    """What is written is read."""
    assert read_assignment(write_assignment(version, partitions)).partitions == partitions


def test_as_java_writes_it() -> None:
    """The Java client's own bytes are read, with null user data."""
    assert read_subscription(subscription("t", "u")) == Subscription(1, ("t", "u"), None, {}, None)


@given(st.binary(max_size=60))
def test_any_bytes(data: bytes) -> None:
    """Any bytes are read or refused; nothing else happens."""
    for read in (read_subscription, read_assignment):
        try:
            read(data)  # type: ignore[operator]
        except Malformed:
            continue


@pytest.mark.parametrize("count", [2**31 - 1, TOPICS_MAX + 1])
def test_declared_counts(count: int) -> None:
    """A count that the bytes do not bear out, or of more topics than are read at once, is refused at once."""
    with pytest.raises(Malformed):
        read_subscription(struct.pack(">hi", 1, count) + b"\x00\x01a" * (TOPICS_MAX + 1))
