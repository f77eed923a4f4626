"""Rows of share groups: the bytes of the first release, and refusals of all others."""

from __future__ import annotations

from uuid import UUID

import pytest

from gateway.groups.persistence import UnreadableRecord
from gateway.groups.share import format as stored
from gateway.groups.share.partition import Run, SharePartition, State

KEY = stored.PlaceKey("g", UUID(bytes=b"\7" * 16), 3)
KEY_BYTES = bytes.fromhex("0100 67 07070707070707070707070707070707 00000003")
PARTITION_BYTES = bytes.fromhex("01 0500000000000000 01000000 00 02 02000000 02 00")
RUNS = [Run(5, 5, State.AVAILABLE, 2), Run(6, 7, State.SETTLED)]


def test_golden_key() -> None:
    """A key is written as in the first release, and read."""
    assert stored.encode_key(KEY) == KEY_BYTES
    assert stored.decode_key(KEY_BYTES) == KEY
    assert KEY_BYTES.startswith(stored.encode_group_prefix("g"))


def test_golden_partition() -> None:
    """A partition is written as in the first release, and read."""
    assert stored.encode_partition(SharePartition(5, RUNS)) == PARTITION_BYTES
    read = stored.decode_partition(PARTITION_BYTES)
    assert (read.start, read.runs) == (5, RUNS)


def test_golden_dead_records() -> None:
    """Records on their way to a dead-letter topic are written with why, and read."""
    runs = [Run(5, 5, State.REJECTED, 1), Run(6, 6, State.EXHAUSTED, 5)]
    data = bytes.fromhex("01 0500000000000000 01000000 03 01 01000000 04 05")
    assert stored.encode_partition(SharePartition(5, runs)) == data
    assert stored.decode_partition(data).runs == runs


def test_golden_group() -> None:
    """A group is written as in the first release, and read."""
    assert stored.encode_epoch(7) == bytes.fromhex("01 07000000")
    assert stored.decode_epoch(bytes.fromhex("01 07000000")) == 7


def test_deliveries_that_a_restart_cuts_off_are_not_counted() -> None:
    """What a member holds is available after a restart, as often delivered as before it was taken."""
    held = SharePartition(5, [Run(5, 9, State.HELD, 3, "m", 4.0)])
    assert stored.decode_partition(stored.encode_partition(held)).runs == [Run(5, 9, State.AVAILABLE, 2)]


@pytest.mark.parametrize(
    "data",
    [b"", b"\2" + PARTITION_BYTES[1:], PARTITION_BYTES[:-1], PARTITION_BYTES + b"\0", PARTITION_BYTES[:13] + b"\1\0"],
    ids=["nothing", "a later version", "cut off", "too long", "a state that is never stored"],
)
def test_partition_refused(data: bytes) -> None:
    """Bytes that no release wrote are refused."""
    with pytest.raises(UnreadableRecord):
        stored.decode_partition(data)


@pytest.mark.parametrize("data", [b"", b"\1\0\0\0", b"\2\0\0\0\0"])
def test_group_refused(data: bytes) -> None:
    """Bytes that no release wrote are refused."""
    with pytest.raises(UnreadableRecord):
        stored.decode_epoch(data)


@pytest.mark.parametrize("data", [b"", KEY_BYTES[:-1], KEY_BYTES + b"\0", b"\1\0\xff" + KEY_BYTES[3:]])
def test_key_refused(data: bytes) -> None:
    """Keys that no release wrote are refused."""
    with pytest.raises(UnreadableRecord):
        stored.decode_key(data)
