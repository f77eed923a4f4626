"""What ShareFetch and ShareAcknowledge have in common: a session, partitions by topic id, acknowledgements.

Keeps: an acknowledgement is answered without an error only when it is durable. What a member says of a partition is
checked in steps and carried out in one, in which there is nothing more of it than records that it may hold.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from kio.schema.errors import ErrorCode

from core.errors import StoreError
from core.streams.live import Slot
from gateway.apis.shared.administration import slot_of
from gateway.dispatch.context import RequestContext
from gateway.groups.share.format import PlaceKey
from gateway.groups.share.live_partition import (
    ROWS_TOGETHER_MAX,
    RUNS_TOGETHER_MAX,
    Landing,
    LivePartition,
    hand_on,
)
from gateway.groups.share.partition import NOT_ACQUIRED, Judgement, Verdict, in_order, judged
from gateway.refusals import Asked, Refusal, code_of, invalid_request
from gateway.security.acls import Operation, ResourceType
from gateway.wire.message import Message

RENEW_SINCE: Final = 2
NO_LEADER: Final = {"leader_id": -1, "leader_epoch": -1}


def serves_share_groups(ctx: RequestContext) -> bool:
    """Whether share groups (KIP-932) are served: unless their feature is lowered."""
    return ctx.services.features.level("share.version") > 0


def is_worker(ctx: RequestContext) -> bool:
    """Whether another worker asks, for the coordinator of a group that it keeps."""
    return ctx.connection.listener.inner


def empty_group(ctx: RequestContext, group_id: str) -> None:
    """Only a share group without members may be changed from outside. Raises Refusal."""
    if is_worker(ctx):
        return
    group = ctx.services.share.coordinators.of(group_id).get(group_id)
    if group is None:
        raise Refusal(ErrorCode.group_id_not_found, f"Group {group_id} not found.")
    if not group.is_empty:
        raise Refusal(ErrorCode.non_empty_group, "The group is not empty.")


def check_member(request: Message) -> tuple[str, str]:
    """The group and the member of a request. Raises Refusal."""
    if not request.group_id or not request.member_id:
        raise invalid_request("GroupId and MemberId can't be empty.")
    return request.group_id, request.member_id


async def place(ctx: RequestContext, key: PlaceKey) -> tuple[LivePartition, Slot]:
    """A share-partition for a member. Raises Refusal."""
    slot = shared_slot(ctx, key)
    try:
        return await ctx.services.share.partitions.of(key, slot), slot
    except StoreError as error:
        raise Refusal(code_of(error, Asked.READ)) from error


def shared_slot(ctx: RequestContext, key: PlaceKey, *, is_asked_for: bool = True) -> Slot:
    """The slot of a partition that a member may share. Raises Refusal; a denial is an event only where it
    `is_asked_for`."""
    may = ctx.may if is_asked_for else ctx.has
    stream = ctx.services.topics.by_uuid(key.topic)
    if stream is None:
        raise Refusal(ErrorCode.unknown_topic_id)
    if not may(Operation.READ, ResourceType.TOPIC, stream.name):
        raise Refusal(ErrorCode.topic_authorization_failed)
    slot = slot_of(stream, key.partition)
    if slot is None:
        raise Refusal(ErrorCode.unknown_topic_or_partition)
    return slot


class Settled:
    """What acknowledgements came to: for each partition that has some, why they were refused, or None. Those that were
    not must be stored before a member is told so; that has begun."""

    def __init__(self) -> None:
        self.outcome: dict[PlaceKey, Refusal | None] = {}
        self._fresh: dict[PlaceKey, LivePartition] = {}
        self._fresh_runs = 0
        self._landing: dict[PlaceKey, tuple[LivePartition, Landing | None]] = {}

    def add(self, key: PlaceKey, live: LivePartition) -> None:
        """A partition's acknowledgements were carried out."""
        self.outcome[key] = None
        self._fresh[key] = live
        self._fresh_runs += len(live.state.runs)
        if len(self._fresh) >= ROWS_TOGETHER_MAX or self._fresh_runs > RUNS_TOGETHER_MAX:
            self.hand_on()

    def hand_on(self) -> None:
        """Have what was carried out written."""
        lives = list(self._fresh.values())
        self._landing |= zip(self._fresh, zip(lives, hand_on(lives), strict=True), strict=True)
        self._fresh.clear()
        self._fresh_runs = 0

    async def stored(self) -> dict[PlaceKey, Refusal | None]:
        """The outcome, when it will survive."""
        others: dict[PlaceKey, LivePartition] = {}
        for key, (live, landing) in self._landing.items():
            if landing is None:
                others[key] = live
                continue
            try:
                await landing
            except StoreError as error:
                self.outcome[key] = Refusal(code_of(error, Asked.COORDINATOR))
        if not others:
            return self.outcome
        if len(others) == 1:  # a task for it would cost as much as all else
            errors = [await live.stored() for live in others.values()]
        else:
            errors = await asyncio.gather(*(live.stored() for live in others.values()))
        return self.outcome | {key: Refusal(error) for key, error in zip(others, errors, strict=True) if error}


async def settle(ctx: RequestContext, group_id: str, member_id: str, topics: Iterable[Message]) -> Settled:
    """Carry out the acknowledgements of a request, and begin to store them."""
    settled = Settled()
    async for topic in ctx.paced(topics):
        async for partition in ctx.paced(topic.partitions):
            if not partition.acknowledgement_batches:
                continue
            key = PlaceKey(group_id, topic.topic_id, partition.partition_index)
            try:
                live, _ = await place(ctx, key)
                judgements = await _judgements(ctx, live, partition.acknowledgement_batches)
                live.acknowledge(member_id, judgements)
                settled.add(key, live)
            except Refusal as refused:
                settled.outcome[key] = refused
    settled.hand_on()
    return settled


async def _judgements(ctx: RequestContext, live: LivePartition, batches: Sequence[Message]) -> list[Judgement]:
    """What a member says of a partition, but for what it says of records below its start. Raises Refusal, also for more
    than it can hold."""
    said = (judged(one.first_offset, one.last_offset, one.acknowledge_types) for one in batches)
    start, most = live.state.start, live.state.in_flight
    judgements: list[Judgement] = []
    renews = False
    async for judgement in ctx.paced(in_order(said)):
        renews |= Verdict.RENEW in judgement.verdicts
        if judgement.last >= start and len(judgements) <= most:
            judgements.append(judgement)
    if renews and (ctx.version < RENEW_SINCE or not live.settings().may_renew):
        raise invalid_request("Renewing acquisition locks is not possible here.")
    if len(judgements) > most:
        raise Refusal(ErrorCode.invalid_record_state, NOT_ACQUIRED)
    return judgements


async def by_topic(ctx: RequestContext, answers: Mapping[PlaceKey, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Answers about partitions, in a response's form."""
    topics: dict[Any, list[Mapping[str, Any]]] = {}
    async for key, answer in ctx.paced(answers.items()):
        topics.setdefault(key.topic, []).append(
            {"partition_index": key.partition, "current_leader": NO_LEADER, **answer}
        )
    return [{"topic_id": topic, "partitions": partitions} for topic, partitions in topics.items()]
