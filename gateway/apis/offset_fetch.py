"""OffsetFetch (key 9), versions 1-10: how far consumers of a group have come.

v2 takes null for all topics, v5 brings leader epochs (KIP-320), v7 RequireStable (KIP-447), v8
several groups at once (KIP-709), v9 members and epochs (KIP-848; they mean nothing to classic groups), v10 topic ids.

Keeps: every partition that was asked for is answered; one without an offset has -1 and no error. With
RequireStable, an offset that a transaction may still change is UNSTABLE_OFFSET_COMMIT, and the client asks again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

from kio.schema.errors import ErrorCode

from core.streams.live import Stream
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.groups.persistence import NO_EPOCH, CommittedOffset, OffsetKey
from gateway.refusals import Refusal
from gateway.security.acls import Operation, ResourceType
from gateway.wire.message import Message

GROUP_ERROR_FROM: Final = 2
GROUPS_FROM: Final = 8
MEMBER_EPOCHS_FROM: Final = 9
TOPIC_IDS_FROM: Final = 10
NO_OFFSET: Final = CommittedOffset(-1, NO_EPOCH, "", -1)

_T = TypeVar("_T")


async def offset_fetch(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    if ctx.version < GROUPS_FROM:
        ctx.require(Operation.DESCRIBE, ResourceType.GROUP, request.group_id)
        return await _fetch_group(ctx, request, request.require_stable)
    answers = []
    fetched_whole: set[str] = set()
    async for group in ctx.paced(request.groups):
        if group.topics is None:
            # A short request must not make an endless answer: a whole group is listed once.
            if group.group_id in fetched_whole:
                continue
            fetched_whole.add(group.group_id)
        if not ctx.may(Operation.DESCRIBE, ResourceType.GROUP, group.group_id):
            answers.append(_refused(group.group_id, ErrorCode.group_authorization_failed))
            continue
        try:
            answer = await _fetch_group(ctx, group, request.require_stable)
        except Refusal as refused:
            answer = {"error_code": refused.code, "topics": []}
        answers.append({"group_id": group.group_id, **answer})
    return {"groups": answers}


async def _fetch_group(ctx: RequestContext, group: Message, require_stable: bool) -> dict[str, Any]:
    """One group's answer; before v8 the request itself is the only group. Raises Refusal, also for a group whose
    deletion has begun meanwhile: its offsets go, a part after the other."""
    _check_not_closed(ctx, group.group_id)
    groups = ctx.services.groups.of(group.group_id)
    if ctx.version >= MEMBER_EPOCHS_FROM:
        error = groups.admission.fetch(group.group_id, group.member_id, group.member_epoch)
        if error is not ErrorCode.none:
            return {"error_code": error, "topics": []}
    if require_stable:
        await groups.offsets.settle(group.group_id)
    topics = await _topics(ctx, _Offsets(ctx, group.group_id, require_stable), group.topics)
    _check_not_closed(ctx, group.group_id)
    if ctx.services.groups.of(group.group_id) is not groups:  # it has left and come back, and forgot what was asked
        raise Refusal(ErrorCode.coordinator_load_in_progress)
    return {"error_code": ErrorCode.none, "topics": topics}


async def _topics(ctx: RequestContext, offsets: _Offsets, asked: Sequence[Message] | None) -> list[dict[str, Any]]:
    """The offsets of these topics; of all, if none are named."""
    by_id = ctx.version >= TOPIC_IDS_FROM
    if asked is None:
        return await _all_topics(offsets, by_id)
    answer = _topic_by_id if by_id else _topic_by_name
    return [await answer(offsets, topic) async for topic in ctx.paced(asked)]


def _check_not_closed(ctx: RequestContext, group_id: str) -> None:
    """Raises Refusal."""
    if ctx.services.groups.of(group_id).is_closed(group_id):
        raise Refusal(ErrorCode.coordinator_load_in_progress)


class _Offsets:
    """One group's committed offsets, as one request wants to see them."""

    def __init__(self, ctx: RequestContext, group_id: str, require_stable: bool) -> None:
        self._ctx = ctx
        self._offsets = ctx.services.groups.of(group_id).offsets
        self._pending = ctx.services.transactions.participant_of(group_id).pending_offsets
        self._group_id = group_id
        self._require_stable = require_stable
        self.topics = ctx.services.all_topics

    def may_tell(self, name: str) -> bool:
        """May the client see offsets of a topic that it names?"""
        return self._ctx.may(Operation.DESCRIBE, ResourceType.TOPIC, name)

    def may_list(self, name: str) -> bool:
        return self._ctx.has(Operation.DESCRIBE, ResourceType.TOPIC, name)

    async def partitions(self, name: str, indexes: Iterable[int]) -> list[dict[str, Any]]:
        return [self._partition(OffsetKey(self._group_id, name, i)) async for i in self.paced(indexes)]

    def paced(self, items: Iterable[_T]) -> AsyncIterator[_T]:
        """See `RequestContext.paced`."""
        return self._ctx.paced(items)

    async def none(self, indexes: Iterable[int], code: int) -> list[dict[str, Any]]:
        """The same error for each partition."""
        return [_partition(index, NO_OFFSET, code) async for index in self.paced(indexes)]

    def _partition(self, key: OffsetKey) -> dict[str, Any]:
        if self._require_stable and self._pending.is_unstable(key):
            return _partition(key.partition, NO_OFFSET, ErrorCode.unstable_offset_commit)
        return _partition(key.partition, self._offsets.get(key) or NO_OFFSET)

    async def all(self) -> Mapping[str, Collection[int]]:
        """Partitions with an offset, by topic; if only stable ones are wanted, those with an unstable one too."""
        of_group = self._offsets.of_group(self._group_id)
        known = {name: set(partitions) async for name, partitions in self.paced(of_group.items())}
        if self._require_stable:
            async for key in self.paced(self._pending.keys_of_group(self._group_id)):
                known.setdefault(key.topic, set()).add(key.partition)
        return known


async def _all_topics(offsets: _Offsets, by_id: bool) -> list[dict[str, Any]]:
    topics = []
    async for name, indexes in offsets.paced((await offsets.all()).items()):
        if not offsets.may_list(name):
            continue
        identity: dict[str, Any] = {"name": name}
        if by_id:
            stream: Stream | None = offsets.topics.get(name)
            if stream is None:
                continue  # being deleted, and its offsets with it
            identity = {"topic_id": stream.uuid}
        topics.append({**identity, "partitions": await offsets.partitions(name, sorted(indexes))})
    return topics


async def _topic_by_name(offsets: _Offsets, topic: Message) -> dict[str, Any]:
    if not offsets.may_tell(topic.name):
        denied = await offsets.none(topic.partition_indexes, ErrorCode.topic_authorization_failed)
        return {"name": topic.name, "partitions": denied}
    return {"name": topic.name, "partitions": await offsets.partitions(topic.name, topic.partition_indexes)}


async def _topic_by_id(offsets: _Offsets, topic: Message) -> dict[str, Any]:
    stream = offsets.topics.by_uuid(topic.topic_id)
    if stream is not None and offsets.topics.get(stream.name) is not stream:
        stream = None  # it is being deleted, and another has its name already
    if stream is not None and offsets.may_tell(stream.name):
        found = await offsets.partitions(stream.name, topic.partition_indexes)
    else:
        code = ErrorCode.unknown_topic_id if stream is None else ErrorCode.topic_authorization_failed
        found = await offsets.none(topic.partition_indexes, code)
    return {"topic_id": topic.topic_id, "partitions": found}


def _partition(index: int, committed: CommittedOffset, error: int = ErrorCode.none) -> dict[str, Any]:
    return {
        "partition_index": index,
        "committed_offset": committed.offset,
        "committed_leader_epoch": committed.leader_epoch,
        "metadata": committed.metadata,
        "error_code": error,
    }


def _refused(group_id: str, error: int) -> dict[str, Any]:
    return {"group_id": group_id, "topics": [], "error_code": error}


def error_response(request: Message, version: int, error: int) -> Mapping[str, Any]:
    if version >= GROUPS_FROM:
        return {"groups": [_refused(group.group_id, error) for group in request.groups]}
    if version >= GROUP_ERROR_FROM:
        return {"topics": [], "error_code": error}
    return {
        "topics": [
            {
                "name": topic.name,
                "partitions": [_partition(index, NO_OFFSET, error) for index in topic.partition_indexes],
            }
            for topic in request.topics
        ]
    }


API: Final = Api(
    key=9,
    name="OffsetFetch",
    versions=range(1, 11),
    handle=offset_fetch,
    error_response=error_response,
    large_answer=True,
)
