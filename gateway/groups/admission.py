"""Who may commit, fetch and delete a group's offsets, by the rules of the group's protocol.

Keeps: nothing is committed for a member that the group does not have, or in a generation or epoch that is over. A
commit without a member makes a group if there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol, TypeAlias
from uuid import UUID

from kio.schema.errors import ErrorCode

from gateway.groups.classic import committing as classic
from gateway.groups.classic.group import Group
from gateway.groups.classic.messages import Instant
from gateway.groups.consumer import committing as consumer
from gateway.groups.consumer.committing import Place
from gateway.groups.consumer.group import ConsumerGroup
from gateway.groups.streams import committing as streams
from gateway.groups.streams.group import StreamsGroup

AnyGroup: TypeAlias = "Group | ConsumerGroup | StreamsGroup"


class Groups(Protocol):
    """The groups of one coordinator."""

    def get(self, group_id: str) -> AnyGroup | None: ...

    def check_group_id(self, group_id: str, may_be_empty: bool = False) -> ErrorCode:
        """Is this a valid group id, and are groups served now?"""

    def room_for(self, group_id: str) -> ErrorCode:
        """May there be one more group, of this id?"""

    def create(self, group_id: str) -> Group: ...

    def now(self) -> Instant: ...

    def set_timer(self) -> None:
        """Deadlines may have changed."""


class Admission:
    """See the module. `name_of` gives a topic's name by its id."""

    def __init__(self, groups: Groups, name_of: Callable[[UUID], str | None]) -> None:
        self._groups = groups
        self._name_of = name_of

    def commit(
        self,
        group_id: str,
        member_id: str,
        instance_id: str | None,
        generation: int,
        places: Collection[Place] = (),
        modern: bool = True,
    ) -> ErrorCode:
        """May this member commit for these partitions?

        `modern`: the request is of a version that members of the consumer protocol may send.
        """
        group = self._committed_to(group_id, generation, ErrorCode.group_id_not_found)
        if isinstance(group, ErrorCode):
            return group
        if isinstance(group, ConsumerGroup):
            return consumer.check_commit(group, member_id, instance_id, generation, places, modern=modern)
        if isinstance(group, StreamsGroup):
            named = self._named(places)
            return streams.check_commit(group, member_id, instance_id, generation, named, modern=modern)
        error = classic.admit_commit(group, member_id, instance_id, generation, self._groups.now())
        self._groups.set_timer()
        return error

    def transactional_commit(
        self,
        group_id: str,
        member_id: str,
        instance_id: str | None,
        generation: int,
        places: Collection[Place] = (),
    ) -> ErrorCode:
        """May this member commit offsets in a transaction?"""
        group = self._committed_to(group_id, generation, ErrorCode.illegal_generation)
        if isinstance(group, ErrorCode):
            return group
        if isinstance(group, ConsumerGroup):
            return consumer.check_commit(group, member_id, instance_id, generation, places, transactional=True)
        if isinstance(group, StreamsGroup):
            named = self._named(places)
            return streams.check_commit(group, member_id, instance_id, generation, named, transactional=True)
        now = self._groups.now()
        error = classic.admit_commit(group, member_id, instance_id, generation, now, transactional=True)
        self._groups.set_timer()
        return error

    def fetch(self, group_id: str, member_id: str | None, epoch: int) -> ErrorCode:
        """May this member fetch the group's offsets?"""
        group = self._groups.get(group_id)
        if isinstance(group, StreamsGroup):
            return streams.check_fetch(group, member_id, epoch)
        return consumer.check_fetch(group, member_id, epoch) if isinstance(group, ConsumerGroup) else ErrorCode.none

    def delete(self, group_id: str) -> ErrorCode:
        """May offsets of this group be deleted one by one?"""
        error = self._groups.check_group_id(group_id)
        group = self._groups.get(group_id)
        if error is not ErrorCode.none:
            return error
        if group is None:
            return ErrorCode.group_id_not_found
        if isinstance(group, Group) and not group.is_empty and not group.uses_consumer_protocol:
            return ErrorCode.non_empty_group
        return ErrorCode.none

    def _named(self, places: Collection[Place]) -> list[tuple[str | None, int]]:
        return [(self._name_of(topic), partition) for topic, partition in places]

    def _committed_to(self, group_id: str, generation: int, unknown: ErrorCode) -> AnyGroup | ErrorCode:
        """The group of a commit, made if needed; the error `unknown` for a member of a group that is gone."""
        error = self._groups.check_group_id(group_id, may_be_empty=True)
        if error is not ErrorCode.none:
            return error
        group = self._groups.get(group_id)
        if group is None:
            error = unknown if generation >= 0 else self._groups.room_for(group_id)
        return error or group or self._groups.create(group_id)
