"""StreamsGroupHeartbeat (key 88), version 0 (KIP-1071): a member of a streams group joins, is alive, or leaves.

Epoch 0 joins and brings the topology, -1 leaves; any other is the member's own. Internal topics that are missing are
made here, if the client may: the answer still says that they were missing, and the member comes back soon.

Keeps: nobody joins with topics that it may not see; no internal topic of Kafka is part of a topology. What Kafka 4.3
does not serve is refused with its words: static members, warm-up tasks, offsets of tasks, regular expressions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from kio.schema.errors import ErrorCode

from gateway.apis.shared.mutations import mutations_of
from gateway.apis.shared.new_groups import refused, serves_streams_groups, turned_away
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.groups.modern.epochs import LEAVING_EPOCH
from gateway.groups.streams.checks import check_heartbeat
from gateway.groups.streams.messages import (
    Endpoint,
    EndpointParts,
    Extents,
    Heartbeat,
    HeartbeatAnswer,
    Task,
    Tasks,
    TopicPart,
    by_subtopology,
    extents_of,
)
from gateway.groups.streams.statuses import Status, StatusCode
from gateway.groups.streams.topology import InternalTopic, Subtopology, TopicInfo, Topology
from gateway.refusals import Refusal, invalid_request
from gateway.security.acls import Operation, ResourceType
from gateway.topics.checks import PARTITIONS_PER_REQUEST_MAX, check_name
from gateway.topics.topics import INTERNAL, WantedTopic
from gateway.wire.message import Message

STRICT_FROM: Final = 0
"""First version whose clients know that they are refused for their quota (KIP-599)."""
NAMES_SHOWN_MAX: Final = 10
"""Topics that a message names."""
TASKS_AT_ONCE: Final = 2_000
"""Tasks that are told on the event loop, in some 3 ms; more of them in a thread."""
FREED_AT_ONCE: Final = 1_000
"""Tasks that are freed in one go, in 0.2 ms."""
ID_CHARS_MAX: Final = 256
"""Characters of a member's or a process's id, which are texts of UUIDs, and of a rack or a host."""


async def streams_group_heartbeat(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    if not serves_streams_groups(ctx):
        away = turned_away(ctx, request.group_id, "streams", "set group.protocol=classic for Kafka Streams")
        return {**away, "status": []}
    ctx.require(Operation.READ, ResourceType.GROUP, request.group_id)
    try:
        _check_served(request)
        topology = None if request.topology is None else await _topology(ctx, request.topology)
        if topology is not None:
            await _check_topics(ctx, topology)
        said = [await _heartbeat(ctx, request, topology)]
        if not request.group_id.strip():
            raise invalid_request("GroupId can't be empty.")
        check_heartbeat(said[0])
        answer = await ctx.services.groups.of(request.group_id).streams_heartbeat(request.group_id, said[0])
        failed = await _make(ctx, answer.missing)
    except Refusal as refusal:
        return {**refused(refusal), "status": []}
    size = 0 if answer.assigned is None else len(answer.assigned.active) + len(answer.assigned.standby)
    size += 0 if answer.endpoints is None else answer.endpoints.size
    size += sum(map(len, said[0].owned or ()))
    if size <= TASKS_AT_ONCE:
        return _response(answer, failed)
    return await ctx.connection.aside(_response_to, said, answer, failed)


# What a member says


def _check_served(request: Message) -> None:
    """Raises Refusal for what Kafka 4.3 does not serve."""
    if request.instance_id is not None:
        raise invalid_request("Static membership is not yet supported.")
    if request.task_offsets is not None:
        raise invalid_request("TaskOffsets are not supported yet.")
    if request.task_end_offsets is not None:
        raise invalid_request("TaskEndOffsets are not supported yet.")
    if request.warmup_tasks:
        raise invalid_request("WarmupTasks are not supported yet.")
    if request.topology is not None and any(one.source_topic_regex for one in request.topology.subtopologies):
        raise invalid_request("Regular expressions for source topics are not supported yet.")
    told = (request.active_tasks, request.standby_tasks, request.warmup_tasks)
    if request.member_epoch != LEAVING_EPOCH and len({part is None for part in told}) > 1:
        raise invalid_request("If one task-type is non-null, all must be non-null.")
    endpoint = request.user_endpoint
    texts = (request.member_id, request.process_id, request.rack_id, None if endpoint is None else endpoint.host)
    if any(len(text or "") > ID_CHARS_MAX for text in texts):
        raise invalid_request(f"An id, a rack or a host has more than {ID_CHARS_MAX} characters.")


async def _heartbeat(ctx: RequestContext, request: Message, topology: Topology | None) -> Heartbeat:
    endpoint = request.user_endpoint
    owned = extents = None
    if request.active_tasks is not None:
        told = request.active_tasks, request.standby_tasks or ()
        if sum(len(one.partitions) for tasks in told for one in tasks) <= TASKS_AT_ONCE:
            owned, extents = _owned(*told)
        else:
            owned, extents = await ctx.connection.aside(_owned, *told)
    return Heartbeat(
        member_id=request.member_id,
        epoch=request.member_epoch,
        rack_id=request.rack_id,
        rebalance_timeout_ms=request.rebalance_timeout,
        topology=topology,
        owned=owned,
        extents=extents,
        process_id=request.process_id,
        endpoint=None if endpoint is None else Endpoint(endpoint.host, endpoint.port),
        tags=None if request.client_tags is None else {tag.key: tag.value for tag in request.client_tags},
        shuts_down=request.shutdown_application,
        endpoint_epoch=request.endpoint_information_epoch,
        client_id=ctx.client_id or "",
        client_host=f"/{ctx.connection.peer_host}",
    )


def _owned(active: Sequence[Message], standby: Sequence[Message]) -> tuple[Tasks, Extents]:
    tasks = Tasks(_tasks(active), _tasks(standby))
    return tasks, extents_of(tasks)


def _tasks(told: Sequence[Message]) -> frozenset[Task]:
    return frozenset(Task(one.subtopology_id, partition) for one in told for partition in one.partitions)


async def _topology(ctx: RequestContext, told: Message) -> Topology:
    """The topology, told in one order whatever the client's. Raises Refusal."""
    parts = [_subtopology(part) async for part in ctx.paced(told.subtopologies)]
    return Topology(epoch=told.epoch, subtopologies=tuple(sorted(parts, key=lambda part: part.id)))


def _subtopology(told: Message) -> Subtopology:
    return Subtopology(
        id=told.subtopology_id,
        sources=tuple(sorted(told.source_topics)),
        repartition_sources=_infos(told.repartition_source_topics),
        repartition_sinks=tuple(sorted(told.repartition_sink_topics)),
        changelogs=_infos(told.state_changelog_topics),
        copartitioned=tuple(sorted((_together(told, group) for group in told.copartition_groups), key=sorted)),
    )


def _together(told: Message, group: Message) -> frozenset[str]:
    """The topics of a copartition group, which names them by their places in the subtopology's lists."""
    repartition = [topic.name for topic in told.repartition_source_topics]
    if group.source_topic_regex:
        raise invalid_request("Regular expressions for source topics are not supported yet.")
    return frozenset(
        (*_at(told.source_topics, group.source_topics), *_at(repartition, group.repartition_source_topics))
    )


def _at(names: Sequence[str], places: Iterable[int]) -> Iterable[str]:
    for place in places:
        if not 0 <= place < len(names):
            why = f"A copartition group names topic {place} of {len(names)}."
            raise Refusal(ErrorCode.streams_invalid_topology, why)
        yield names[place]


def _infos(told: Sequence[Message]) -> tuple[TopicInfo, ...]:
    topics = (
        TopicInfo(
            topic.name,
            topic.partitions,
            topic.replication_factor,
            tuple(sorted((config.key, config.value) for config in topic.topic_configs)),
        )
        for topic in told
    )
    return tuple(sorted(topics))


# Topics


async def _check_topics(ctx: RequestContext, topology: Topology) -> None:
    """Are these topics that an application may have, and may the client see them? Raises Refusal."""
    sinks = {name for part in topology.subtopologies for name in part.repartition_sinks}
    names = sorted(topology.required | sinks)
    prohibited = [name for name in names if name in INTERNAL]
    if prohibited:
        why = f"Use of Kafka internal topics {','.join(prohibited)} in a Kafka Streams topology is prohibited."
        raise Refusal(ErrorCode.streams_invalid_topology, why)
    invalid = [name async for name in ctx.paced(names) if not _is_valid(name)]
    if invalid:
        why = f"Topic names {','.join(invalid[:NAMES_SHOWN_MAX])} are not valid topic names."
        raise Refusal(ErrorCode.streams_invalid_topology, why)
    allowed = await ctx.allowed(Operation.DESCRIBE, ResourceType.TOPIC, names)
    if any([name not in allowed async for name in ctx.paced(names)]):
        raise Refusal(ErrorCode.topic_authorization_failed)


def _is_valid(name: str) -> bool:
    try:
        check_name(name)
    except Refusal:
        return False
    return True


async def _make(ctx: RequestContext, missing: Sequence[InternalTopic]) -> str:
    """Make internal topics, if the client may; returns why some were not made, to follow other words."""
    if not missing:
        return ""
    denied: list[str] = []
    if not ctx.has(Operation.CREATE, ResourceType.CLUSTER):
        denied = [one.name for one in missing if not ctx.may(Operation.CREATE, ResourceType.TOPIC, one.name)]
    if denied:
        return f"; Unauthorized to CREATE on topics {', '.join(denied[:NAMES_SHOWN_MAX])}."
    if sum(one.partitions for one in missing) > PARTITIONS_PER_REQUEST_MAX:
        return f"; they have more than {PARTITIONS_PER_REQUEST_MAX} partitions together: make them by other means."
    wanted = [WantedTopic(one.name, one.partitions, dict(one.configs), None) for one in missing]
    made = await ctx.services.topics.create(wanted, False, mutations_of(ctx, STRICT_FROM).charge)
    failed = [
        f"{one.name} ({outcome})"
        for one, outcome in zip(missing, made, strict=True)
        if isinstance(outcome, Refusal) and outcome.code is not ErrorCode.topic_already_exists
    ]
    return f"; Creation failed: {', '.join(failed[:NAMES_SHOWN_MAX])}." if failed else ""


# What a member is told


def _response_to(said: list[Heartbeat], answer: HeartbeatAnswer, failed: str) -> Mapping[str, Any]:
    """The answer to what was said, which is freed here: that takes as long as to make it."""
    owned = said.pop().owned
    parts = [list(tasks) for tasks in owned or ()]
    del owned
    for tasks in parts:
        while tasks:
            del tasks[-FREED_AT_ONCE:]  # others have the interpreter in between
    return _response(answer, failed)


def _response(answer: HeartbeatAnswer, failed: str) -> Mapping[str, Any]:
    tasks = answer.assigned
    return {
        "error_code": ErrorCode.none,
        "member_id": answer.member_id,
        "member_epoch": answer.epoch,
        "heartbeat_interval": answer.interval_ms,
        "status": [_status(status, failed) for status in answer.statuses],
        "active_tasks": None if tasks is None else task_ids(tasks.active),
        "standby_tasks": None if tasks is None else task_ids(tasks.standby),
        "warmup_tasks": None if tasks is None else [],
        "endpoint_information_epoch": answer.endpoint_epoch,
        "partitions_by_user_endpoint": (
            None if answer.endpoints is None else [_endpoint(one) for one in answer.endpoints.parts()]
        ),
    }


def _status(status: Status, failed: str) -> Mapping[str, Any]:
    detail = status.detail
    if status.code is StatusCode.MISSING_INTERNAL_TOPICS:
        detail += failed
    return {"status_code": status.code, "status_detail": detail}


def task_ids(tasks: Iterable[Task]) -> list[dict[str, Any]]:
    """Tasks as messages name them: by subtopology."""
    return [{"subtopology_id": name, "partitions": some} for name, some in by_subtopology(tasks).items()]


def _endpoint(told: EndpointParts) -> dict[str, Any]:
    return {
        "user_endpoint": {"host": told.endpoint.host, "port": told.endpoint.port},
        "active_partitions": _parts(told.active),
        "standby_partitions": _parts(told.standby),
    }


def _parts(parts: Iterable[TopicPart]) -> list[dict[str, Any]]:
    return [{"topic": part.topic, "partitions": list(part.partitions)} for part in parts]


API: Final = Api(
    key=88,
    name="StreamsGroupHeartbeat",
    versions=range(1),
    handle=streams_group_heartbeat,
    error_response=lambda request, version, code: {"error_code": code, "status": []},
)
