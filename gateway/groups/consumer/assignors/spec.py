"""A group as an assignor sees it.

Keeps: nothing in it changes while an assignor runs. Racks are absent, as from the assignors of Kafka 4.3.1 (KAFKA-16694
took them out, KAFKA-19909 would bring them back): a member's rack is stored and shown, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from gateway.groups.consumer.messages import Partitions


@dataclass(frozen=True, slots=True)
class MemberSpec:
    """A member: its topics, all of which exist, and its partitions in the last target."""

    member_id: str
    instance_id: str | None
    topics: frozenset[UUID]
    target: Partitions


@dataclass(frozen=True, slots=True)
class GroupSpec:
    """All members of a group; `partition_counts` has every topic of theirs."""

    members: tuple[MemberSpec, ...]
    partition_counts: Mapping[UUID, int]

    @property
    def is_homogeneous(self) -> bool:
        """All members want the same topics."""
        return all(member.topics == self.members[0].topics for member in self.members)
