"""The HTTP port of one node of a cluster, which answers for all nodes: each is asked at its inner HTTP port.

That port has the same application for nodes alone: both sides show a certificate of the cluster's own authority
(`gateway.cluster.authority`). What clients may do, each node decides by itself, with the user whom this one was told of
and the client's address.

Keeps: `/healthz`, `/readyz` and `/metrics` are this node's own, so that who watches it learns of it, and each node is
scraped once. A node that does not answer within `NODE_S` holds up nobody for longer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.cluster.authority import NodeTls
from gateway.cluster.nodes import Node
from gateway.cluster.peer import by_tls
from gateway.http.exchange import Dial
from gateway.http.front import front
from gateway.http.guard import Guard

NODE_S: Final = 2.0
"""Longest wait for one node."""
OWN: Final = frozenset({"/healthz", "/readyz", "/metrics"})


class Doors:
    """The ways to the inner HTTP ports of all nodes that have one, by node."""

    def __init__(self, me: int, own: str, others: Callable[[], Mapping[int, Node]], tls: NodeTls) -> None:
        self._me = me
        self._own = own
        self._others = others
        self._tls = tls

    def __repr__(self) -> str:
        return f"<Doors of {len(self._others()) + 1} nodes>"

    def __call__(self) -> Mapping[str, Dial]:
        known = {one.id: one.http for one in self._others().values() if one.http} | {self._me: self._own}
        return {str(node): by_tls(node, address, self._tls) for node, address in known.items()}


class ClusterFront:
    """See the module. `own`: the application of this node."""

    def __init__(self, own: ASGIApp, doors: Doors, guard: Guard, phase: Callable[[], str]) -> None:
        self._own = own
        self._whole = front(doors, guard, phase, within_s=NODE_S, kind="node")
        self._phase = phase

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asks_all = scope["type"] == "http" and scope["path"] not in OWN and self._phase() == "serving"
        await (self._whole if asks_all else self._own)(scope, receive, send)
