"""The assignor `uniform`: as many partitions to each member as to the others, and as few moves as that allows.

Keeps: a member keeps what it can keep; if all want the same topics, two members differ by one partition at most. If
they do not, no partition can go to another of its subscribers and make the two more alike, up to `ROUNDS_MAX`.
(Kafka: UniformHomogeneousAssignmentBuilder, UniformHeterogeneousAssignmentBuilder.)
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Final, TypeAlias
from uuid import UUID

from gateway.groups.consumer.assignors.spec import GroupSpec, MemberSpec
from gateway.groups.consumer.messages import Partitions

ROUNDS_MAX: Final = 20
"""Rounds over all topics that even out a group whose members want different topics; it takes two or three."""

_Place: TypeAlias = tuple[UUID, int]


def assign(group: GroupSpec) -> dict[str, Partitions]:
    """Each member's partitions."""
    if not group.members:
        return {}
    held = _kept(group)
    if group.is_homogeneous:
        _share_alike(group, held)
    else:
        _share_unlike(group, held)
    targets: dict[str, Partitions] = {}
    for member_id, places in held.items():
        by_topic: dict[UUID, set[int]] = {}
        for topic, partition in places:
            by_topic.setdefault(topic, set()).add(partition)
        targets[member_id] = {topic: frozenset(partitions) for topic, partitions in by_topic.items()}
    return targets


def _kept(group: GroupSpec) -> dict[str, list[_Place]]:
    """The partitions of the last target that each member still wants and that still exist."""
    seen: set[_Place] = set()
    held: dict[str, list[_Place]] = {}
    for member in group.members:
        places = held[member.member_id] = []
        for topic, partitions in member.target.items():
            if topic in member.topics:
                count = group.partition_counts[topic]
                fresh = [(topic, p) for p in sorted(partitions) if p < count and (topic, p) not in seen]
                places += fresh
                seen.update(fresh)
    return held


def _unassigned(group: GroupSpec, held: dict[str, list[_Place]], topics: frozenset[UUID]) -> Iterator[_Place]:
    """The partitions of these topics that nobody has, in one order."""
    taken = {place for places in held.values() for place in places}
    for topic in sorted(topics):
        for partition in range(group.partition_counts[topic]):
            if (topic, partition) not in taken:
                yield topic, partition


def _share_alike(group: GroupSpec, held: dict[str, list[_Place]]) -> None:
    """Cut every member down to its share, then give what is left. Who has most keeps one more, if there is more."""
    topics = group.members[0].topics
    share, extra = divmod(sum(group.partition_counts[topic] for topic in topics), len(held))
    quotas: dict[str, int] = {}
    for number, member_id in enumerate(sorted(held, key=lambda name: -len(held[name]))):
        quota = quotas[member_id] = share + (number < extra)
        del held[member_id][quota:]
    left = _unassigned(group, held, topics)
    for member_id, quota in quotas.items():
        places = held[member_id]
        while len(places) < quota:
            places.append(next(left))


def _share_unlike(group: GroupSpec, held: dict[str, list[_Place]]) -> None:
    subscribers: dict[UUID, list[MemberSpec]] = {}
    for member in group.members:
        for topic in member.topics:
            subscribers.setdefault(topic, []).append(member)
    loads = {member_id: len(places) for member_id, places in held.items()}
    by_topic: dict[UUID, dict[str, list[int]]] = {topic: {} for topic in subscribers}
    for member_id, places in held.items():
        for topic, partition in places:
            by_topic[topic].setdefault(member_id, []).append(partition)
    # Topics that few want first: their members have no choice.
    order = sorted(subscribers, key=lambda topic: (len(subscribers[topic]), topic))
    for topic in order:
        _give(topic, group.partition_counts[topic], subscribers[topic], by_topic[topic], loads)
    for _ in range(ROUNDS_MAX):
        moved = [_even_out(subscribers[topic], by_topic[topic], loads) for topic in order]
        if not any(moved):
            break
    for member_id in held:
        held[member_id] = [(t, p) for t in order for p in by_topic[t].get(member_id, ())]


def _give(
    topic: UUID, count: int, subscribers: list[MemberSpec], owned: dict[str, list[int]], loads: dict[str, int]
) -> None:
    """Give a topic's free partitions to whoever of its subscribers has least."""
    taken = {partition for partitions in owned.values() for partition in partitions}
    heap = [(loads[member.member_id], number, member.member_id) for number, member in enumerate(subscribers)]
    heapq.heapify(heap)
    for partition in range(count):
        if partition in taken:
            continue
        load, number, member_id = heap[0]
        owned.setdefault(member_id, []).append(partition)
        loads[member_id] = load + 1
        heapq.heapreplace(heap, (load + 1, number, member_id))


def _even_out(subscribers: list[MemberSpec], owned: dict[str, list[int]], loads: dict[str, int]) -> bool:
    """Move a topic's partitions from those who have most to those who have least; tell whether any moved."""
    moved = False
    least = [(loads[member.member_id], number, member.member_id) for number, member in enumerate(subscribers)]
    most = [(-loads[member_id], number, member_id) for number, member_id in enumerate(owned) if owned[member_id]]
    heapq.heapify(least)
    heapq.heapify(most)
    while most:
        load, number, giver = most[0]
        if -load != loads[giver] or not owned[giver]:  # it has given or got since
            heapq.heappop(most)
            if owned[giver]:
                heapq.heappush(most, (-loads[giver], number, giver))
            continue
        while least[0][0] != loads[least[0][2]]:
            _, place, member_id = least[0]
            heapq.heapreplace(least, (loads[member_id], place, member_id))
        taker = least[0][2]
        if loads[giver] - loads[taker] < 2:
            break
        owned.setdefault(taker, []).append(owned[giver].pop())
        loads[giver] -= 1
        loads[taker] += 1
        moved = True
    return moved
