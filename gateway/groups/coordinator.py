"""The group coordinator of one container: which of its groups a request is for, and who serves it.

Keeps: a shell for each kind of group (`classic_groups`, `consumer_groups`, `streams_groups`) carries out what the group
decides; `offsets` serves committed offsets, `kinds` has groups change from one kind to another, `unused` lets them go.
Each input is one synchronous step: nothing is awaited between reading a group and changing it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from kio.schema.errors import ErrorCode

from core.clock import Clock
from core.turns import Turn, in_turns
from gateway.config.loading import Config
from gateway.groups.admission import Admission, AnyGroup
from gateway.groups.classic.group import Group
from gateway.groups.classic.messages import (
    NO_MEMBER_ID,
    Instant,
    JoinRequest,
    JoinResult,
    LeavingMember,
    SyncRequest,
    SyncResult,
)
from gateway.groups.classic_groups import ClassicGroups
from gateway.groups.consumer import classic_members
from gateway.groups.consumer.group import ConsumerGroup
from gateway.groups.consumer.messages import Heartbeat, HeartbeatAnswer
from gateway.groups.consumer.rules import GroupSettings
from gateway.groups.consumer_groups import ConsumerGroups
from gateway.groups.journal import GroupJournal, TableStore
from gateway.groups.kinds import Kinds
from gateway.groups.known import GroupBudget, KnownGroups
from gateway.groups.offsets.committed import CommittedOffsets
from gateway.groups.offsets.service import OffsetService
from gateway.groups.persistence import GROUP_BYTES_AT_ONCE, KEY_TEXT_BYTES_MAX, decode_group
from gateway.groups.standing_clock import StandingClock
from gateway.groups.streams import messages as streams
from gateway.groups.streams.group import StreamsGroup
from gateway.groups.streams_groups import StreamsGroups
from gateway.groups.unused import UnusedGroups
from gateway.groups.visible import TopicsNow, VisibleTopics
from gateway.refusals import Refusal

if TYPE_CHECKING:
    from core.streams.live import Stream

#: The first sweep comes this soon after the start, for a gateway that restarts more often than the interval.
FIRST_SWEEP_S_MAX: Final = 60.0

_log: Final = logging.getLogger(__name__)


class GroupCoordinator:
    """The groups whose home is one container. Only gateway/apis knows versions of APIs."""

    def __init__(
        self,
        config: Config,
        store: TableStore,
        clock: Clock,
        topics: VisibleTopics,
        budget: GroupBudget,
        settings: Callable[[str], GroupSettings],
        streams_settings: Callable[[str], streams.StreamsSettings],
        writes_ids: Callable[[], bool],
        awaits: Callable[[str], bool],
    ) -> None:
        """`writes_ids`: see `OffsetService`; `awaits`: see `CommittedOffsets`."""
        self._config = config
        self._known = known = KnownGroups(budget)
        now = TopicsNow(topics)
        self._committed = CommittedOffsets(now.id_of, awaits)
        self._journal = journal = GroupJournal(store, self._committed)
        allowance = budget.allowance
        self._time = time = StandingClock(clock)
        self._classic = ClassicGroups(config, time, store.trusted, allowance, journal)
        self.consumer = ConsumerGroups(
            config,
            time,
            store.trusted,
            topics,
            settings,
            allowance,
            journal,
            partial(known.of_kind, ConsumerGroup),
            partial(known.find, ConsumerGroup),
            self._consumer_changed,
        )
        self.streams = StreamsGroups(
            config,
            time,
            store.trusted,
            now,
            streams_settings,
            allowance,
            journal,
            partial(known.of_kind, StreamsGroup),
            partial(known.find, StreamsGroup),
            self._streams_changed,
        )
        self.admission = Admission(self, now.name_of)
        self.offsets = OffsetService(
            config, store.trusted, self._committed, journal, self._ensure_group, known.is_going, writes_ids
        )
        self._kinds = Kinds(
            config, known, self._classic, self.consumer, self.streams, now, self.create, self._require_valid
        )
        self._unused = UnusedGroups(known, self._kinds, self._classic, self._committed, self.offsets, journal)
        self._sweeper: asyncio.Task[None] | None = None
        self._is_active = False

    def __repr__(self) -> str:
        return f"GroupCoordinator({len(self._known)} groups)"

    def __iter__(self) -> Iterator[AnyGroup]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def get(self, group_id: str) -> AnyGroup | None:
        return self._known.get(group_id)

    # Life

    async def load(self) -> None:
        """Load the stored groups and offsets, in turns. A group is known when all of it is. Raises UnreadableRecord."""
        async for rows in self._journal.offsets():
            self._committed.load(rows)
        classic: dict[str, bytes] = {}
        async for rows in self._journal.groups():
            classic |= {key.decode(): value for key, value in rows}
        async for consumer_group in self.consumer.load(classic.__contains__):
            self._known.put(consumer_group)
        async for streams_group in self.streams.load():
            self._known.put(streams_group)
        await self._load_classic(classic)
        async for group_id in in_turns(list(self._committed.group_ids())):
            self._ensure_group(group_id)

    async def _load_classic(self, stored: Mapping[str, bytes]) -> None:
        turn = Turn()
        for group_id, value in stored.items():
            if self._known.get(group_id) is None:
                is_large = len(value) > GROUP_BYTES_AT_ONCE
                record = await asyncio.to_thread(decode_group, value) if is_large else decode_group(value)
                group = self._classic.create(group_id)
                try:
                    await turn.through(self._classic.restore(group, record))
                except BaseException:  # nobody knows it: it leaves no memory behind
                    self._classic.die(group, ErrorCode.not_coordinator)
                    raise
                self._known.put(group)

    async def start(self) -> None:
        """Begin to serve, when all of the container is loaded: deadlines run, offsets of deleted topics are deleted."""
        self._time.go_on()
        self._is_active = True
        self.offsets.start()
        async for topic in in_turns(self._committed.topic_names()):
            self.offsets.look_for_dead(topic)
        self._sweeper = asyncio.create_task(self._sweep_for_ever())
        self._classic.start()
        self.consumer.start()
        self.streams.start()
        _log.info("groups loaded", extra={"groups": len(self._known)})

    async def stop(self) -> None:
        """Answer every waiter with an error; return when all submitted changes are stored."""
        self._is_active = False
        await self.consumer.stop()
        await self.streams.stop()
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
        await self._unused.finish()
        await self.offsets.finish()
        turn = Turn()
        for group in list(self._known):
            await turn.breathe()
            if not self._known.has(group):
                continue
            self._known.remove(group)
            if isinstance(group, Group):
                self._classic.die(group, ErrorCode.not_coordinator)
            else:
                await turn.through(group.dying())
        await self._classic.stop()
        await self._journal.settle()

    async def let_go(self) -> None:
        """Free all offsets, in turns: a request that goes on beside it looks at its end whose the group is."""
        await self._committed.let_go()

    # Members of the classic protocol

    async def join(self, group_id: str, request: JoinRequest) -> JoinResult:
        """JoinGroup; may wait for as long as the members' rebalance time-out."""
        config = self._config
        timeout_ms = request.session_timeout_ms
        group = await self._kinds.classic_again(group_id)
        error = self.check_group_id(group_id)
        if error is ErrorCode.none and not (
            config.group_min_session_timeout_ms <= timeout_ms <= config.group_max_session_timeout_ms
        ):
            error = ErrorCode.invalid_session_timeout
        if isinstance(group, ConsumerGroup) and error is ErrorCode.none:
            return await self._join_consumer(group, request)
        if isinstance(group, StreamsGroup):
            error = error or ErrorCode.inconsistent_group_protocol
        if error is ErrorCode.none and group is None and request.member_id != NO_MEMBER_ID:
            error = ErrorCode.unknown_member_id
        if error is ErrorCode.none and group is None:
            error = self.room_for(group_id)
        if error is not ErrorCode.none:
            return JoinResult(error=error, member_id=request.member_id)
        if group is None:
            group = self.create(group_id)
        assert isinstance(group, Group)
        joined = self._classic.join(group, request)
        self._unused.forget(group)
        return await joined

    async def sync(self, group_id: str, request: SyncRequest) -> SyncResult:
        """SyncGroup; waits for the leader's assignment."""
        group, error = self._find(group_id)
        if group is None or group.is_empty:
            return SyncResult(error=error or ErrorCode.unknown_member_id)
        if isinstance(group, ConsumerGroup):
            return self._sync_consumer(group, request)
        return await self._classic.sync(group, request)

    def heartbeat(self, group_id: str, member_id: str, instance_id: str | None, generation: int) -> ErrorCode:
        group, error = self._find(group_id)
        if group is None:
            return error
        if isinstance(group, ConsumerGroup):
            return self._heartbeat_of_classic(group, member_id, instance_id, generation)
        return self._classic.heartbeat(group, member_id, instance_id, generation)

    def leave(self, group_id: str, leaving: Sequence[LeavingMember]) -> tuple[ErrorCode, list[ErrorCode]]:
        """LeaveGroup: return the error of the whole request, and one for each member that leaves."""
        group, error = self._find(group_id)
        if group is None:
            if error is ErrorCode.unknown_member_id:
                return ErrorCode.none, [error] * len(leaving)
            return error, []
        if isinstance(group, ConsumerGroup):
            now = self.now()
            errors = [classic_members.leave(group, each, now) for each in leaving]
            self.consumer.see_to(group)
            self._consumer_changed(group)
            return ErrorCode.none, errors
        return ErrorCode.none, self._classic.leave(group, leaving)

    async def _join_consumer(self, group: ConsumerGroup, request: JoinRequest) -> JoinResult:
        try:
            result = classic_members.join(group, request, self.now())
        except Refusal as refused:
            return JoinResult(error=refused.code, member_id=request.member_id)
        self.consumer.see_to(group)
        error = await self.consumer.stored(group)
        self._consumer_changed(group)
        return JoinResult(error=error, member_id=request.member_id) if error else result

    def _sync_consumer(self, group: ConsumerGroup, request: SyncRequest) -> SyncResult:
        try:
            return classic_members.sync(group, request, self.now())
        except Refusal as refused:
            return SyncResult(error=refused.code)
        finally:
            self.consumer.see_to(group)

    def _heartbeat_of_classic(
        self, group: ConsumerGroup, member_id: str, instance_id: str | None, generation: int
    ) -> ErrorCode:
        try:
            return classic_members.heartbeat(group, member_id, instance_id, generation, self.now())
        except Refusal as refused:
            return refused.code
        finally:
            self.consumer.see_to(group)

    def _find(self, group_id: str) -> tuple[Group | ConsumerGroup | None, ErrorCode]:
        """A group for members of the classic protocol: unknown groups have none, nor have streams groups."""
        error = self.check_group_id(group_id)
        if error is not ErrorCode.none:
            return None, error
        group = self._known.get(group_id)
        return None if isinstance(group, StreamsGroup) else group, ErrorCode.unknown_member_id

    # Members of the newer protocols

    async def consumer_heartbeat(self, group_id: str, request: Heartbeat) -> HeartbeatAnswer:
        """ConsumerGroupHeartbeat (KIP-848); returns when what it tells is durable. Raises Refusal."""
        self._require_valid(group_id)
        group = self._known.find(ConsumerGroup, group_id) or await self._kinds.consumer_for(group_id, request)
        try:
            return await self.consumer.heartbeat(group, request)
        finally:
            self._consumer_changed(group)

    def _consumer_changed(self, group: ConsumerGroup) -> None:
        """A consumer group may have become one that is not needed, or one that may be classic again."""
        if group.may_be_classic:
            group.may_be_classic = False
            self._kinds.begin_downgrade(group)
        elif group.is_new:
            self._unused.forget(group)  # a first heartbeat that was refused

    async def streams_heartbeat(self, group_id: str, request: streams.Heartbeat) -> streams.HeartbeatAnswer:
        """StreamsGroupHeartbeat (KIP-1071); returns when what it tells is durable. Raises Refusal."""
        self._require_valid(group_id)
        group = self._kinds.streams_for(group_id, request.epoch)
        try:
            return await self.streams.heartbeat(group, request)
        finally:
            self._streams_changed(group)

    def _streams_changed(self, group: StreamsGroup) -> None:
        """A first heartbeat that was refused leaves no group."""
        if group.is_new:
            self._unused.forget(group)

    # Groups as a whole

    def create(self, group_id: str) -> Group:
        """An empty classic group."""
        group = self._classic.create(group_id)
        self._known.put(group)
        return group

    def _ensure_group(self, group_id: str) -> None:
        if self._known.get(group_id) is None:
            self.create(group_id)

    def room_for(self, group_id: str) -> ErrorCode:
        """May there be one more group, of this id?"""
        return self._known.room_for(group_id)

    async def delete_group(self, group_id: str) -> ErrorCode:
        """Delete an empty group with its offsets; returns when it is gone for good."""
        error = self.check_group_id(group_id, may_be_empty=True)
        if error is not ErrorCode.none:
            return error
        group = self._known.get(group_id)
        return ErrorCode.group_id_not_found if group is None else await self._unused.delete(group)

    async def sweep(self) -> None:
        """Delete offsets that have expired, then groups that have nothing left."""
        await self._unused.sweep()

    async def _sweep_for_ever(self) -> None:
        interval_s = self._config.offsets_retention_check_interval_ms / 1_000
        pause_s = min(interval_s, FIRST_SWEEP_S_MAX)
        while True:
            await asyncio.sleep(pause_s)
            pause_s = interval_s
            await self.sweep()

    def topic_deleted(self, stream: Stream) -> asyncio.Task[None] | None:
        """A topic is gone: its offsets are deleted. See `OffsetService.drop_topic`."""
        return self.offsets.drop_topic(stream.name)

    def is_closed(self, group_id: str) -> bool:
        """Is the group being deleted, or on its way to another kind?"""
        return self._known.is_closed(group_id)

    def check_group_id(self, group_id: str, may_be_empty: bool = False) -> ErrorCode:
        """Is this a valid group id, and is the group served now?"""
        if not self._is_active:
            return ErrorCode.coordinator_not_available
        if self._known.is_closed(group_id):
            return ErrorCode.coordinator_load_in_progress  # a client asks again
        return check_name(group_id, may_be_empty)

    def _require_valid(self, group_id: str) -> None:
        """Raises Refusal."""
        error = self.check_group_id(group_id)
        if error is not ErrorCode.none:
            raise Refusal(error)

    # Time

    def now(self) -> Instant:
        return self._classic.now()

    def set_timer(self) -> None:
        """Deadlines of classic groups may have changed."""
        self._classic.set_timer()

    def expire_due(self) -> None:
        """Fire every deadline of classic groups that has passed."""
        self._classic.expire_due()


def check_name(group_id: str, may_be_empty: bool = False) -> ErrorCode:
    """Is this a valid group id?"""
    if not group_id and not may_be_empty:
        return ErrorCode.invalid_group_id
    if len(group_id) > KEY_TEXT_BYTES_MAX // 4:  # four bytes is UTF-8's most per character
        return ErrorCode.invalid_group_id
    return ErrorCode.none
