"""The targets of a share group's members, computed from what the group was at one moment.

Keeps: a draft never changes, so that targets may be computed in a thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple
from uuid import UUID

from gateway.groups.modern.topics import Topic
from gateway.groups.share.spreading import Partitions, spread


class MemberDraft(NamedTuple):
    """A member, with the topics that it wants."""

    member_id: str
    names: frozenset[str]


class Draft(NamedTuple):
    """What targets are computed from: the members, their targets before, and the topics that exist."""

    members: tuple[MemberDraft, ...]
    before: Mapping[str, Partitions]
    topics: Mapping[str, Topic]

    def compute(self) -> dict[str, Partitions]:
        """The partitions of each member."""
        targets: dict[str, dict[UUID, set[int]]] = {member.member_id: {} for member in self.members}
        for readers, topics in self._by_readers().items():
            places = [(topic.id, number) for topic in topics for number in range(topic.partition_count)]
            for reader, (topic_id, number) in spread(readers, places, self.before) if places else ():
                targets[reader].setdefault(topic_id, set()).add(number)
        return {
            member_id: {topic: frozenset(numbers) for topic, numbers in target.items()}
            for member_id, target in targets.items()
        }

    def _by_readers(self) -> dict[tuple[str, ...], list[Topic]]:
        """Topics by those who want them, which are in order, as the topics are."""
        readers: dict[str, list[str]] = {}
        for member in sorted(self.members):
            for name in member.names:
                readers.setdefault(name, []).append(member.member_id)
        found: dict[tuple[str, ...], list[Topic]] = {}
        for name in sorted(readers):
            topic = self.topics.get(name)
            if topic is not None:
                found.setdefault(tuple(readers[name]), []).append(topic)
        return found
