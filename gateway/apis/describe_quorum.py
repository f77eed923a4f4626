"""DescribeQuorum (key 55), versions 0-2; v1 adds times (KIP-836), v2 directories and endpoints (KIP-853).

Keeps: the store's log, which has every change of metadata, stands in for Kafka's metadata log; its only voter is this
broker. As in Kafka, a request that names any partition beside it finds all of them unknown.
"""

from collections.abc import Mapping
from itertools import islice
from typing import Any, Final

from kio.schema.errors import ErrorCode

from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.security.acls import Operation, ResourceType
from gateway.topics.topics import CLUSTER_METADATA
from gateway.wire.message import Message

NOT_HERE: Final = "This server does not host this topic-partition."
LISTENER: Final = "PLAINTEXT"


async def describe_quorum(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    ctx.require(Operation.DESCRIBE, ResourceType.CLUSTER)
    asked = ((topic.topic_name, part.partition_index) for topic in request.topics for part in topic.partitions)
    if list(islice(asked, 2)) != [(CLUSTER_METADATA, 0)]:
        return {"error_message": "", "topics": await ctx.connection.aside(_unknown, request)}
    partition = {**_partition(ctx), "error_message": ""}
    return {
        "error_message": "",
        "topics": [{"topic_name": CLUSTER_METADATA, "partitions": [partition]}],
        "nodes": [_node(ctx)],
    }


def _partition(ctx: RequestContext) -> dict[str, Any]:
    # The quorum is this node: the numbers are those of its first container, as far as it has any just now.
    container = next((hosted.container for hosted in ctx.services.store.containers.values()), None)
    now = ctx.services.clock.wall_ms()
    voter = {
        "replica_id": ctx.services.node_id,
        "log_end_offset": 0 if container is None else container.log.next_lsn,
        "last_fetch_timestamp": now,
        "last_caught_up_timestamp": now,
    }
    return {
        "partition_index": 0,
        "leader_id": ctx.services.node_id,
        "leader_epoch": 0 if container is None else container.epoch,
        "high_watermark": 0 if container is None else container.applied_lsn + 1,
        "current_voters": [voter],
    }


def _node(ctx: RequestContext) -> dict[str, Any]:
    listener = ctx.connection.listener
    reached = {"name": LISTENER, "host": listener.advertised_host, "port": listener.advertised_port}
    return {"node_id": ctx.services.node_id, "listeners": [reached]}


def _unknown(request: Message) -> list[dict[str, Any]]:
    """For any thread."""
    return [
        {
            "topic_name": topic.topic_name,
            "partitions": [
                {
                    "partition_index": part.partition_index,
                    "error_code": ErrorCode.unknown_topic_or_partition,
                    "error_message": NOT_HERE,
                }
                for part in topic.partitions
            ],
        }
        for topic in request.topics
    ]


API: Final = Api(
    key=55,
    name="DescribeQuorum",
    versions=range(3),
    handle=describe_quorum,
    error_response=lambda request, version, code: {"error_code": code},
)
