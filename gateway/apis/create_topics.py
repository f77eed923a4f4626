"""CreateTopics (key 19), versions 2-7.

v4 takes -1 as "the default" for partitions and replication factor (KIP-464), v5 answers with the
topic's configs (KIP-525), v7 with its id (KIP-516).

Keeps: each topic succeeds or fails alone, and is answered when it is durable. Replicas, which scripts
for a cluster ask for, are refused if they contradict themselves, and otherwise accepted: a topic has one
replica here, and the answer shows one.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from kio.schema.errors import ErrorCode

from core.streams.live import Stream
from gateway.apis.shared.administration import repeated, repeated_among, tell_created, told
from gateway.apis.shared.mutations import mutations_of, pause
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.refusals import Refusal
from gateway.security.acls import Operation, ResourceType
from gateway.topics.checks import PARTITIONS_PER_REQUEST_MAX, too_many_partitions
from gateway.topics.topics import NewTopic, WantedTopic
from gateway.wire.codec import response_codec
from gateway.wire.message import Message
from gateway.wire.primitives import EncodedItems

KEY: Final = 19
CONFIGS_FROM: Final = 5
STRICT_FROM: Final = 6
"""First version whose clients know that they are refused for their quota (KIP-599)."""
AT_ONCE: Final = 1_000
"""Assignments and configs of a topic that are looked at in one turn; more are, in a thread."""
DENIED: Final = Refusal(ErrorCode.topic_authorization_failed, "Authorization failed.")


async def create_topics(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    twice = await repeated_among(ctx, (topic.name for topic in request.topics))
    once = {topic.name: topic async for topic in ctx.paced(request.topics) if topic.name not in twice}
    may_create_any = ctx.has(Operation.CREATE, ResourceType.CLUSTER)
    mutations = mutations_of(ctx, STRICT_FROM)
    partitions = 0
    wanted: list[WantedTopic] = []
    denied: dict[str, Refusal] = {}
    async for name, topic in ctx.paced(list(once.items())):
        if not may_create_any and not ctx.may(Operation.CREATE, ResourceType.TOPIC, name):
            denied[name] = DENIED
            del once[name]
            continue
        partitions += _partitions_of(ctx, topic)
        if partitions > PARTITIONS_PER_REQUEST_MAX:
            continue  # none is made
        is_long = len(topic.assignments) + len(topic.configs) > AT_ONCE
        wanted.append(await ctx.connection.aside(_wanted, topic) if is_long else _wanted(topic))
    if partitions > PARTITIONS_PER_REQUEST_MAX:
        made: Sequence[NewTopic | Stream | Refusal] = [too_many_partitions()] * len(once)
    else:
        made = await ctx.services.topics.create(wanted, request.validate_only, mutations.charge)
    async for stream in ctx.paced(made):
        if isinstance(stream, Stream):
            tell_created(ctx, stream)
    outcomes: dict[str, NewTopic | Stream | Refusal] = {
        name: outcome async for name, outcome in ctx.paced(zip(once, made, strict=True))
    }
    outcomes |= denied
    duplicate = Refusal(ErrorCode.invalid_request, "Duplicate topic name.")
    outcomes |= dict.fromkeys(sorted(twice), duplicate)
    configs = _ConfigEntries(ctx)
    results = [_result(ctx, name, done, configs) async for name, done in ctx.paced(outcomes.items())]
    return {"throttle_time": pause(ctx, mutations), "topics": results}


def _partitions_of(ctx: RequestContext, topic: Message) -> int:
    if topic.assignments:
        return len(topic.assignments)
    default: int = ctx.services.config.num_partitions
    return default if topic.num_partitions == -1 else max(0, topic.num_partitions)


def _replication_refusal(topic: Message) -> Refusal | None:
    """The refusal of replicas that would be wrong in every cluster."""
    if topic.replication_factor == 0 or topic.replication_factor < -1:
        return Refusal(
            ErrorCode.invalid_replication_factor,
            "Replication factor must be larger than 0, or -1 to use the default value.",
        )
    if not topic.assignments:
        return None
    if topic.replication_factor != -1:
        return Refusal(
            ErrorCode.invalid_request,
            "A manual partition assignment was specified, but replication factor was not set to -1.",
        )
    if topic.num_partitions != -1:
        return Refusal(
            ErrorCode.invalid_request,
            "A manual partition assignment was specified, but numPartitions was not set to -1.",
        )
    return _assignment_refusal(topic.assignments)


def _assignment_refusal(assignments: list[Message]) -> Refusal | None:
    numbers = [assignment.partition_index for assignment in assignments]
    why = None
    if twice := repeated(numbers):
        why = f"Found multiple manual partition assignments for partition {min(twice)}"
    elif sorted(numbers) != list(range(len(numbers))):
        why = "partitions should be a consecutive 0-based integer sequence"
    else:
        why = replicas_refused([assignment.broker_ids for assignment in assignments])
    return None if why is None else Refusal(ErrorCode.invalid_replica_assignment, why)


def replicas_refused(assignments: list[list[int]]) -> str | None:
    """Kafka's words for lists of replicas that no cluster could have."""
    for brokers in assignments:
        if not brokers:
            return "The manual partition assignment includes an empty replica list."
        if len(set(brokers)) < len(brokers):
            return f"The manual partition assignment includes the broker {min(repeated(brokers))} more than once."
        if len(brokers) != len(assignments[0]):
            return (
                f"The manual partition assignment includes a partition with {len(brokers)} "
                "replica(s), but this is not consistent with previous partitions, which have "
                f"{len(assignments[0])} replica(s)."
            )
    return None


def _wanted(topic: Message) -> WantedTopic:
    """For any thread."""
    return WantedTopic(
        topic.name,
        len(topic.assignments) or topic.num_partitions,
        {config.name: config.value for config in topic.configs},
        _replication_refusal(topic),
    )


class _ConfigEntries:
    """Effective configs of new topics, encoded once for all topics with the same overrides."""

    def __init__(self, ctx: RequestContext) -> None:
        self._ctx = ctx
        self._known: dict[frozenset[tuple[str, str]], EncodedItems] = {}

    def of(self, overrides: Mapping[str, str]) -> EncodedItems | None:
        if self._ctx.version < CONFIGS_FROM:
            return None
        key = frozenset(overrides.items())
        if key not in self._known:
            self._known[key] = self._encode(overrides)
        return self._known[key]

    def _encode(self, overrides: Mapping[str, str]) -> EncodedItems:
        codec = response_codec(KEY, self._ctx.version)
        items = [
            codec.encode_item(
                ("topics", "configs"),
                {
                    "name": config.name,
                    "value": config.value,
                    "read_only": config.read_only,
                    "config_source": config.source,
                    "is_sensitive": False,
                },
            )
            for config in self._ctx.services.topics.configs.describe_topic(overrides)
        ]
        return EncodedItems(len(items), b"".join(items))


def _result(
    ctx: RequestContext, name: str, outcome: NewTopic | Stream | Refusal, configs: _ConfigEntries
) -> dict[str, Any]:
    if isinstance(outcome, Refusal):
        return {"name": name, "configs": [], **told(outcome)}
    if isinstance(outcome, Stream):
        topic_id: UUID | None = outcome.uuid
        partitions, overrides = outcome.slot_count, outcome.config
    else:  # only checked
        topic_id = None
        partitions, overrides = outcome.partitions, outcome.overrides
    if not ctx.has(Operation.DESCRIBE_CONFIGS, ResourceType.TOPIC, name):
        return {
            "name": name,
            "topic_id": topic_id,
            "topic_config_error_code": ErrorCode.topic_authorization_failed,
            "num_partitions": -1,
            "replication_factor": -1,
            "configs": [],
            **told(None),
        }
    return {
        "name": name,
        "topic_id": topic_id,
        "num_partitions": partitions,
        "replication_factor": 1,
        "configs": configs.of(overrides),
        **told(None),
    }


def _error_response(request: Message, version: int, code: int) -> Mapping[str, Any]:
    return {"topics": [{"name": topic.name, "configs": [], "error_code": code} for topic in request.topics]}


API: Final = Api(
    key=KEY,
    name="CreateTopics",
    versions=range(2, 8),
    handle=create_topics,
    error_response=_error_response,
)
