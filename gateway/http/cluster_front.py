"""The HTTP port of one node of a cluster, which answers for all nodes: each is asked at its inner HTTP port.

That port has the same application for nodes alone: both sides show a certificate of the cluster's own authority
(`gateway.cluster.authority`). What clients may do, each node decides by itself, with the user whom this one was told of
and the client's address.

Keeps: `/healthz`, `/readyz` and `/metrics` are this node's own, so that who watches it learns of it, and each node is
scraped once. A node that is not reached within `NODE_S`, or does not tell of itself, holds up nobody for longer; one
that was asked for a change or for records may take as long as a worker.
"""

from __future__ import annotations

import asyncio
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
"""Longest wait for one node that is dialled, or looked at."""
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
        return {str(node): in_time(by_tls(node, address, self._tls)) for node, address in known.items()}

    def closed(self) -> int:
        """How many nodes cannot be asked: their `http` is off."""
        return sum(not one.http for one in self._others().values())


def in_time(dial: Dial) -> Dial:
    """A way on which nobody waits for long: a machine that is off refuses nothing."""

    async def dialled() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        async with asyncio.timeout(NODE_S):
            return await dial()

    return dialled


class ClusterFront:
    """See the module. `own`: the application of this node."""

    def __init__(self, own: ASGIApp, doors: Doors, guard: Guard, phase: Callable[[], str]) -> None:
        self._own = own
        self._whole = front(doors, guard, phase, within_s=NODE_S, kind="node", closed=doors.closed)
        self._phase = phase

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asks_all = scope["type"] == "http" and scope["path"] not in OWN and self._phase() == "serving"
        await (self._whole if asks_all else self._own)(scope, receive, send)
