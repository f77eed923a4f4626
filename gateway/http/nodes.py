"""The nodes of the cluster over HTTP: each tells what it sees of all, and how it is itself.

Keeps: a node tells of another one only what the coordinator tells; how that one is, it says itself. So the front, which
asks all of them, shows one as `silent` that has not answered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from starlette.requests import Request
from starlette.responses import Response

from gateway.cluster.picture import NodeSeen
from gateway.http.desk import Desk, answered
from gateway.http.node_models import ContainerView, NodeList, NodeView
from gateway.http.openapi import Endpoint
from gateway.security.acls import Operation, ResourceType

CONCERNS_MAX = 20
CONCERN_CHARS_MAX = 300


class NodePages:
    """The operation. `unready`: why clients should rather go to another node; empty if they need not."""

    def __init__(self, desk: Desk, unready: Callable[[], str], concerns: Callable[[], Sequence[str]]) -> None:
        self._desk = desk
        self._unready = unready
        self._concerns = concerns

    def endpoints(self) -> Sequence[Endpoint]:
        told = "The nodes of the cluster, or the workers of this gateway, and who has which container"
        return (Endpoint("GET", "/api/v1/nodes", told, self._nodes, NodeList, problems=(403, 503)),)

    async def _nodes(self, request: Request) -> Response:
        sources = self._desk.ready()
        self._desk.access(request).require(Operation.DESCRIBE, ResourceType.CLUSTER)
        picture = sources.services.picture
        return answered(
            NodeList(
                time_ms=sources.clock.wall_ms(),
                certain=picture.is_certain,
                nodes=[self._node(one, sources.services.node_id) for one in picture.nodes()],
                containers=[
                    ContainerView(id=one.id, node=one.node, epoch=one.epoch, stage=one.stage, going_to=one.going_to)
                    for one in picture.containers()
                ],
            )
        )

    def _node(self, seen: NodeSeen, me: int) -> NodeView:
        if seen.id != me:
            return NodeView(
                id=seen.id,
                state="silent" if seen.end is None else seen.end,
                concerns=[],
                connections=None,
                gone_s=seen.ended_s,
                served=list(seen.served),
            )
        unready = self._unready()
        return NodeView(
            id=me,
            state="draining" if seen.is_draining else "not ready" if unready else "serving",
            concerns=[one[:CONCERN_CHARS_MAX] for one in (unready, *self._concerns()) if one][:CONCERNS_MAX],
            connections=self._desk.ready().services.metrics.connections_open,
            gone_s=None,
        )
