"""One group over HTTP: its members, where it is in each partition, how that was in the last hour, and moving it.

Keeps: offsets are moved by the rules of Kafka's own requests: only of a group without members, with READ on the group
and on each topic, told to the audit log. An answer has at most `LISTED_MAX` members and partitions; a move that takes
longer than `MOVE_S_MAX` is given up before it changes anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, TypeAlias
from uuid import UUID

from kio.schema.errors import ErrorCode
from starlette.requests import Request
from starlette.responses import Response

from core.errors import StoreError
from core.streams.live import Stream
from core.turns import in_turns
from gateway.groups.admission import AnyGroup
from gateway.groups.classic.group import Group
from gateway.groups.classic.subscription import assigned_partitions
from gateway.groups.elsewhere import Bounds
from gateway.groups.lag import kind_of
from gateway.groups.offsets.service import OffsetCommit
from gateway.groups.share.format import PlaceKey
from gateway.groups.share.group import ShareGroup
from gateway.groups.streams.endpoints import inputs_of
from gateway.groups.streams.group import StreamsGroup
from gateway.http.access import Access
from gateway.http.desk import INT_MAX, LISTED_MAX, TOPIC, ApiSources, Desk, answered, number, problem_of, wanted_by
from gateway.http.group_models import (
    GroupDetail,
    GroupPartition,
    LagHistory,
    MemberView,
    MovedOffset,
    OffsetsMove,
    OffsetsMoved,
)
from gateway.http.history import PERIOD_S
from gateway.http.openapi import Endpoint, Parameter
from gateway.http.problems import Problem, no_such_stream
from gateway.http.records import Wanted
from gateway.http.topics import bounds_elsewhere
from gateway.refusals import Asked, Refusal, code_of
from gateway.security.acls import Operation, ResourceType

MOVE_S_MAX: Final = 8.0
PARTITIONS_TOLD_MAX: Final = 1_000
NO_MEMBER: Final = ""
NO_EPOCH: Final = -1
NONE_GIVEN: Final = -1

GROUP: Final = ResourceType.GROUP
Known: TypeAlias = "AnyGroup | ShareGroup"
Place: TypeAlias = "tuple[str, int]"


class GroupPages:
    """The operations."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def endpoints(self) -> Sequence[Endpoint]:
        of_one = "/api/v1/groups/{name:path}"
        one = (Parameter("topic", "One partition's: its topic", "string"), Parameter("partition", "And its number"))
        looked, changed = (400, 403, 404, 503), (400, 401, 403, 404, 409, 413, 415, 503)
        move = "Move the offsets of a group without members; a dry run first"
        history = "A group's lag in the last hour"
        return (
            Endpoint("GET", f"{of_one}/history", history, self._history, LagHistory, None, one, looked),
            Endpoint("POST", f"{of_one}/offsets", move, self._move, OffsetsMoved, OffsetsMove, (), changed),
            Endpoint("GET", of_one, "A group: members and lag", self._show, GroupDetail, None, (), (403, 404, 503)),
        )

    async def _show(self, request: Request) -> Response:
        sources, group = self._group(request, Operation.DESCRIBE)
        access = self._desk.access(request)
        every = in_turns(await self._lags(sources, group))
        places = [one async for one in every if access.sees(TOPIC, one.topic)]
        worst = sorted(places, key=lambda one: (-one.lag, one.topic, one.partition))[:LISTED_MAX]
        members = [one async for one in in_turns(islice(_members(sources, group, access), LISTED_MAX))]
        detail = GroupDetail(
            name=group.group_id,
            type=_kind(group),
            state=str(group.state),
            coordinator=sources.lags.nodes.me,
            epoch=group.generation if isinstance(group, Group) else group.epoch,
            protocol=_protocol(group),
            lag=sum(one.lag for one in places),
            members=members,
            members_total=len(group.members) if isinstance(group, ShareGroup) else group.member_count,
            partitions=[
                GroupPartition(
                    topic=one.topic,
                    partition=one.partition,
                    offset=one.committed,
                    start_offset=one.start,
                    end_offset=one.end,
                    lag=one.lag,
                )
                for one in worst
            ],
            partitions_total=len(places),
            measured_ms=sources.lags.measured_ms,
        )
        return answered(detail)

    async def _history(self, request: Request) -> Response:
        sources, group = self._group(request, Operation.DESCRIBE)
        name, topic = group.group_id, request.query_params.get("topic")
        partition = number(request, "partition", None, INT_MAX)
        if (topic is None) != (partition is None):
            raise Problem(400, "Not understood", "topic and partition go together")
        if topic is None or partition is None:
            lags = sources.memory.lags.of_group(name)
        else:
            self._desk.access(request).require(Operation.DESCRIBE, TOPIC, topic)
            lags = sources.memory.lags.of_partition(name, topic, partition)
        period_ms = int(PERIOD_S * 1000)
        return answered(LagHistory(group=name, period_ms=period_ms, end_ms=sources.memory.lags.sampled_ms, lags=lags))

    async def _move(self, request: Request) -> Response:
        self._desk.guard.check_write(request.headers)
        wanted = await wanted_by(request, OffsetsMove)
        sources, group = self._group(request, Operation.READ)
        move = _Move(sources, group, wanted)
        try:
            async with asyncio.timeout(MOVE_S_MAX):
                offsets = await move.planned(self._desk.access(request))
        except TimeoutError as late:
            raise Problem(
                503, "Not done", f"not all offsets were found within {MOVE_S_MAX:g} s; name one topic"
            ) from late
        if not wanted.dry_run:
            move.check()
            await move.make(offsets)
            topics = sorted({one.topic for one in offsets})[:LISTED_MAX]
            access = self._desk.access(request)
            access.tell("offsets moved", group=group.group_id, to=wanted.to, topics=topics, partitions=len(offsets))
        return answered(OffsetsMoved(group=group.group_id, dry_run=wanted.dry_run, offsets=offsets))

    def _group(self, request: Request, operation: Operation) -> tuple[ApiSources, Known]:
        """The group of a request that has the right to an operation on it. Raises Problem."""
        sources, name = self._desk.ready(), request.path_params["name"]
        self._desk.access(request).require(operation, GROUP, name)
        services = sources.services
        try:
            group: Known | None = services.groups.of(name).get(name)
            group = group or services.share.coordinators.of(name).get(name)
        except Refusal as refused:
            raise problem_of(refused) from refused
        if group is None:
            raise Problem(404, "No such group", f"there is no group {name[:300]!r}; GET /api/v1/groups lists them")
        return sources, group

    @staticmethod
    async def _lags(sources: ApiSources, group: Known) -> Sequence[Any]:
        try:
            return await sources.lags.of_partitions(group.group_id)
        except Refusal as refused:
            raise problem_of(refused) from refused


@dataclass(frozen=True, slots=True)
class _Move:
    """A move of one group's offsets."""

    sources: ApiSources
    group: Known
    wanted: OffsetsMove

    async def planned(self, access: Access) -> list[MovedOffset]:
        """Where it goes in each partition. Raises Problem."""
        now = {(one.topic, one.partition): one.committed for one in await GroupPages._lags(self.sources, self.group)}
        found: list[MovedOffset] = []
        for stream, numbers in await self._streams(now, access):
            bounds = await self._bounds(stream, numbers)
            times = await self._at_time(stream, numbers) if self.wanted.to == "time" else {}
            for each in numbers:
                place = stream.name, each
                if place not in bounds:
                    what = f"partition {each} of {stream.name!r}"
                    raise Problem(503, "Not done", f"the node of {what} did not tell its offsets; try again")
                start, end = bounds[place]
                after = min(max(self._target(bounds[place], now.get(place), times.get(place)), start), end)
                found.append(
                    MovedOffset(topic=stream.name, partition=each, before=now.get(place), after=after, lag=end - after)
                )
        return sorted(found, key=lambda one: (one.topic, one.partition))

    async def _streams(self, now: Mapping[Place, int], access: Access) -> Iterable[tuple[Stream, Sequence[int]]]:
        """The partitions that are meant, of topics that may be read. Those that may not even be seen are no part of the
        group's, as in an OffsetFetch of all. Raises Problem."""
        topics, name = self.sources.services.topics, self.wanted.topic
        every = in_turns({each for each, _ in now} if name is None else ())
        names = sorted([each async for each in every if access.sees(TOPIC, each)]) if name is None else [name]
        meant: list[tuple[Stream, Sequence[int]]] = []
        for name in names:
            access.require(Operation.READ, TOPIC, name)
            stream = topics.get(name)
            if stream is None:
                raise no_such_stream(name)
            numbers = self.wanted.partitions or sorted(each for topic, each in now if topic == name)
            numbers = sorted(set(numbers)) or list(range(stream.slot_count))
            if numbers[0] < 0 or numbers[-1] >= stream.slot_count:
                raise Problem(
                    404, "No such partition", f"{name[:300]!r} has the partitions 0 to {stream.slot_count - 1}"
                )
            meant.append((stream, numbers))
        if sum(len(numbers) for _, numbers in meant) > PARTITIONS_TOLD_MAX:
            raise Problem(400, "Too many", f"one request moves at most {PARTITIONS_TOLD_MAX} partitions: name some")
        return meant

    async def _bounds(self, stream: Stream, numbers: Sequence[int]) -> Mapping[Place, Bounds]:
        here = {
            (stream.name, each): _bounds_of(stream, each)
            for each in numbers
            if stream.state.container_of_slot(each) in self.sources.store.containers
        }
        return {**here, **await bounds_elsewhere(self.sources, stream, numbers)}

    async def _at_time(self, stream: Stream, numbers: Sequence[int]) -> Mapping[Place, int]:
        """The first record at or after a time; nothing for a partition without one. Raises Problem."""
        time_ms = self.wanted.value or 0
        found: dict[Place, int] = {}
        away: dict[int, list[Place]] = {}
        for each in numbers:
            container_id = stream.state.container_of_slot(each)
            if container_id not in self.sources.store.containers:
                away.setdefault(container_id, []).append((stream.name, each))
                continue
            asked = Wanted(offset=None, since_ms=time_ms, most=1, wait_ms=0, committed=False)
            page = await self.sources.records.read(stream.slot(each), asked)
            if page.records:
                found[stream.name, each] = page.records[0].offset
        for container_id, places in away.items():
            found |= await self.sources.services.elsewhere.at_time(container_id, places, time_ms)
        return found

    def _target(self, bounds: Bounds, now: int | None, at_time: int | None) -> int:
        match self.wanted.to:
            case "earliest":
                return bounds.start
            case "offset":
                return self.wanted.value or 0
            case "shift":
                return (bounds.end if now is None else now) + (self.wanted.value or 0)
            case "time" if at_time is not None:
                return at_time
        return bounds.end

    def check(self) -> None:
        """Raises Problem for a group with members."""
        if not self.group.is_empty:
            why = f"{self.group.group_id[:300]!r} has members, which know their offsets better: stop them first"
            raise Problem(409, "The group has members", why)

    async def make(self, offsets: Sequence[MovedOffset]) -> None:
        """Durable when it returns. Raises Problem."""
        error = await (self._begin(offsets) if isinstance(self.group, ShareGroup) else self._commit(offsets))
        if error is not ErrorCode.none:
            raise problem_of(Refusal(error, "the offsets were not all stored; look at the group, then try again"))

    async def _commit(self, offsets: Sequence[MovedOffset]) -> ErrorCode:
        name, services = self.group.group_id, self.sources.services
        coordinator = services.groups.of(name)
        uuids: dict[str, UUID] = {}
        for one in offsets:
            stream = services.topics.get(one.topic)
            if stream is None:
                raise no_such_stream(one.topic)
            uuids[one.topic] = stream.uuid
        places = [(uuids[one.topic], one.partition) for one in offsets]
        error = coordinator.admission.commit(name, NO_MEMBER, None, NO_EPOCH, places)
        if error is not ErrorCode.none:
            return error
        commits = [OffsetCommit(one.topic, one.partition, one.after, NONE_GIVEN, "") for one in offsets]
        errors = await coordinator.offsets.commit(name, commits)
        return next((each for each in errors if each), ErrorCode.none)

    async def _begin(self, offsets: Sequence[MovedOffset]) -> ErrorCode:
        share, topics = self.sources.services.share, self.sources.services.topics
        for one in offsets:
            stream = topics.get(one.topic)
            if stream is None:
                raise no_such_stream(one.topic)
            key = PlaceKey(self.group.group_id, stream.uuid, one.partition)
            try:
                error = await share.partitions.begin_at(key, stream.slot(one.partition), one.after)
            except StoreError as failed:
                error = code_of(failed, Asked.PARTITION)
            if error is not ErrorCode.none:
                return error
        return ErrorCode.none


def _bounds_of(stream: Stream, partition: int) -> Bounds:
    slot = stream.known_slot(partition)
    return Bounds(0, 0) if slot is None else Bounds(slot.start, slot.durable_end)


def _kind(group: Known) -> str:
    return "share" if isinstance(group, ShareGroup) else kind_of(group)


def _protocol(group: Known) -> str:
    if isinstance(group, ShareGroup):
        return "simple"
    if isinstance(group, StreamsGroup):
        return "sticky"
    return (group.protocol_name or "") if isinstance(group, Group) else group.assignor


def _members(sources: ApiSources, group: Known, access: Access) -> Iterable[MemberView]:
    """As many of a member's partitions as are listed, of topics that the request may see."""
    members: Iterable[Any] = list(group.roster) if isinstance(group, Group) else list(group.members.values())
    for member in members:
        assigned = _assigned(sources, group, member)
        seen = {topic: numbers for topic, numbers in sorted(assigned.items()) if access.sees(TOPIC, topic)}
        left, listed = PARTITIONS_TOLD_MAX, {}
        for topic, numbers in seen.items():
            if left <= 0:
                break
            listed[topic] = numbers[:left]
            left -= len(numbers)
        told = member.record if isinstance(group, StreamsGroup) else member
        yield MemberView(
            id=member.member_id,
            client_id=told.client_id,
            host=told.client_host,
            instance_id=getattr(member, "instance_id", None),
            partitions=listed,
            count=sum(map(len, seen.values())),
        )


def _assigned(sources: ApiSources, group: Known, member: Any) -> Mapping[str, list[int]]:
    if isinstance(group, Group):
        return assigned_partitions(member.assignment) or {}
    if isinstance(group, StreamsGroup):
        active = member.current.assigned.active
        parts = () if group.topology is None else inputs_of(active, group.topology, group.rules.topics)
        return {part.topic: list(part.partitions) for part in parts}
    held = group.target_of(member.member_id) if isinstance(group, ShareGroup) else member.partitions()
    topics = sources.services.topics
    return {
        stream.name: sorted(numbers) for uuid, numbers in held.items() if (stream := topics.by_uuid(uuid)) is not None
    }
