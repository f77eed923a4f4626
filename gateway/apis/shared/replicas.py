"""Fetches in the name of a replica: none is served.

Keeps: such a fetch moves nothing, and hears of no topic that its client may not read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.apis.shared.fetch_request import TOPIC_IDS_SINCE
from gateway.security.acls import CLUSTER_NAME, Operation, ResourceType
from gateway.wire.error_codes import NOT_LEADER_OR_FOLLOWER, TOPIC_AUTHORIZATION_FAILED
from gateway.wire.responses import FetchedPartition, TopicKey, encode_fetch_response

if TYPE_CHECKING:
    from gateway.network.connection import Connection
    from gateway.network.response_slot import Part
    from gateway.wire.message import Message

REPLICA_STATE_SINCE: Final = 15


def is_replicas(version: int, request: Message) -> bool:
    """Whether a Fetch says that a replica sends it."""
    replica_id: int = request.replica_state.replica_id if version >= REPLICA_STATE_SINCE else request.replica_id
    return replica_id >= 0


def code_for_replica(connection: Connection) -> int:
    """A replica needs the right of one, before it hears that none is served."""
    authorizer = connection.services.authorizer
    if authorizer is None:
        return NOT_LEADER_OR_FOLLOWER
    rights = authorizer.rights_of(connection)
    is_broker = rights.may(Operation.CLUSTER_ACTION, ResourceType.CLUSTER, CLUSTER_NAME, "Fetch")
    return NOT_LEADER_OR_FOLLOWER if is_broker else TOPIC_AUTHORIZATION_FAILED


def refuse_replica(version: int, request: Message, code: int) -> list[Part]:
    """The answer with this code for every partition. For any thread."""
    topics: list[tuple[TopicKey, list[FetchedPartition]]] = [
        (
            topic.topic_id if version >= TOPIC_IDS_SINCE else topic.topic,
            [FetchedPartition(p.partition, code) for p in topic.partitions],
        )
        for topic in request.topics
    ]
    return encode_fetch_response(version, topics)
