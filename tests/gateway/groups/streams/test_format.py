"""The stored bytes of streams groups: what was written once is read for ever, and nothing else is."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from gateway.apis.streams_group_heartbeat import task_ids
from gateway.groups.persistence import UnreadableRecord
from gateway.groups.streams import format as stored
from gateway.groups.streams.held import Held
from gateway.groups.streams.messages import (
    CurrentRecord,
    Endpoint,
    HeadRecord,
    Holdings,
    MemberRecord,
    MemberState,
    RowKey,
    RowKind,
    Task,
    Tasks,
    by_subtopology,
)
from tests.gateway.groups.streams.harness import COUNT, repartition, subtopology, tasks, topology

HEAD = HeadRecord(
    epoch=7, target_epoch=6, validated_epoch=0, signature=-2, standbys=1, state_since_ms=1_000, shutdown_by="m"
)
MEMBER = MemberRecord(
    member_id="m1",
    rack_id=None,
    client_id="c",
    client_host="/127.0.0.1",
    rebalance_timeout_ms=300_000,
    topology_epoch=0,
    process_id="p",
    endpoint=Endpoint("h", 80),
    tags=(("zone", "z"),),
)
CURRENT = CurrentRecord(
    epoch=7,
    previous_epoch=6,
    state=MemberState.UNREVOKED_TASKS,
    assigned=Holdings(Held.of([(Task("0", 1), 5), (Task("0", 0), 7)]), tasks("1_2")),
    revoking=Holdings(Held.of([(Task("1", 0), 3)])),
)
TARGET = Tasks(tasks("0_1", "0_0"), tasks("1_2"))
JOINED = topology(
    subtopology("0", "a", reads=(repartition("r", 3),), writes=("w",), keeps=("k",), together=(frozenset({"a", "r"}),)),
    epoch=4,
)


class Unsorted(Task):
    """A task that must not be compared: to sort 100,000 keeps all other threads from running until it is done."""

    def __lt__(self, other: object) -> bool:
        raise AssertionError("tasks are sorted")


def test_tasks_are_put_in_order_by_their_numbers() -> None:
    """In rows, and in answers."""
    told = [("b", [2, 10]), ("a", [0]), ("c", [1])]
    unsorted = frozenset(Unsorted(name, number) for name, numbers in told for number in numbers)
    held = Holdings(Held({3: unsorted}), unsorted)
    current = CurrentRecord(epoch=3, previous_epoch=2, state=MemberState.STABLE, assigned=held, revoking=Holdings())

    assert by_subtopology(unsorted) == {"a": [0], "b": [2, 10], "c": [1]}
    assert list(by_subtopology(unsorted)) == ["a", "b", "c"]
    assert stored.decode_target(stored.encode_target(Tasks(unsorted, unsorted))) == Tasks(unsorted, unsorted)
    assert stored.decode_current(stored.encode_current(current)) == current
    assert [one["subtopology_id"] for one in task_ids(unsorted)] == ["a", "b", "c"]


def test_golden() -> None:
    """The bytes of the module's tables, by hand."""
    assert stored.encode_key("g", RowKey(RowKind.MEMBER, "m1")) == b"\1\0g\1m1"
    assert stored.encode_head(HEAD).hex() == (
        "01 07000000 06000000 00000000 feffffffffffffff 01000000 e803000000000000 01000000 6d".replace(" ", "")
    )
    assert stored.encode_member(MEMBER).hex() == (
        "01 ffffffff 01000000 63 0a000000 2f3132372e302e302e31 e0930400 00000000 01000000 70 01 01000000 68 50000000 "
        "01000000 04000000 7a6f6e65 01000000 7a"
    ).replace(" ", "")
    assert stored.encode_current(CURRENT).hex() == (
        "01 07000000 06000000 02 01000000 01000000 30 02000000 00000000 07000000 01000000 05000000"
        "01000000 01000000 31 01000000 02000000 01000000 01000000 31 01000000 00000000 03000000 00000000"
    ).replace(" ", "")
    assert stored.encode_target(TARGET).hex() == (
        "01 01000000 01000000 30 02000000 00000000 01000000 01000000 01000000 31 01000000 02000000"
    ).replace(" ", "")
    assert stored.encode_topology(JOINED).hex() == (
        "01 04000000 01000000 01000000 30 01000000 01000000 61"
        "01000000 01000000 72 03000000 0000 01000000 0e000000 636c65616e75702e706f6c696379 06000000 64656c657465"
        "01000000 01000000 77"
        "01000000 01000000 6b 00000000 0000 01000000 0e000000 636c65616e75702e706f6c696379 07000000 636f6d70616374"
        "01000000 02000000 01000000 61 01000000 72"
    ).replace(" ", "")


def test_what_is_written_is_read() -> None:
    assert stored.decode_key(stored.encode_key("g", RowKey(RowKind.TARGET, "é"))) == ("g", RowKey(RowKind.TARGET, "é"))
    assert stored.decode_head(stored.encode_head(HEAD)) == HEAD
    assert stored.decode_member("m1", stored.encode_member(MEMBER)) == MEMBER
    assert stored.decode_current(stored.encode_current(CURRENT)) == CURRENT
    assert stored.decode_target(stored.encode_target(TARGET)) == TARGET
    for each in (COUNT, JOINED):
        assert stored.decode_topology(stored.encode_topology(each)) == each


VALUES = (
    (stored.encode_head(HEAD), stored.decode_head),
    (stored.encode_member(MEMBER), lambda data: stored.decode_member("m1", data)),
    (stored.encode_current(CURRENT), stored.decode_current),
    (stored.encode_target(TARGET), stored.decode_target),
    (stored.encode_topology(JOINED), stored.decode_topology),
)


@pytest.mark.parametrize(("value", "decode"), VALUES, ids=["head", "member", "current", "target", "topology"])
def test_other_bytes_are_refused(value: bytes, decode: object) -> None:
    """Another version, a byte too few, a byte too many, nothing at all."""
    assert callable(decode)
    for bad in (b"", b"\2" + value[1:], value + b"\0", *(value[:end] for end in range(1, len(value)))):
        with pytest.raises(UnreadableRecord):
            decode(bad)


@given(st.binary(max_size=40))
def test_damaged_keys_are_refused(data: bytes) -> None:
    """A key is read as it was written, or refused."""
    try:
        group_id, key = stored.decode_key(data)
    except UnreadableRecord:
        return
    assert stored.encode_key(group_id, key) == data
