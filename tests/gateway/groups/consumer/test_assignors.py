"""The assignors: every partition once, even shares, few moves; ranges in one order."""

from __future__ import annotations

from uuid import UUID

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from gateway.groups.consumer.assignors import ASSIGNORS
from gateway.groups.consumer.assignors.spec import GroupSpec, MemberSpec
from gateway.groups.consumer.messages import Partitions

A, B, C = (UUID(int=n) for n in (1, 2, 3))


def spec(
    counts: dict[UUID, int],
    topics: dict[str, set[UUID]],
    targets: dict[str, Partitions] | None = None,
    instances: dict[str, str] | None = None,
) -> GroupSpec:
    members = tuple(
        MemberSpec(name, (instances or {}).get(name), frozenset(wanted), (targets or {}).get(name, {}))
        for name, wanted in topics.items()
    )
    return GroupSpec(members, counts)


SPECS = st.builds(
    spec,
    st.fixed_dictionaries({topic: st.integers(1, 7) for topic in (A, B, C)}),
    st.dictionaries(st.sampled_from("mnopq"), st.sets(st.sampled_from((A, B, C))), min_size=1),
)


def places(partitions: Partitions) -> set[tuple[UUID, int]]:
    return {(topic, number) for topic, numbers in partitions.items() for number in numbers}


@given(SPECS, st.sampled_from(sorted(ASSIGNORS)))
@settings(deadline=None)
def test_every_partition_once(group: GroupSpec, name: str) -> None:
    """Each partition of a topic that somebody wants goes to one member that wants it."""
    targets = ASSIGNORS[name](group)
    given_out = [place for target in targets.values() for place in places(target)]
    wanted = {topic for member in group.members for topic in member.topics}

    assert len(given_out) == len(set(given_out))
    assert set(given_out) == {(topic, p) for topic in wanted for p in range(group.partition_counts[topic])}
    for member in group.members:
        assert targets.get(member.member_id, {}).keys() <= member.topics


@given(SPECS)
@settings(deadline=None)
def test_uniform_is_even(group: GroupSpec) -> None:
    """No partition could go to another of its subscribers and make the two more alike."""
    targets = ASSIGNORS["uniform"](group)
    sizes = {name: len(places(target)) for name, target in targets.items()}
    for giver in group.members:
        for topic in targets[giver.member_id]:
            for taker in group.members:
                if topic in taker.topics:
                    assert sizes[giver.member_id] - sizes[taker.member_id] < 2


@given(SPECS)
@settings(deadline=None)
def test_uniform_is_at_rest(group: GroupSpec) -> None:
    """An even target is not changed by computing it again."""
    targets = ASSIGNORS["uniform"](group)
    members = tuple(MemberSpec(m.member_id, m.instance_id, m.topics, targets[m.member_id]) for m in group.members)
    assert ASSIGNORS["uniform"](GroupSpec(members, group.partition_counts)) == targets


@pytest.mark.parametrize(("before", "after", "stay"), [(2, 3, 8), (3, 2, 8), (4, 3, 9), (1, 5, 3)])
def test_uniform_moves_few(before: int, after: int, stay: int) -> None:
    """Members keep what they can keep when others come or go."""
    counts = {A: 12}
    first = ASSIGNORS["uniform"](spec(counts, {f"m{n}": {A} for n in range(before)}))
    second = ASSIGNORS["uniform"](spec(counts, {f"m{n}": {A} for n in range(after)}, first))
    kept = sum(len(places(first[name]) & places(second[name])) for name in first.keys() & second.keys())
    assert kept == stay


def test_uniform_keeps_the_extra_one() -> None:
    """The member that has one more than others keeps it, whoever came first."""
    before: dict[str, Partitions] = {"m": {A: frozenset({0})}, "n": {A: frozenset({1, 2})}}
    assert ASSIGNORS["uniform"](spec({A: 3}, {"m": {A}, "n": {A}}, before)) == before


def test_range_is_co_partitioned() -> None:
    """A member has the same partitions of topics with as many partitions; the first members have one more."""
    targets = ASSIGNORS["range"](spec({A: 5, B: 5}, {"m": {A, B}, "n": {A, B}}))
    assert targets == {
        "m": {A: frozenset({0, 1, 2}), B: frozenset({0, 1, 2})},
        "n": {A: frozenset({3, 4}), B: frozenset({3, 4})},
    }


def test_range_orders_instances_first() -> None:
    """Static members come before others, by their instance ids, whatever their member ids."""
    targets = ASSIGNORS["range"](spec({A: 3}, {"a": {A}, "y": {A}, "z": {A}}, instances={"z": "1", "y": "2"}))
    assert targets == {"z": {A: frozenset({0})}, "y": {A: frozenset({1})}, "a": {A: frozenset({2})}}


def test_nobody() -> None:
    """A group without members has no targets."""
    assert [assign(GroupSpec((), {})) for assign in ASSIGNORS.values()] == [{}, {}]
