"""CreatePartitions: topics only grow."""

from __future__ import annotations

from typing import Any

import pytest

from core.streams.keyspace import slot_range
from tests.gateway.apis.harness import Admin, code_and_message


def growth(name: str, count: int, assignments: list[list[int]] | None = None) -> dict[str, Any]:
    listed = None if assignments is None else [{"broker_ids": ids} for ids in assignments]
    return {"name": name, "count": count, "assignments": listed}


def grow(admin: Admin, *topics: dict[str, Any], version: int = 3, **rest: Any) -> list[tuple[int, str | None]]:
    answer = admin.ask("CreatePartitions", version, topics=list(topics), timeout=5_000, **rest)
    return [code_and_message(result) for result in answer.results]


@pytest.mark.parametrize("version", [0, 1, 2, 3])
def test_grown(admin: Admin, version: int) -> None:
    """A topic grows; its records keep their partitions and offsets."""
    name = admin.create(2)
    admin.produce(name, 1, 2, partition=1)

    assert grow(admin, growth(name, 5), version=version) == [(0, None)]
    assert (admin.stream(name).slot_count, admin.slot(name, 1).durable_end) == (5, 2)


def test_growth_is_a_scale(admin: Admin) -> None:
    """A topic that doubles is cut as it was; partition p's upper half of keys becomes partition p + N."""
    name = admin.create(4, penstock_scaling_min_segments="2")
    admin.produce(name, 1, 2, partition=1)
    stream = admin.stream(name)
    before = stream.state.current

    assert grow(admin, growth(name, 8)) == [(0, None)]
    after = stream.state.current
    assert (before.epoch, after.epoch) == (0, 1)
    assert [before.key_range(run) for run in before.segments] == [after.key_range(run) for run in after.segments]
    for slot in range(4):
        whole, low, high = slot_range(slot, 4), slot_range(slot, 8), slot_range(slot + 4, 8)
        assert (low.low, low.high, high.high) == (whole.low, high.low, whole.high)
    assert admin.slot(name, 1).durable_end == 2


@pytest.mark.parametrize(
    ("count", "why"),
    [
        (4, "Topic already has 4 partition(s)."),
        (3, "The topic {} currently has 4 partition(s); 3 would not be an increase."),
        (0, "The topic {} currently has 4 partition(s); 0 would not be an increase."),
        (-1, "The topic {} currently has 4 partition(s); -1 would not be an increase."),
    ],
)
def test_not_growing(admin: Admin, count: int, why: str) -> None:
    """A count that is no growth is INVALID_PARTITIONS."""
    name = admin.create(4)

    assert [(37, why.format(name))] == grow(admin, growth(name, count))


def test_unknown(admin: Admin) -> None:
    """An unknown topic gets an error of its own."""
    name = admin.create(1)

    assert sorted(grow(admin, growth("nope", 2), growth(name, 2))) == [(0, None), (3, None)]


def test_twice(admin: Admin) -> None:
    """A topic that is there twice is refused."""
    name = admin.create(1)

    assert grow(admin, growth(name, 2), growth(name, 3)) == [(42, "Duplicate topic name.")]


def test_validate_only(admin: Admin) -> None:
    """validate_only changes nothing."""
    name = admin.create(1)

    assert grow(admin, growth(name, 9), validate_only=True) == [(0, None)]
    assert grow(admin, growth(name, 1), validate_only=True) == [(37, "Topic already has 1 partition(s).")]
    assert admin.stream(name).slot_count == 1


def test_assignments(admin: Admin) -> None:
    """Assignments for each new partition are accepted, whichever brokers they name."""
    name = admin.create(1)

    assert grow(admin, growth(name, 3, [[2, 3], [3, 1]])) == [(0, None)]


@pytest.mark.parametrize(
    ("assignments", "why"),
    [
        ([], "Attempted to add 2 additional partition(s), but only 0 assignment(s) were specified."),
        ([[1]], "Attempted to add 2 additional partition(s), but only 1 assignment(s) were specified."),
        ([[1], []], "The manual partition assignment includes an empty replica list."),
        ([[1], [2, 2]], "The manual partition assignment includes the broker 2 more than once."),
    ],
)
def test_bad_assignments(admin: Admin, assignments: list[list[int]], why: str) -> None:
    """Assignments that cannot be right are INVALID_REPLICA_ASSIGNMENT."""
    name = admin.create(1)

    assert [(39, why)] == grow(admin, growth(name, 3, assignments))
    assert admin.stream(name).slot_count == 1


def test_count_before_assignments(admin: Admin) -> None:
    """As in Kafka, a count that is no growth is refused before a bad assignment."""
    name = admin.create(2)

    assert grow(admin, growth(name, 2, [[1, 1]])) == [(37, "Topic already has 2 partition(s).")]


def test_too_many(admin: Admin) -> None:
    """A growth beyond what one request may make is POLICY_VIOLATION."""
    name = admin.create(1)

    assert [code for code, _ in grow(admin, growth(name, 1_000_000), validate_only=True)] == [44]
