"""What members of a consumer group had, from rows that were stored one after the other.

Keeps: no partition has two owners, wherever between two rows the end came.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping
from dataclasses import replace
from uuid import UUID

from gateway.groups.consumer.messages import CurrentRecord, Holdings

_Place = tuple[UUID, int]


def without_doubles(
    current: Mapping[str, CurrentRecord], members: Collection[str]
) -> Generator[None, None, dict[str, CurrentRecord]]:
    """The rows of members, in steps of one; of two with one partition the one that got it later has it."""
    latest: dict[_Place, int] = {}
    for record in current.values():
        yield
        for holdings in (record.assigned, record.revoking):
            for topic, held in holdings.items():
                for partition, epoch in held.items():
                    latest[topic, partition] = max(epoch, latest.get((topic, partition), -1))
    kept: dict[str, CurrentRecord] = {}
    taken: set[_Place] = set()
    for member_id, record in current.items():
        yield
        if member_id not in members:
            continue
        assigned = _held_last(record.assigned, latest, taken)
        revoking = _held_last(record.revoking, latest, taken)
        for holdings in (assigned, revoking):
            taken.update((topic, partition) for topic, held in holdings.items() for partition in held)
        kept[member_id] = replace(record, assigned=assigned, revoking=revoking)
    return kept


def _held_last(holdings: Holdings, latest: Mapping[_Place, int], taken: Collection[_Place]) -> Holdings:
    kept: dict[UUID, Mapping[int, int]] = {}
    for topic, held in holdings.items():
        if still := {p: e for p, e in held.items() if (topic, p) not in taken and latest[topic, p] == e}:
            kept[topic] = still
    return kept
