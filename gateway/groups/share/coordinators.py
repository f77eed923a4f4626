"""The share groups of this process: for each container a coordinator, a thin shell around their state machines.

Keeps: an answer with a new epoch leaves when that epoch is stored. Groups of all containers share one budget of groups
with those of the other protocols; a group id belongs to one protocol. A group that is being deleted takes no member.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from kio.schema.errors import ErrorCode

from core.applied.tables import Delete, Put
from core.clock import Clock
from core.container.container import Container
from core.errors import StoreError
from core.store import Store
from gateway.coordination.homes import Homes
from gateway.coordination.local import LocalCoordinators
from gateway.groups.classic.allowance import Allowance
from gateway.groups.coordinator import check_name
from gateway.groups.coordinators import GroupCoordinators
from gateway.groups.modern.epochs import JOINING_EPOCH
from gateway.groups.modern.topics import TopicView
from gateway.groups.share.format import GROUPS_TABLE, decode_epoch, encode_epoch
from gateway.groups.share.group import Answer, Heartbeat, Settings, ShareGroup
from gateway.groups.share.settings import ShareSettings
from gateway.groups.visible import TopicsNow
from gateway.refusals import Asked, Refusal, code_of

if TYPE_CHECKING:
    from core.streams.live import Stream
    from gateway.topics.topics import Topics

FIRST_EPOCH: Final = 1
"""Of a group that is made without a member; 0 is one that is not stored yet."""
GROUPS_AT_ONCE: Final = 200
"""Groups that are made in one step of a load, in some 3 ms."""
LOOK_S: Final = 0.5
"""Time between two looks for members that are silent for too long."""

_log: Final = logging.getLogger(__name__)


class ShareCoordinator:
    """The share groups whose home is one container."""

    def __init__(
        self,
        container: Container,
        clock: Clock,
        topics: TopicView,
        settings: Callable[[str], Settings],
        may_be_new: Callable[[str], ErrorCode],
        allowance: Allowance,
    ) -> None:
        self._container = container
        self._clock = clock
        self._topics = topics
        self._settings = settings
        self._may_be_new = may_be_new
        self._allowance = allowance
        self._table = container.table(GROUPS_TABLE)
        self._groups: dict[str, ShareGroup] = {}
        self._closed: set[str] = set()  # groups that are being deleted, or a part of what they have settled
        self._writes: dict[str, asyncio.Task[None]] = {}
        self._works: dict[ShareGroup, asyncio.Task[None]] = {}
        self._looking: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"ShareCoordinator({len(self._groups)} groups)"

    def __iter__(self) -> Iterator[ShareGroup]:
        return iter(self._groups.values())

    def __len__(self) -> int:
        return len(self._groups)

    def get(self, group_id: str) -> ShareGroup | None:
        return self._groups.get(group_id)

    # Life

    async def load(self) -> None:
        """Make the stored groups, without members, in steps. Raises UnreadableRecord."""
        async for rows in self._table.in_steps(most=GROUPS_AT_ONCE):
            for key, value in rows:
                self._create(key.decode(), decode_epoch(value))

    async def start(self) -> None:
        self._looking = asyncio.create_task(self._look_for_ever())

    async def stop(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        works = list(self._works.values())
        for work in works:
            work.cancel()
        await asyncio.gather(*works, *self._writes.values(), return_exceptions=True)
        for group in self._groups.values():
            group.die()
        self._groups.clear()

    async def let_go(self) -> None:
        """Nothing is left of it."""

    # Requests

    async def heartbeat(self, group_id: str, request: Heartbeat) -> Answer:
        """One heartbeat; its answer when the epoch in it is stored. Raises Refusal."""
        self._check_not_closed(group_id)
        group = self._groups.get(group_id)
        if group is None:
            group = self._new_group(group_id, request)
        before = group.epoch
        try:
            answer = group.heartbeat(request, self._clock.monotonic_s())
        except Refusal:
            if not group.epoch and group.is_empty:
                del self._groups[group_id]  # it was made for this member
            raise
        self._see_to(group)
        while group.awaits_target(request.member_id) and (work := self._works.get(group)) is not None:
            await asyncio.wait([work])
            answer = group.answer(request)
        if group.epoch != before:
            self._report(group)
        await self._stored(group)
        return answer

    def _see_to(self, group: ShareGroup) -> None:
        """Carry out what a group wants after an input: targets, topics to look up."""
        if (group.wanted is not None or not group.subscriptions.is_seen) and group not in self._works:
            work = self._works[group] = asyncio.create_task(self._work(group))
            work.add_done_callback(partial(self._worked, group))

    def _worked(self, group: ShareGroup, work: asyncio.Task[None]) -> None:
        """The group may want more since the last look of its work."""
        del self._works[group]
        if not work.cancelled() and work.exception() is None:
            self._see_to(group)

    async def _work(self, group: ShareGroup) -> None:
        """Look up topics in turns, compute targets in a thread, until the group wants no more."""
        while True:
            if group.wanted is not None:
                wanted, group.wanted = group.wanted, None
                group.assigned(await asyncio.to_thread(wanted.compute))
                self._report(group)
            elif not group.subscriptions.is_seen:
                await asyncio.sleep(0)
                group.look()
            else:
                return

    def topic_changed(self, stream: Stream) -> None:
        """A topic came, went or grew."""
        for group in self._groups.values():
            if group.subscriptions.wants(stream.name):
                group.topics_changed([stream.name])
                self._see_to(group)

    def _new_group(self, group_id: str, request: Heartbeat) -> ShareGroup:
        if request.epoch != JOINING_EPOCH:
            raise Refusal(ErrorCode.group_id_not_found, f"Share group {group_id} not found.")
        self._check_new(group_id)
        return self._create(group_id, 0)

    def _check_new(self, group_id: str) -> None:
        error = check_name(group_id) or self._may_be_new(group_id)
        if error:
            raise Refusal(error)

    async def ensure(self, group_id: str) -> None:
        """Make a group without members, durably, if there is none of this id. Raises Refusal."""
        self._check_not_closed(group_id)
        if group_id not in self._groups:
            self._check_new(group_id)
            await self._stored(self._create(group_id, FIRST_EPOCH))

    @contextlib.contextmanager
    def closing(self, group_id: str) -> Iterator[ErrorCode]:
        """Have no member join a group without members as long as this lasts, in which it, or a part of what it has
        settled, is deleted; or why not."""
        group = self._groups.get(group_id)
        if group_id in self._closed:
            yield ErrorCode.coordinator_load_in_progress
        elif group is None:
            yield ErrorCode.group_id_not_found
        elif not group.is_empty:
            yield ErrorCode.non_empty_group
        else:
            self._closed.add(group_id)
            try:
                yield ErrorCode.none
            finally:
                self._closed.discard(group_id)

    def _check_not_closed(self, group_id: str) -> None:
        """Raises Refusal."""
        if group_id in self._closed:
            raise Refusal(ErrorCode.coordinator_load_in_progress)  # a client asks again

    async def delete(self, group_ids: Sequence[str]) -> dict[str, ErrorCode]:
        """Delete groups that are closed, in one record; their partitions are others' to delete, before."""
        gone = {one: group for one in group_ids if (group := self._groups.pop(one, None)) is not None}
        if writes := [write for one in gone if (write := self._writes.get(one)) is not None]:
            await asyncio.wait(writes)
        try:
            if gone:
                await self._container.update(*(Delete(GROUPS_TABLE, one.encode()) for one in gone))
        except StoreError as error:
            self._groups = gone | self._groups
            return dict.fromkeys(group_ids, code_of(error, Asked.COORDINATOR))
        for one in gone:
            _log.info("group deleted", extra={"group": one})
        return {one: ErrorCode.none if one in gone else ErrorCode.group_id_not_found for one in group_ids}

    def _create(self, group_id: str, epoch: int) -> ShareGroup:
        group = self._groups[group_id] = ShareGroup(group_id, epoch, self._topics, self._settings, self._allowance)
        return group

    # Storing

    async def _stored(self, group: ShareGroup) -> None:
        """Return when the group's epoch is durable. Raises Refusal."""
        epoch = group.epoch
        try:
            while self._stored_epoch(group) < epoch:
                if self._groups.get(group.group_id) is not group:  # deleted meanwhile: a row would bring it back
                    raise Refusal(ErrorCode.coordinator_not_available)
                write = self._writes.get(group.group_id)
                if write is None:
                    write = self._writes[group.group_id] = asyncio.create_task(self._write(group))
                await asyncio.shield(write)
        except StoreError as error:
            raise Refusal(code_of(error, Asked.COORDINATOR)) from error

    def _stored_epoch(self, group: ShareGroup) -> int:
        stored = self._table.get(group.group_id.encode())
        return 0 if stored is None else decode_epoch(stored)

    async def _write(self, group: ShareGroup) -> None:
        try:
            await self._container.update(Put(GROUPS_TABLE, group.group_id.encode(), encode_epoch(group.epoch)))
        finally:
            del self._writes[group.group_id]

    # Time

    async def _look_for_ever(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            now_s = self._clock.monotonic_s()
            for group in list(self._groups.values()):
                due_s = group.next_expiry_s()
                if due_s is not None and due_s <= now_s:
                    group.expire(now_s)
                    self._see_to(group)
                    self._report(group)

    def _report(self, group: ShareGroup) -> None:
        facts = {"group": group.group_id, "epoch": group.epoch, "members": len(group.members)}
        _log.info("share group has a new assignment" if group.members else "group is empty", extra=facts)


class ShareCoordinators(LocalCoordinators[ShareCoordinator]):
    """See the module. Iterates over all share groups."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        topics: Topics,
        homes: Homes,
        others: GroupCoordinators,
        settings: Callable[[str], ShareSettings],
    ) -> None:
        super().__init__(store, homes, self._made)
        self._clock = clock
        self._topics = TopicsNow(topics)
        topics.on_change(self._topic_changed)
        self._others = others
        self._settings = settings
        others.is_shared = lambda group_id: self.find(group_id) is not None
        others.shared_count = lambda: len(self)

    def __repr__(self) -> str:
        return f"<ShareCoordinators {len(self)} groups>"

    def __iter__(self) -> Iterator[ShareGroup]:
        return (group for coordinator in self.all() for group in coordinator)

    def __len__(self) -> int:
        return sum(len(coordinator) for coordinator in self.all())

    def find(self, group_id: str) -> ShareGroup | None:
        """A share group of this process, if its coordinator is loaded: the one of other groups serves later."""
        coordinator = self.in_container(self.homes.of(group_id))
        return None if coordinator is None else coordinator.get(group_id)

    async def delete(self, group_ids: Sequence[str]) -> dict[str, ErrorCode]:
        """See `ShareCoordinator`: one record for each container. Groups that are not here any more are refused."""
        codes: dict[str, ErrorCode] = {}
        together: dict[ShareCoordinator, list[str]] = {}
        for group_id in group_ids:
            try:
                together.setdefault(self.of(group_id), []).append(group_id)
            except Refusal as refused:
                codes[group_id] = refused.code
        for outcome in await asyncio.gather(*(one.delete(some) for one, some in together.items())):
            codes |= outcome
        return codes

    def _made(self, container: Container) -> ShareCoordinator:
        allowance = self._others.allowance
        return ShareCoordinator(container, self._clock, self._topics, self._members, self._may_be_new, allowance)

    def _topic_changed(self, stream: Stream) -> None:
        for coordinator in self.all():
            coordinator.topic_changed(stream)

    def _members(self, group_id: str) -> Settings:
        return self._settings(group_id).members

    def _may_be_new(self, group_id: str) -> ErrorCode:
        if self._others.of(group_id).get(group_id) is not None:
            return ErrorCode.group_id_not_found  # as Kafka: there is no share group of that name, nor will be
        return ErrorCode.none if self._others.have_room() else ErrorCode.policy_violation
