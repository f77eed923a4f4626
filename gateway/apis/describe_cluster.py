"""DescribeCluster (key 60), versions 0-2.

v1 asks for a kind of endpoint (KIP-919): this one is a broker's. v2 also tells of fenced brokers (KIP-1073), if it is
asked for them: those that live no more, and were not unregistered.
"""

from collections.abc import Mapping
from typing import Any, Final

from kio.schema.errors import ErrorCode

from gateway.apis.shared.administration import NOT_ASKED, cluster_operations
from gateway.cluster.picture import Picture
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.wire.message import Message

BROKERS: Final = 1
CONTROLLERS: Final = 2


async def describe_cluster(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    if request.endpoint_type == CONTROLLERS:
        return _refused(
            ErrorCode.mismatched_endpoint_type,
            "The request was sent to an endpoint of type BROKER, but we wanted an endpoint of type CONTROLLER",
        )
    if request.endpoint_type != BROKERS:
        return _refused(
            ErrorCode.unsupported_endpoint_type,
            f"Unsupported endpoint type {request.endpoint_type}",
        )
    listener = ctx.connection.listener
    broker = ctx.services
    return {
        "endpoint_type": BROKERS,
        "cluster_id": broker.cluster_id,
        "controller_id": broker.node_id,
        "brokers": [
            {"broker_id": node_id, "host": host, "port": port, "is_fenced": False}
            for node_id, host, port in broker.nodes.addresses(listener)
        ]
        + (_fenced(broker.picture, listener.name) if request.include_fenced_brokers else []),
        "cluster_authorized_operations": (
            cluster_operations(ctx) if request.include_cluster_authorized_operations else NOT_ASKED
        ),
    }


def _fenced(picture: Picture, listener: str) -> list[Mapping[str, Any]]:
    """Where clients that come by a listener of this name reached the nodes that live no more."""
    ended = ((node.id, node.listeners.get(listener)) for node in picture.nodes() if node.end is not None)
    return [
        {"broker_id": node_id, "host": place[0], "port": place[1], "is_fenced": True}
        for node_id, place in ended
        if place is not None
    ]


def _refused(code: int, message: str | None = None) -> Mapping[str, Any]:
    return {
        "error_code": code,
        "error_message": message,
        "endpoint_type": BROKERS,
        "controller_id": -1,
        "cluster_authorized_operations": NOT_ASKED,
    }


API: Final = Api(
    key=60,
    name="DescribeCluster",
    versions=range(3),
    handle=describe_cluster,
    error_response=lambda request, version, code: _refused(code),
)
