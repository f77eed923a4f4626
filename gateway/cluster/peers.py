"""The connections of this node to the others: one each, made when first needed.

Invariant: a node that is known by another address has its old connection closed; there are as many as nodes.
"""

from __future__ import annotations

import asyncio

from gateway.cluster.nodes import Nodes
from gateway.cluster.peer import Peer


class Peers:
    """See the module."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self._peers: dict[int, Peer] = {}  # by node
        self._closing: set[asyncio.Task[None]] = set()

    def of_container(self, container_id: int) -> Peer | None:
        """The node that has a container; None if no other node has it, or it cannot be asked by nodes."""
        node = self._nodes.node_of(container_id)
        return None if node is None or not node.inner else self._peer(node.id, node.inner)

    def _peer(self, node_id: int, address: str) -> Peer:
        peer = self._peers.get(node_id)
        if peer is None or peer.address != address:
            if peer is not None:
                closing = asyncio.create_task(peer.close())
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)
            peer = self._peers[node_id] = Peer(address)
        return peer

    async def close(self) -> None:
        await asyncio.gather(*(peer.close() for peer in self._peers.values()), *self._closing)
        self._peers.clear()
