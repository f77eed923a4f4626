"""DeleteTopics (key 20), versions 1-6; v6 also by id (KIP-516).

Keeps: a topic is answered as deleted once the deletion is durable; its id is never used again.
"""

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from kio.schema.errors import ErrorCode

from core.streams.live import Stream
from gateway.apis.shared.administration import repeated, repeated_among, told
from gateway.apis.shared.mutations import mutations_of, pause
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.refusals import Refusal
from gateway.security.acls import Operation, ResourceType
from gateway.security.denial import denial_of
from gateway.topics.topics import Topics, unchangeable
from gateway.wire.message import Message

IDS_FROM: Final = 6
STRICT_FROM: Final = 5
"""First version whose clients know that they are refused for their quota (KIP-599)."""
DISABLED_CODE_FROM: Final = 3
"""First version that knows TOPIC_DELETION_DISABLED."""

Asked = tuple[str | None, UUID | None]

DENIED: Final = denial_of(ResourceType.TOPIC)
_NAMED_TWICE: Final = Refusal(
    ErrorCode.invalid_request, "The provided topic name maps to an ID that was already supplied."
)


async def delete_topics(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    asked = _asked(request, ctx.version)
    refused = await _refused_alone(ctx, asked)
    if not ctx.services.config.delete_topic_enable:
        refused = dict.fromkeys(asked, _disabled(ctx.version))
    found: dict[Asked, Stream] = {}
    denied: list[Asked] = []
    may_delete_any = ctx.has(Operation.DELETE, ResourceType.CLUSTER)
    async for each in ctx.paced(asked):
        if each not in refused:
            stream = _found(ctx.services.topics, *each)
            viewed = None if stream is not None else ctx.services.internal_topics.find(each[1] or each[0])
            shown_as = stream or viewed
            name = each[0] if shown_as is None else shown_as.name
            if not may_delete_any and name is not None:
                shown = _shown(ctx, each, name, stream)
                if shown is not None:
                    denied.append(shown)
                    continue
            if stream is None:
                refused[each] = _unknown(each[0]) if viewed is None else unchangeable(viewed.name)
            else:
                found[each] = stream
    twice = _twice_named(found)
    mutations = mutations_of(ctx, STRICT_FROM)
    outcomes = await ctx.services.topics.delete(found.values(), mutations.charge)
    async for stream, outcome in ctx.paced(zip(found.values(), outcomes, strict=True)):
        if outcome is None:
            ctx.tell("topic deleted", name=stream.name)
    answers = [_answer(*each, refusal) async for each, refusal in ctx.paced(refused.items())]
    answers += [_answer(*each, DENIED) async for each in ctx.paced(denied)]
    answers += [_answer(stream.name, stream.uuid, _NAMED_TWICE) for stream in twice]
    answers += [
        _answer(stream.name, stream.uuid, outcome)
        async for stream, outcome in ctx.paced(zip(found.values(), outcomes, strict=True))
    ]
    return {"throttle_time": pause(ctx, mutations), "responses": answers}


def _asked(request: Message, version: int) -> list[Asked]:
    if version >= IDS_FROM:
        return [(topic.name, topic.topic_id) for topic in request.topics]
    return [(name, None) for name in request.topic_names]


def _found(topics: Topics, name: str | None, topic_id: UUID | None) -> Stream | None:
    if topic_id is not None:
        return topics.by_uuid(topic_id)
    return None if name is None else topics.get(name)


async def _refused_alone(ctx: RequestContext, asked: list[Asked]) -> dict[Asked, Refusal]:
    """Faults of the request itself, whatever topics exist."""
    refused: dict[Asked, Refusal] = {}
    async for each in ctx.paced(asked):
        name, topic_id = each
        why = None
        if name is None and topic_id is None:
            why = "Neither topic name nor id were specified."
        elif name is not None and topic_id is not None:
            why = "You may not specify both topic name and topic id."
        if why is not None:
            refused[each] = Refusal(ErrorCode.invalid_request, why)
    for each in await repeated_among(ctx, asked):
        if each not in refused:
            what = "id" if each[0] is None else "name"
            refused[each] = Refusal(ErrorCode.invalid_request, f"Duplicate topic {what}.")
    return refused


def _shown(ctx: RequestContext, asked: Asked, name: str, stream: Stream | None) -> Asked | None:
    """What the answer names of a topic that the client may not delete; None if it may, or may know that there is none.

    Name and id are told together only to a client that may describe the topic.
    """
    if not ctx.has(Operation.DESCRIBE, ResourceType.TOPIC, name):
        ctx.may(Operation.DELETE, ResourceType.TOPIC, name)
        return asked
    if stream is None or ctx.may(Operation.DELETE, ResourceType.TOPIC, name):
        return None
    return name, stream.uuid


def _twice_named(found: dict[Asked, Stream]) -> list[Stream]:
    """Topics that the request names by name and by id; they are removed from `found`."""
    twice = repeated(stream.uuid for stream in found.values())
    named = {each: stream for each, stream in found.items() if stream.uuid in twice}
    for each in named:
        del found[each]
    return list({stream.uuid: stream for stream in named.values()}.values())


def _disabled(version: int) -> Refusal:
    if version < DISABLED_CODE_FROM:
        return Refusal(ErrorCode.invalid_request, "Topic deletion is disabled.")
    return Refusal(ErrorCode.topic_deletion_disabled, "Topic deletion is disabled.")


def _unknown(name: str | None) -> Refusal:
    if name is None:
        return Refusal(ErrorCode.unknown_topic_id, "This server does not host this topic ID.")
    return Refusal(ErrorCode.unknown_topic_or_partition, "This server does not host this topic-partition.")


def _answer(name: str | None, topic_id: UUID | None, outcome: Refusal | None) -> dict[str, Any]:
    return {"name": name, "topic_id": topic_id, **told(outcome)}


def _error_response(request: Message, version: int, code: int) -> Mapping[str, Any]:
    return {
        "responses": [
            {"name": name, "topic_id": topic_id, "error_code": code} for name, topic_id in _asked(request, version)
        ]
    }


API: Final = Api(
    key=20,
    name="DeleteTopics",
    versions=range(1, 7),
    handle=delete_topics,
    error_response=_error_response,
)
