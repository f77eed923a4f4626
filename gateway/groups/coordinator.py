"""The group coordinator of one container: a thin asyncio shell around the groups' state machines.

Keeps: groups decide (`classic/group.py`), `offsets` serves their committed offsets, the journal writes, the shell only
carries out effects. Each input is one synchronous step: nothing is awaited between reading a group and changing it.
One timer fires for the earliest of all deadlines.
"""

from __future__ import annotations

import asyncio
import logging
import math
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from kio.schema.errors import ErrorCode

from core.applied.tables import Delete
from core.clock import Clock
from core.turns import in_turns
from gateway.config.loading import Config
from gateway.groups import migrating
from gateway.groups.admission import Admission, AnyGroup
from gateway.groups.classic.allowance import Allowance
from gateway.groups.classic.group import Group, GroupRules
from gateway.groups.classic.messages import (
    NO_MEMBER_ID,
    Alarm,
    Answer,
    Effect,
    Instant,
    JoinRequest,
    JoinResult,
    LeavingMember,
    Store,
    SyncRequest,
    SyncResult,
    Transitioned,
)
from gateway.groups.classic.states import GroupState
from gateway.groups.consumer import classic_members
from gateway.groups.consumer.group import ConsumerGroup
from gateway.groups.consumer.messages import JOINING_EPOCH, Heartbeat, HeartbeatAnswer
from gateway.groups.consumer.rules import GroupSettings
from gateway.groups.consumer_groups import ConsumerGroups
from gateway.groups.deadlines import Deadlines
from gateway.groups.journal import GroupJournal, TableStore
from gateway.groups.offsets.committed import CommittedOffsets
from gateway.groups.offsets.service import OffsetService
from gateway.groups.persistence import GROUPS_TABLE, KEY_TEXT_BYTES_MAX, decode_group
from gateway.groups.streams import messages as streams
from gateway.groups.streams.group import StreamsGroup
from gateway.groups.streams_groups import StreamsGroups
from gateway.groups.visible import VisibleTopics
from gateway.refusals import Refusal

if TYPE_CHECKING:
    from core.streams.live import Stream

#: Offsets that one step of a sweep looks at before others run; a step takes about 2 ms.
OFFSETS_PER_SWEEP_STEP: Final = 1_000
#: Times that a classic group is made over anew because it changed in between.
UPGRADE_TRIES_MAX: Final = 3
#: Characters of a client's name in a line of the log.
ID_SHOWN_CHARS_MAX: Final = 100

#: The first sweep comes this soon after the start, for a gateway that restarts more often than the interval.
FIRST_SWEEP_S_MAX: Final = 60.0

RowGroup: TypeAlias = "ConsumerGroup | StreamsGroup"
"""A group that is rows of a table."""

_log: Final = logging.getLogger(__name__)


class GroupBudget(NamedTuple):
    """What the groups of a process may hold together, whatever the number of its coordinators."""

    allowance: Allowance
    groups_max: int
    groups: Callable[[], int]
    """How many there are."""
    is_shared: Callable[[str], bool] = lambda _: False
    """Whether a share group has this id, which no other can have then."""


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
    ) -> None:
        self._config = config
        self._clock = clock
        self._topics = topics
        self._trusted = store.trusted
        self._budget = budget
        self._rules = GroupRules(
            initial_rebalance_delay_ms=config.group_initial_rebalance_delay_ms,
            max_size=config.group_max_size,
            new_id=lambda: str(uuid.uuid4()),
            allowance=budget.allowance,
        )
        self._groups: dict[str, AnyGroup] = {}
        self._deadlines: Deadlines[Alarm[Group]] = Deadlines()
        self._committed = CommittedOffsets()
        self._journal = GroupJournal(store, self._committed)
        self.consumer = ConsumerGroups(
            config,
            clock,
            store.trusted,
            topics,
            settings,
            budget.allowance,
            self._journal,
            self._consumer_groups,
            self._find_consumer,
            self._seen_to,
        )
        self.streams = StreamsGroups(
            config,
            clock,
            store.trusted,
            self.consumer.topic_view,
            streams_settings,
            budget.allowance,
            self._journal,
            self._streams_groups,
            self._find_streams,
            self._forget_if_new,
        )
        self.admission = Admission(self, self.consumer.topic_view.name_of)
        self._downgrades: set[asyncio.Task[None]] = set()
        self.offsets = OffsetService(config, store.trusted, self._committed, self._journal, self._ensure_group)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = math.inf
        self._sweeper: asyncio.Task[None] | None = None
        self._is_active = False

    def __repr__(self) -> str:
        return f"GroupCoordinator({len(self._groups)} groups, {len(self._deadlines)} deadlines)"

    def __iter__(self) -> Iterator[AnyGroup]:
        return iter(self._groups.values())

    def __len__(self) -> int:
        return len(self._groups)

    def get(self, group_id: str) -> AnyGroup | None:
        return self._groups.get(group_id)

    def _consumer_groups(self) -> Iterable[ConsumerGroup]:
        return [group for group in self._groups.values() if isinstance(group, ConsumerGroup)]

    def _find_consumer(self, group_id: str) -> ConsumerGroup | None:
        group = self._groups.get(group_id)
        return group if isinstance(group, ConsumerGroup) else None

    def _streams_groups(self) -> Iterable[StreamsGroup]:
        return [group for group in self._groups.values() if isinstance(group, StreamsGroup)]

    def _find_streams(self, group_id: str) -> StreamsGroup | None:
        group = self._groups.get(group_id)
        return group if isinstance(group, StreamsGroup) else None

    # Life

    def load(self) -> None:
        """Load the stored groups and offsets. Raises UnreadableRecord."""
        self._committed.load(self._journal.offsets())
        classic = dict(self._journal.groups())
        for consumer_group in self.consumer.load(classic.__contains__):
            self._groups[consumer_group.group_id] = consumer_group
        for streams_group in self.streams.load():
            self._groups[streams_group.group_id] = streams_group
        for group_id, stored in classic.items():
            if group_id not in self._groups:
                group = self.create(group_id)
                self._carry_out(group, group.restore(decode_group(stored), self.now()))
        for group_id in self._committed.group_ids():
            self._ensure_group(group_id)

    async def start(self) -> None:
        """Begin to serve: deadlines run, offsets of deleted topics are deleted."""
        self._is_active = True
        for topic in self._committed.topic_names():
            if self._topics.get(topic) is None:
                self.offsets.drop_topic(topic)
        self._sweeper = asyncio.create_task(self._sweep_for_ever())
        self.consumer.start()
        self.streams.start()
        self.set_timer()
        _log.info("groups loaded", extra={"groups": len(self._groups)})

    async def stop(self) -> None:
        """Answer every waiter with an error; return when all submitted changes are stored."""
        self._is_active = False
        await self.consumer.stop()
        await self.streams.stop()
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
        async for group_id in in_turns(list(self._groups)):
            group = self._groups.pop(group_id, None)
            if isinstance(group, Group):
                self._carry_out(group, group.die(ErrorCode.not_coordinator, self.now()))
            elif group is not None:
                group.die()
        if self._timer is not None:
            self._timer.cancel()
        await self._journal.settle()

    # Membership

    async def join(self, group_id: str, request: JoinRequest) -> JoinResult:
        """JoinGroup; may wait for as long as the members' rebalance time-out."""
        config = self._config
        timeout_ms = request.session_timeout_ms
        error = self.check_group_id(group_id)
        if error is ErrorCode.none and not (
            config.group_min_session_timeout_ms <= timeout_ms <= config.group_max_session_timeout_ms
        ):
            error = ErrorCode.invalid_session_timeout
        group = await self._classic_again(group_id)
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
        waiter: asyncio.Future[JoinResult] = asyncio.get_running_loop().create_future()
        self._carry_out(group, group.join(request, waiter, self.now()))
        self._forget_if_unused(group)
        return await waiter

    async def sync(self, group_id: str, request: SyncRequest) -> SyncResult:
        """SyncGroup; waits for the leader's assignment."""
        group, error = self._find(group_id)
        if group is None or group.is_empty:
            return SyncResult(error=error or ErrorCode.unknown_member_id)
        if isinstance(group, ConsumerGroup):
            return self._sync_consumer(group, request)
        waiter: asyncio.Future[SyncResult] = asyncio.get_running_loop().create_future()
        self._carry_out(group, group.sync(request, waiter, self.now()))
        return await waiter

    def heartbeat(self, group_id: str, member_id: str, instance_id: str | None, generation: int) -> ErrorCode:
        group, error = self._find(group_id)
        if group is None:
            return error
        if isinstance(group, ConsumerGroup):
            return self._heartbeat_of_classic(group, member_id, instance_id, generation)
        error = group.heartbeat(member_id, instance_id, generation, self.now())
        self.set_timer()
        return error

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
            self._seen_to(group)
            return ErrorCode.none, errors
        errors, effects = group.leave(leaving, self.now())
        self._carry_out(group, effects)
        return ErrorCode.none, errors

    # Consumer groups (KIP-848)

    async def consumer_heartbeat(self, group_id: str, request: Heartbeat) -> HeartbeatAnswer:
        """ConsumerGroupHeartbeat; returns when what it tells is durable. Raises Refusal."""
        error = self.check_group_id(group_id)
        if error is not ErrorCode.none:
            raise Refusal(error)
        group = self._groups.get(group_id)
        if not isinstance(group, ConsumerGroup):
            group = await self._consumer_for(group_id, request)
        try:
            return await self.consumer.heartbeat(group, request)
        finally:
            self._seen_to(group)

    async def _consumer_for(self, group_id: str, request: Heartbeat) -> ConsumerGroup:
        """A consumer group for a member that joins: a new one, or a classic one made over. Raises Refusal."""
        joins = request.epoch == JOINING_EPOCH
        group = self._groups.get(group_id)
        if isinstance(group, ConsumerGroup):
            return group
        if isinstance(group, StreamsGroup):
            raise Refusal(ErrorCode.group_id_not_found, f"Group {group_id} is not a consumer group.")
        if group is None:
            if not joins:
                what = "Group" if request.epoch < JOINING_EPOCH else "Consumer group"
                raise Refusal(ErrorCode.group_id_not_found, f"{what} {group_id} not found.")
            error = self.room_for(group_id)
            if error is not ErrorCode.none:
                raise Refusal(error)
            made = self.consumer.create(group_id)
        elif not joins:
            raise Refusal(ErrorCode.group_id_not_found, f"Group {group_id} is not a consumer group.")
        else:
            made = await self._upgraded(group, request)
            if self._groups.get(group_id) is not group:  # another member was faster
                made.die()
                return await self._consumer_for(group_id, request)
            self.consumer.also(made, Delete(GROUPS_TABLE, group_id.encode()))
            self._carry_out(group, group.die(ErrorCode.rebalance_in_progress, self.now()))
            _log.info(
                "a classic group is a consumer group now", extra={"group": group_id, "members": made.member_count}
            )
        self._groups[group_id] = made
        return made

    async def _upgraded(self, group: Group, request: Heartbeat) -> ConsumerGroup:
        """A consumer group with the members of a classic one, which is still as it was. Raises Refusal."""
        for _ in range(UPGRADE_TRIES_MAX):
            made = self.consumer.create(group.group_id)
            try:
                topics = self.consumer.topic_view
                if await migrating.upgrade(self._config, group, made, request, topics, self.now()):
                    return made
            except Refusal:
                made.die()
                raise
            made.die()
        raise Refusal(ErrorCode.coordinator_load_in_progress)  # a client asks again

    async def _classic_again(self, group_id: str) -> AnyGroup | None:
        """The group of a member that joins by the classic protocol: an empty one of another becomes a classic one."""
        group = self._groups.get(group_id)
        while isinstance(group, ConsumerGroup | StreamsGroup) and group.is_empty:
            await self._stored(group)
            if self._groups.get(group_id) is group and group.is_empty and not self._is_storing(group):
                self._drop(group)
                return self.create(group_id)
            group = self._groups.get(group_id)
        return group

    async def _join_consumer(self, group: ConsumerGroup, request: JoinRequest) -> JoinResult:
        try:
            result = classic_members.join(group, request, self.now())
        except Refusal as refused:
            return JoinResult(error=refused.code, member_id=request.member_id)
        self.consumer.see_to(group)
        error = await self.consumer.stored(group)
        self._seen_to(group)
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

    def _seen_to(self, group: ConsumerGroup) -> None:
        """A consumer group may have become one that is not needed, or one that may be classic again."""
        if group.may_be_classic:
            group.may_be_classic = False
            task = asyncio.create_task(self._downgrade(group))
            self._downgrades.add(task)
            task.add_done_callback(self._downgrades.discard)
        elif group.is_new:
            self._forget_if_unused(group)  # a first heartbeat that was refused

    async def _downgrade(self, group: ConsumerGroup) -> None:
        """Make a consumer group a classic one, as soon as what it is now is stored."""
        while self._groups.get(group.group_id) is group and migrating.may_downgrade(self._config, group):
            if await self.consumer.stored(group) is not ErrorCode.none or self.consumer.is_storing(group):
                await asyncio.sleep(0)
                continue
            record = await migrating.downgrade(group, self.now())
            if record is None or self.consumer.is_storing(group) or self._groups.get(group.group_id) is not group:
                continue
            self.consumer.drop(group, [migrating.put(group.group_id, record)])
            classic = self.create(group.group_id)
            self._carry_out(classic, classic.adopt(record, self.now(), "the last member of the consumer protocol left"))
            _log.info("a consumer group is a classic group now", extra={"group": group.group_id})

    # Streams groups (KIP-1071)

    async def streams_heartbeat(self, group_id: str, request: streams.Heartbeat) -> streams.HeartbeatAnswer:
        """StreamsGroupHeartbeat; returns when what it tells is durable. Raises Refusal."""
        error = self.check_group_id(group_id)
        if error is not ErrorCode.none:
            raise Refusal(error)
        group = self._streams_for(group_id, request)
        try:
            return await self.streams.heartbeat(group, request)
        finally:
            self._forget_if_new(group)

    def _streams_for(self, group_id: str, request: streams.Heartbeat) -> StreamsGroup:
        """A streams group for a member that joins: a new one, or in place of an idle classic one. Raises Refusal."""
        group = self._groups.get(group_id)
        if isinstance(group, StreamsGroup):
            return group
        if group is not None and (request.epoch != streams.JOINING_EPOCH or not self._may_give_place(group)):
            raise Refusal(ErrorCode.group_id_not_found, f"Group {group_id} is not a streams group.")
        if group is None and request.epoch != streams.JOINING_EPOCH:
            raise Refusal(ErrorCode.group_id_not_found, f"Streams group {group_id} not found.")
        error = self.room_for(group_id) if group is None else ErrorCode.none
        if error is not ErrorCode.none:
            raise Refusal(error)
        made = self._groups[group_id] = self.streams.create(group_id)
        if isinstance(group, Group):
            self.streams.also(made, Delete(GROUPS_TABLE, group_id.encode()))
            self._carry_out(group, group.die(ErrorCode.unknown_member_id, self.now()))
        return made

    @staticmethod
    def _may_give_place(group: AnyGroup) -> bool:
        return isinstance(group, Group) and group.is_idle

    def _forget_if_new(self, group: StreamsGroup) -> None:
        """A first heartbeat that was refused leaves no group."""
        if group.is_new:
            self._forget_if_unused(group)

    # Groups that are rows of a table

    async def _stored(self, group: RowGroup) -> ErrorCode:
        if isinstance(group, StreamsGroup):
            return await self.streams.stored(group)
        return await self.consumer.stored(group)

    def _is_storing(self, group: RowGroup) -> bool:
        return self.streams.is_storing(group) if isinstance(group, StreamsGroup) else self.consumer.is_storing(group)

    def _rows_of(self, group: RowGroup) -> list[Delete]:
        return self.streams.rows_of(group) if isinstance(group, StreamsGroup) else self.consumer.rows_of(group)

    def _drop(self, group: RowGroup) -> None:
        if isinstance(group, StreamsGroup):
            self.streams.drop(group)
        else:
            self.consumer.drop(group)

    # Groups as a whole

    async def delete_group(self, group_id: str) -> ErrorCode:
        """Delete an empty group with its offsets; returns when it is gone for good."""
        error = self.check_group_id(group_id, may_be_empty=True)
        group = self._groups.get(group_id)
        if error is not ErrorCode.none:
            return error
        if group is None:
            return ErrorCode.group_id_not_found
        if isinstance(group, ConsumerGroup | StreamsGroup):
            await self._stored(group)
            if self._groups.get(group_id) is not group or self._is_storing(group):
                return ErrorCode.non_empty_group  # a member joins at this moment
        if not group.is_empty:
            return ErrorCode.non_empty_group
        error = await asyncio.shield(self._delete(group))
        if error is ErrorCode.none:
            _log.info("group deleted", extra={"group": group_id})
        return error

    async def sweep(self) -> None:
        """Delete offsets that have expired, then groups that have nothing left."""
        looked_at = 0
        for group in list(self._groups.values()):
            for topic, partitions in list(self._committed.topics(group.group_id).items()):
                looked_at += len(partitions)
                self.offsets.drop_expired(group, topic)
                if looked_at >= OFFSETS_PER_SWEEP_STEP:
                    looked_at = 0
                    await asyncio.sleep(0)
        await self._journal.settle()
        for group in list(self._groups.values()):
            if self._is_unused(group):
                self._delete(group)

    def expire_due(self) -> None:
        """Fire every deadline that has passed; the timer calls this."""
        now = self.now()
        while (deadline := self._deadlines.pop_due(now.monotonic_s)) is not None:
            group, fire = deadline.owner
            self._carry_out(group, fire(now))

    # Carrying out

    def _carry_out(self, group: Group, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Answer(waiter, result):
                    assert isinstance(waiter, asyncio.Future)
                    if not waiter.done():  # the connection may be gone
                        waiter.set_result(result)
                case Store():
                    self._store(group, effect)
                case Transitioned():
                    _report(group, effect)
        self.set_timer()

    def _store(self, group: Group, effect: Store) -> None:
        write = self._journal.write_group(group.group_id, effect.record)

        def stored(task: asyncio.Task[ErrorCode]) -> None:
            error = ErrorCode.not_coordinator if task.cancelled() else task.result()
            self._carry_out(group, effect.stored(error, self.now()))

        write.add_done_callback(stored)

    def _delete(self, group: AnyGroup) -> asyncio.Task[ErrorCode]:
        keys = self._committed.keys_of_group(group.group_id)
        rows = self._rows_of(group) if isinstance(group, ConsumerGroup | StreamsGroup) else ()
        write = self._journal.write_offsets(dict.fromkeys(keys), without_group=group.group_id, without_rows=rows)
        write.add_done_callback(lambda _: self._forget_if_unused(group))
        return write

    def topic_deleted(self, stream: Stream) -> None:
        """A topic is gone: its offsets are deleted."""
        self.offsets.drop_topic(stream.name)

    def create(self, group_id: str) -> Group:
        group = Group(group_id, self._rules, self._deadlines, self.now())
        self._groups[group_id] = group
        return group

    def _ensure_group(self, group_id: str) -> None:
        if group_id not in self._groups:
            self.create(group_id)

    def room_for(self, group_id: str) -> ErrorCode:
        """May there be one more group, of this id?"""
        if self._budget.is_shared(group_id):
            return ErrorCode.inconsistent_group_protocol
        if self._budget.groups() < self._budget.groups_max:
            return ErrorCode.none
        facts = {"group": group_id[:ID_SHOWN_CHARS_MAX], "groups.max": self._budget.groups_max}
        _log.warning("a new group is refused: there are as many as groups.max allows", extra=facts)
        return ErrorCode.policy_violation

    def _is_unused(self, group: AnyGroup) -> bool:
        """The group has no member and no offset, neither visible nor being written."""
        is_known = self._groups.get(group.group_id) is group
        if isinstance(group, ConsumerGroup | StreamsGroup) and (group.changed or self._is_storing(group)):
            return False
        return is_known and group.is_idle and not self._committed.is_used(group.group_id)

    def _forget_if_unused(self, group: AnyGroup) -> None:
        """Drop a group that has no member, no offset and no stored record."""
        if self._is_unused(group) and not self._journal.holds_group(group.group_id):
            if isinstance(group, Group):
                self._carry_out(group, group.die(ErrorCode.unknown_member_id, self.now()))
            else:
                group.die()
            del self._groups[group.group_id]

    def _find(self, group_id: str) -> tuple[Group | ConsumerGroup | None, ErrorCode]:
        """A group for members of the classic protocol: unknown groups have none, nor have streams groups."""
        error = self.check_group_id(group_id)
        if error is not ErrorCode.none:
            return None, error
        group = self._groups.get(group_id)
        return None if isinstance(group, StreamsGroup) else group, ErrorCode.unknown_member_id

    def check_group_id(self, group_id: str, may_be_empty: bool = False) -> ErrorCode:
        """Is this a valid group id, and are groups served now?"""
        if not self._is_active:
            return ErrorCode.coordinator_not_available
        return check_name(group_id, may_be_empty)

    # Time

    def now(self) -> Instant:
        return Instant(self._clock.monotonic_s(), self._trusted.stamp_ms())

    def set_timer(self) -> None:
        """Ensure that the timer fires no later than the earliest deadline."""
        next_s = self._deadlines.next_s()
        if next_s is None or next_s >= self._timer_s or not self._is_active:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_s = next_s
        delay_s = max(next_s - self._clock.monotonic_s(), 0)
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer, self._timer_s = None, math.inf
        self.expire_due()
        self.set_timer()

    async def _sweep_for_ever(self) -> None:
        interval_s = self._config.offsets_retention_check_interval_ms / 1_000
        pause_s = min(interval_s, FIRST_SWEEP_S_MAX)
        while True:
            await asyncio.sleep(pause_s)
            pause_s = interval_s
            await self.sweep()


def check_name(group_id: str, may_be_empty: bool = False) -> ErrorCode:
    """Is this a valid group id?"""
    if not group_id and not may_be_empty:
        return ErrorCode.invalid_group_id
    if len(group_id) > KEY_TEXT_BYTES_MAX // 4:  # four bytes is UTF-8's most per character
        return ErrorCode.invalid_group_id
    return ErrorCode.none


def _report(group: Group, event: Transitioned) -> None:
    """Log one line per rebalance, and one when a group has lost its last member."""
    facts = {
        "group": group.group_id,
        "generation": event.generation,
        "members": event.member_count,
        "reason": event.reason,
    }
    match event.after:
        case GroupState.STABLE:
            _log.info("group rebalanced", extra=facts)
        case GroupState.EMPTY:
            _log.info("group is empty", extra=facts)
        case _:
            _log.debug("group is now %s", event.after, extra=facts)
