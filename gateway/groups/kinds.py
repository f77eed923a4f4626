"""Which kind of group an id has, and how it becomes one of another kind.

An idle group gives place to one of another protocol. A living one of consumers goes over, from classic to consumer
(KIP-848) and back, with its members.

Keeps: a group is of the new kind when it is known as such, and its new rows are stored together with the end of the old
ones. After each await it is looked at again whether the group is still the one of its id.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeAlias

from kio.schema.errors import ErrorCode

from core.applied.tables import Delete
from core.turns import Turn
from gateway.config.loading import Config
from gateway.groups import migrating
from gateway.groups.admission import AnyGroup
from gateway.groups.classic.group import Group
from gateway.groups.classic_groups import ClassicGroups
from gateway.groups.consumer.group import ConsumerGroup
from gateway.groups.consumer.messages import Heartbeat
from gateway.groups.consumer_groups import ConsumerGroups
from gateway.groups.journal import MEMBERS_AT_ONCE
from gateway.groups.known import KnownGroups
from gateway.groups.modern.epochs import JOINING_EPOCH
from gateway.groups.modern.topics import TopicView
from gateway.groups.persistence import GROUPS_TABLE
from gateway.groups.row_groups import RowGroups
from gateway.groups.streams.group import StreamsGroup
from gateway.groups.streams_groups import StreamsGroups
from gateway.refusals import Refusal

UPGRADE_TRIES_MAX: Final = 3
"""Times that a classic group is made over anew because it changed in between."""

RowGroup: TypeAlias = "ConsumerGroup | StreamsGroup"
"""A group that is rows of a table."""

_log: Final = logging.getLogger(__name__)


class Kinds:
    """See the module. `create` makes an empty classic group and lets it be known; `require_valid` raises Refusal where
    groups, or the one of an id, are not served now."""

    def __init__(
        self,
        config: Config,
        known: KnownGroups,
        classic: ClassicGroups,
        consumer: ConsumerGroups,
        streams: StreamsGroups,
        topics: TopicView,
        create: Callable[[str], Group],
        require_valid: Callable[[str], None],
    ) -> None:
        self._config = config
        self._known = known
        self._classic = classic
        self._consumer = consumer
        self._streams = streams
        self._topics = topics
        self._create = create
        self._require_valid = require_valid
        self._downgrades: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Kinds {len(self._downgrades)} groups become classic>"

    def shell_of(self, group: RowGroup) -> RowGroups[Any, Any]:
        """What stores a group's rows."""
        return self._streams if isinstance(group, StreamsGroup) else self._consumer

    # Classic

    async def classic_again(self, group_id: str) -> AnyGroup | None:
        """The group of a member that joins by the classic protocol: an empty one of another becomes a classic one."""
        group = self._known.get(group_id)
        while isinstance(group, ConsumerGroup | StreamsGroup) and group.is_empty:
            shell = self.shell_of(group)
            await shell.stored(group)
            if self._known.is_closed(group_id):
                return group
            if self._known.has(group) and group.is_empty and not shell.is_storing(group):
                shell.drop(group)
                return self._create(group_id)
            group = self._known.get(group_id)
        return group

    def begin_downgrade(self, group: ConsumerGroup) -> None:
        """Make a consumer group a classic one, as soon as what it is now is stored, and if it may be one."""
        task = asyncio.create_task(self._downgrade(group))
        self._downgrades.add(task)
        task.add_done_callback(self._downgrades.discard)

    async def _downgrade(self, group: ConsumerGroup) -> None:
        while self._known.has(group) and migrating.may_downgrade(self._config, group):
            if await self._consumer.stored(group) is not ErrorCode.none or self._consumer.is_storing(group):
                await asyncio.sleep(0)
                continue
            made = self._classic.create(group.group_id)
            if not await self._replaced(group, made):
                self._classic.die(made, ErrorCode.rebalance_in_progress)
                continue
            self._classic.ask_to_join(made, "the last member of the consumer protocol left")
            _log.info("a consumer group is a classic group now", extra={"group": group.group_id})

    async def _replaced(self, group: ConsumerGroup, made: Group) -> bool:
        """Put a classic group into the place of a consumer group, unless that one has changed meanwhile. A large group
        is closed until all of it is over there."""
        group_id = group.group_id
        try:
            put = await migrating.downgrade(group, partial(self._classic.restore, made), self._classic.now())
        except BaseException:
            self._classic.die(made, ErrorCode.rebalance_in_progress)
            raise
        if put is None or self._consumer.is_storing(group) or not self._known.has(group):
            return False
        self._known.put(made)
        if group.member_count <= MEMBERS_AT_ONCE:
            self._consumer.drop(group, [put])
            return True
        self._known.close(group_id, for_good=False)
        try:
            await self._consumer.drop_in_steps(group, put)
        finally:
            self._known.reopen(group_id)
        return True

    # Consumer (KIP-848)

    async def consumer_for(self, group_id: str, request: Heartbeat) -> ConsumerGroup:
        """A consumer group for a member that joins: a new one, or a classic one made over. Raises Refusal."""
        joins = request.epoch == JOINING_EPOCH
        group = self._known.get(group_id)
        if isinstance(group, ConsumerGroup):
            return group
        if isinstance(group, StreamsGroup):
            raise Refusal(ErrorCode.group_id_not_found, f"Group {group_id} is not a consumer group.")
        if group is None:
            if not joins:
                what = "Group" if request.epoch < JOINING_EPOCH else "Consumer group"
                raise Refusal(ErrorCode.group_id_not_found, f"{what} {group_id} not found.")
            error = self._known.room_for(group_id)
            if error is not ErrorCode.none:
                raise Refusal(error)
            made = self._consumer.create(group_id)
        elif not joins:
            raise Refusal(ErrorCode.group_id_not_found, f"Group {group_id} is not a consumer group.")
        else:
            made = await self._upgraded(group, request)
            try:
                self._require_valid(group_id)  # it may have been closed meanwhile, or all groups
            except Refusal:
                await Turn().through(made.dying())
                raise
            if not self._known.has(group):  # another member was faster
                await Turn().through(made.dying())
                self._require_valid(group_id)
                return await self.consumer_for(group_id, request)
            self._consumer.also(made, Delete(GROUPS_TABLE, group_id.encode()))
            self._classic.die(group, ErrorCode.rebalance_in_progress)
            facts = {"group": group_id, "members": made.member_count}
            _log.info("a classic group is a consumer group now", extra=facts)
        self._known.put(made)
        return made

    async def _upgraded(self, group: Group, request: Heartbeat) -> ConsumerGroup:
        """A consumer group with the members of a classic one, which is still as it was. Raises Refusal."""
        for _ in range(UPGRADE_TRIES_MAX):
            made = self._consumer.create(group.group_id)
            try:
                if await migrating.upgrade(self._config, group, made, request, self._topics, self._classic.now()):
                    return made
            except Refusal:
                await Turn().through(made.dying())
                raise
            await Turn().through(made.dying())
        raise Refusal(ErrorCode.coordinator_load_in_progress)  # a client asks again

    # Streams (KIP-1071)

    def streams_for(self, group_id: str, epoch: int) -> StreamsGroup:
        """A streams group for a member that joins: a new one, or in place of an idle classic one. Raises Refusal."""
        group = self._known.get(group_id)
        if isinstance(group, StreamsGroup):
            return group
        if group is not None and (epoch != JOINING_EPOCH or not isinstance(group, Group) or not group.is_idle):
            raise Refusal(ErrorCode.group_id_not_found, f"Group {group_id} is not a streams group.")
        if group is None and epoch != JOINING_EPOCH:
            raise Refusal(ErrorCode.group_id_not_found, f"Streams group {group_id} not found.")
        error = self._known.room_for(group_id) if group is None else ErrorCode.none
        if error is not ErrorCode.none:
            raise Refusal(error)
        made = self._streams.create(group_id)
        self._known.put(made)
        if isinstance(group, Group):
            self._streams.also(made, Delete(GROUPS_TABLE, group_id.encode()))
            self._classic.die(group, ErrorCode.unknown_member_id)
        return made
