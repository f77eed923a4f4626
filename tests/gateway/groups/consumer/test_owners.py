"""Who has which partition: one owner each, and a member that goes frees its own at once."""

from __future__ import annotations

from uuid import UUID

import pytest

from gateway.groups.consumer import owners as module
from gateway.groups.consumer.messages import Holdings
from gateway.groups.consumer.owners import Owners

A, B = UUID(int=1), UUID(int=2)


def held(topic: UUID, *partitions: int) -> Holdings:
    return {topic: dict.fromkeys(partitions, 1)}


def test_no_partition_has_two_owners() -> None:
    owners = Owners()
    owners.take("m", held(A, 0, 1))
    with pytest.raises(AssertionError, match="two owners"):
        owners.take("n", held(A, 1))


def test_who_goes_frees_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a member had is free when it has gone, however little of it is thrown away by then."""
    monkeypatch.setattr(module, "ENTRIES_PER_CALL", 1)
    owners = Owners()
    many = {UUID(int=n): {0: 1, 1: 1} for n in range(10, 20)}
    owners.take("m", many)
    owners.leave("m", many)

    assert [owners.of(topic, 1) for topic in many] == [None] * 10
    assert all(owners.free_for("n", topic, [0, 1]) == [0, 1] for topic in many)
    owners.take("n", held(UUID(int=19), 0))
    for _ in range(len(many) * 2):
        owners.take("n", {})
    assert owners.of(UUID(int=19), 0) == "n", "what another has taken meanwhile is not thrown away"
    assert repr(owners) == "<Owners of 1 topics>", "and all else is"


def test_who_comes_again_has_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A member with the id of one that has gone does not inherit: its entries are another's."""
    monkeypatch.setattr(module, "ENTRIES_PER_CALL", 0)
    owners = Owners()
    owners.take("m", held(A, 0))
    owners.leave("m", held(A, 0))
    owners.take("m", held(B, 0))

    assert owners.of(A, 0) is None
    owners.take("n", held(A, 0))
    assert owners.free_for("m", A, [0]) == []


def test_another_id() -> None:
    owners = Owners()
    owners.take("m", held(A, 0))
    owners.rename("m", "n")

    assert owners.of(A, 0) == "n"
    assert owners.free_for("m", A, [0, 1]) == [1]
    assert owners.free_for("n", A, [0, 1]) == [0, 1]
    owners.let_go(held(A, 0))
    assert owners.of(A, 0) is None
