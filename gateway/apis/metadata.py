"""Metadata (key 3), versions 0-13.

v0 lists all topics for an empty list, later versions for null. v4 lets the client forbid
auto-creation; v8-10 ask for authorized operations (KIP-430), v10 brings topic ids (KIP-516), v12
asks by them; v13 has a top-level error that we never need. The id of a topic that was deleted a while ago is answered
with its former name beside the error, for consumers that do not survive an answer without one.

Partitions of one container have the same leader and epoch, and differ in their index only.

Keeps: answering never waits for the log, and for a container that changes its node just now a moment at most
(`gateway.cluster.vacancies`). A topic that must be created first is answered with
UNKNOWN_TOPIC_OR_PARTITION while its creation begins, and the client asks again. A topic's part of
the response is encoded once per version: 10,000 partitions are 260 KB and would cost 50 ms each time.
That of a topic with many partitions is encoded in a thread, once for all who wait for it.
"""

import asyncio
import struct
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from itertools import chain
from typing import Any, Final
from uuid import UUID

from kio.schema.errors import ErrorCode

from core.streams.live import Stream
from core.streams.state import StreamState
from gateway.apis.shared.administration import NOT_ASKED, cluster_operations, tell_created
from gateway.apis.shared.leaders import Leader, leaders_of
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.quotas.mutations import Mutations
from gateway.refusals import Refusal
from gateway.security.acls import Operation, ResourceType
from gateway.topics.topics import INTERNAL
from gateway.wire.codec import response_codec
from gateway.wire.message import Message
from gateway.wire.primitives import EncodedItems

KEY: Final = 3
TOPIC_IDS_FROM: Final = 12
"""First version that asks by id; 10 and 11 have the field, but must leave it empty."""

CACHE_BYTES_MAX: Final = 8 * 2**20
"""Encoded topics that are kept: about 30 of 10,000 partitions, or 60,000 small ones."""
AT_ONCE: Final = 2_000
"""Partitions that are encoded on the event loop, in some 2 ms; more of them in a thread."""

_INDEX: Final = struct.Struct(">i")
_SAMPLE_INDEX: Final = 0x01020304


async def metadata(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    if request.topics is not None and not all(map(_well_formed(ctx.version), request.topics)):
        return _error_response(request, ctx.version, ErrorCode.invalid_request)
    listener = ctx.connection.listener
    broker = ctx.services
    if broker.vacancies:
        await broker.vacancies.filled(await _containers(ctx, request))
    entries = await _entries(ctx, request)
    return {
        "brokers": [
            {"node_id": node_id, "host": host, "port": port} for node_id, host, port in broker.nodes.addresses(listener)
        ],
        "cluster_id": broker.cluster_id,
        "controller_id": broker.node_id,
        "topics": EncodedItems(len(entries), b"".join(entries)),
        "cluster_authorized_operations": (
            cluster_operations(ctx) if request.include_cluster_authorized_operations else NOT_ASKED
        ),
    }


async def _containers(ctx: RequestContext, request: Message) -> set[int]:
    """Where the topics lie that are asked for."""
    services = ctx.services
    if request.topics is None or (ctx.version == 0 and not request.topics):
        return set(services.store.config.container_ids)
    found: set[int] = set()
    async for topic in ctx.paced(request.topics):
        stream = services.readable(topic.topic_id or topic.name)
        if stream is not None:
            found |= stream.state.containers
    return found


def _well_formed(version: int) -> Any:
    """A topic is named, or from v12 on has an id."""
    if version < TOPIC_IDS_FROM:
        return lambda topic: topic.name is not None and not topic.topic_id
    return lambda topic: topic.name is not None or topic.topic_id


async def _entries(ctx: RequestContext, request: Message) -> list[bytes]:
    if request.topics is None or (ctx.version == 0 and not request.topics):
        wanted: list[Stream] = [*ctx.services.topics, *ctx.services.internal_topics.listed()]
        return [
            await _known(ctx, request, stream)
            async for stream in ctx.paced(wanted)
            if not stream.deleted and ctx.has(Operation.DESCRIBE, ResourceType.TOPIC, stream.name)
        ]
    entries: dict[str | UUID, bytes] = {}
    gone: dict[str | UUID, bytes] = {}
    async for topic in ctx.paced(request.topics):
        stream = ctx.services.readable(topic.topic_id or topic.name)
        if stream is None and ctx.services.store.is_shared:
            stream = await ctx.services.topics.find(topic.topic_id or topic.name)
        name = topic.name if stream is None else stream.name
        if name is not None and not ctx.may(Operation.DESCRIBE, ResourceType.TOPIC, name):
            entries[topic.topic_id or name] = _denied(ctx, topic)
        elif stream is not None:
            if stream.name not in entries:
                entries[stream.name] = await _known(ctx, request, stream)
        elif topic.topic_id:
            former = _former_name(ctx, topic.topic_id)
            unknown = {"error_code": ErrorCode.unknown_topic_id, "name": former, "topic_id": topic.topic_id}
            (entries if former is None else gone)[topic.topic_id] = _encoded(ctx, unknown)
        elif topic.name not in entries:
            entries[topic.name] = _unknown(ctx, request, topic.name)
    # A client that keeps one id for each name keeps the last: that of the topic that has the name now.
    return [*gone.values(), *entries.values()]


def _former_name(ctx: RequestContext, topic_id: UUID) -> str | None:
    """The name that the topic of an id had, if one had it, for a client that might describe a topic of that name."""
    name = ctx.services.topics.former_names.get(topic_id)
    return name if name is not None and ctx.has(Operation.DESCRIBE, ResourceType.TOPIC, name) else None


def _denied(ctx: RequestContext, topic: Message) -> bytes:
    """The entry of a topic that the client may not describe: what it said itself, whether there is such a topic or
    not."""
    named = {"topic_id": topic.topic_id, "name": None} if topic.topic_id else {"name": topic.name}
    is_internal = not topic.topic_id and topic.name in INTERNAL
    code = ErrorCode.topic_authorization_failed
    return _encoded(ctx, {"error_code": code, "is_internal": is_internal, **named})


def _may_create(ctx: RequestContext, name: str) -> bool:
    create = Operation.CREATE
    return ctx.has(create, ResourceType.CLUSTER) or ctx.may(create, ResourceType.TOPIC, name)


def _unknown(ctx: RequestContext, request: Message, name: str) -> bytes:
    """The entry of a topic that does not exist; its creation may begin now."""
    topics = ctx.services.topics
    code = ErrorCode.unknown_topic_or_partition
    try:
        topics.check_creatable(name)
        if request.allow_auto_topic_creation and topics.may_be_created(name):
            if not _may_create(ctx, name):
                return _encoded(
                    ctx,
                    {
                        "error_code": ErrorCode.topic_authorization_failed,
                        "name": name,
                        "is_internal": name in INTERNAL,
                    },
                )
            mutations = Mutations(ctx.services.quotas, ctx.principal.name, ctx.client_id, is_strict=True)
            topics.auto_create(name, mutations.charge, partial(tell_created, ctx))
    except Refusal as refused:
        code = refused.code
    return _encoded(ctx, {"error_code": code, "name": name, "is_internal": name in INTERNAL})


def _encoded(ctx: RequestContext, entry: Mapping[str, Any]) -> bytes:
    return bytes(response_codec(KEY, ctx.version).encode_item(("topics",), entry))


class _Cache:
    """Encoded topics, least recently used first, bounded in bytes."""

    def __init__(self) -> None:
        self._entries: OrderedDict[tuple[UUID, int, int], tuple[tuple[int, ...], bytes]] = OrderedDict()
        self._bytes = 0

    def get(self, key: tuple[UUID, int, int], state: tuple[int, ...]) -> bytes | None:
        found = self._entries.get(key)
        if found is None or found[0] != state:
            return None
        self._entries.move_to_end(key)
        return found[1]

    def put(self, key: tuple[UUID, int, int], state: tuple[int, ...], encoded: bytes) -> None:
        if old := self._entries.pop(key, None):
            self._bytes -= len(old[1])
        self._entries[key] = (state, encoded)
        self._bytes += len(encoded)
        while self._bytes > CACHE_BYTES_MAX:
            _, (_, evicted) = self._entries.popitem(last=False)
            self._bytes -= len(evicted)


_cache: Final = _Cache()
_being_made: Final[dict[tuple[object, ...], asyncio.Future[bytes]]] = {}
"""Entries of many partitions, by what they are of, while a thread makes them."""


async def _known(ctx: RequestContext, request: Message, stream: Stream) -> bytes:
    """The entry of a topic that exists."""
    operations = NOT_ASKED
    if request.include_topic_authorized_operations:
        operations = ctx.operations(ResourceType.TOPIC, stream.name)
    key = (stream.uuid, ctx.version, operations)
    leaders = leaders_of(ctx.services, stream)
    state = _places(stream.state, leaders)
    encoded = _cache.get(key, state)
    if encoded is None:
        make = partial(_entry, ctx.version, stream.state, leaders, operations)
        encoded = make() if stream.slot_count <= AT_ONCE else await _made_aside(ctx, (*key, state), make)
        _cache.put(key, state, encoded)
    return encoded


async def _made_aside(ctx: RequestContext, what: tuple[object, ...], make: Callable[[], bytes]) -> bytes:
    """Make an entry in a thread, if it is not being made already."""
    making = _being_made.get(what)
    if making is None:
        making = _being_made[what] = asyncio.ensure_future(ctx.connection.aside(make))
        making.add_done_callback(lambda _: _being_made.pop(what))
    return await asyncio.shield(making)


def _places(state: StreamState, leaders: Mapping[int, Leader]) -> tuple[int, ...]:
    """What a topic's entry follows from, beside its name: how many partitions there are, where each lies, who leads."""
    cut = state.current.epoch, state.container
    return (state.slots, *cut, *chain.from_iterable((container, *leader) for container, leader in leaders.items()))


def _entry(version: int, state: StreamState, leaders: Mapping[int, Leader], operations: int) -> bytes:
    """The entry of a topic. For any thread."""
    entry = {
        "error_code": ErrorCode.none,
        "name": state.name,
        "topic_id": state.uuid,
        "is_internal": state.name in INTERNAL,
        "partitions": _partitions(version, state, leaders),
        "topic_authorized_operations": operations,
    }
    return bytes(response_codec(KEY, version).encode_item(("topics",), entry))


def _partitions(version: int, state: StreamState, leaders: Mapping[int, Leader]) -> EncodedItems:
    """A sample of each container's partitions, with every index in its place."""
    count = state.slots
    samples = {container: _sample(version, leader) for container, leader in leaders.items()}
    if len(set(samples.values())) == 1:
        head, tail = next(iter(samples.values()))
        return EncodedItems(count, head + (tail + head).join(map(_INDEX.pack, range(count))) + tail)
    items: list[bytes] = [b""] * count
    for container, slots in state.slots_by_container().items():
        head, tail = samples[container]
        for index in slots:
            items[index] = head + _INDEX.pack(index) + tail
    return EncodedItems(count, b"".join(items))


def _sample(version: int, leader: Leader) -> tuple[bytes, bytes]:
    """The bytes of a partition before and after its index, which follows the two bytes of the error code."""
    replicas = [] if leader.error else [leader.node_id]
    partition = {
        "error_code": leader.error,
        "partition_index": _SAMPLE_INDEX,
        "leader_id": leader.node_id,
        "leader_epoch": leader.epoch,
        "replica_nodes": replicas,
        "isr_nodes": replicas,
        "offline_replicas": [],
    }
    sample = response_codec(KEY, version).encode_item(("topics", "partitions"), partition)
    assert _INDEX.unpack_from(sample, 2) == (_SAMPLE_INDEX,), "the index follows the error code"
    return bytes(sample[:2]), bytes(sample[6:])


def _error_response(request: Message, version: int, code: int) -> Mapping[str, Any]:
    topics = request.topics or []
    return {
        "controller_id": -1,
        "topics": [{"error_code": code, "name": t.name or "", "topic_id": t.topic_id} for t in topics],
        "cluster_authorized_operations": NOT_ASKED,
        "error_code": code,
    }


API: Final = Api(
    key=KEY,
    name="Metadata",
    versions=range(14),
    handle=metadata,
    error_response=_error_response,
    large_answer=True,
)
