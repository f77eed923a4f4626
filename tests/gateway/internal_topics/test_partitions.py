"""Which partition of an internal topic tells of a name: Kafka's with one container, else one of its home's."""

from __future__ import annotations

import pytest

from gateway.coordination.homes import Homes
from gateway.internal_topics.partitions import Partitions


@pytest.mark.parametrize(
    ("name", "partition"),
    [("", 0), ("a", 47), ("group", 12), ("my-group", 12), ("polygenelubricants", 0), ("\N{GRINNING FACE}", 3)],
)
def test_one_container(name: str, partition: int) -> None:
    """A group lies where Java's hash puts it, also for the smallest number, which has no absolute value."""
    hashed = 0
    for unit in memoryview(name.encode("utf-16-le")).cast("H"):
        hashed = (31 * hashed + unit) & 0xFFFF_FFFF
    signed = hashed - 2**32 if hashed >= 2**31 else hashed
    partitions = Partitions(Homes([0]), 50)

    assert partitions.of(name) == (0 if signed == -(2**31) else abs(signed)) % 50
    if name in ("", "a", "polygenelubricants"):  # 0, 97, and -2^31
        assert partitions.of(name) == partition


@pytest.mark.parametrize(("containers", "wanted"), [(2, 50), (4, 50), (7, 50), (50, 50), (64, 50), (3, 1)])
def test_several_containers(containers: int, wanted: int) -> None:
    """A name is told in a partition of its home; every container has one, and all of them are used."""
    homes = Homes(range(10, 10 + containers))
    partitions = Partitions(homes, wanted)
    assert partitions.count == max(containers, wanted)

    used = set()
    for n in range(20_000):
        partition = partitions.of(f"group-{n}")
        assert partitions.container_of(partition) == homes.of(f"group-{n}")
        used.add(partition)
    assert used == set(range(partitions.count))
