"""The connections of this node to the others: one each, made when first needed.

Invariant: a node that has gone, or is known by another address, has its old connection closed, and what was asked of it
fails at once; there are as many as nodes.
"""

from __future__ import annotations

import asyncio

from gateway.cluster.authority import NodeTls
from gateway.cluster.nodes import Node, Nodes
from gateway.cluster.peer import Peer, by_socket_file, by_tls


class Peers:
    """See the module. `tls`: how this node proves to others that it is one; None on one machine."""

    def __init__(self, nodes: Nodes, tls: NodeTls | None = None) -> None:
        self._nodes = nodes
        self._tls = tls
        self._peers: dict[int, Peer] = {}  # by node
        self._closing: set[asyncio.Task[None]] = set()

    def of_container(self, container_id: int) -> Peer | None:
        """The node that has a container; None if no other node has it, or it cannot be asked by nodes."""
        node = self._nodes.node_of(container_id)
        return None if node is None or not node.inner else self._peer(node)

    def follow(self) -> None:
        """The others may have changed: nobody waits for one that has gone."""
        for node_id, peer in list(self._peers.items()):
            node = self._nodes.others.get(node_id)
            if node is None or node.inner != peer.address:
                self._close(self._peers.pop(node_id))

    def _peer(self, node: Node) -> Peer:
        peer = self._peers.get(node.id)
        if peer is None or peer.address != node.inner:
            if peer is not None:
                self._close(peer)
            tls = self._tls
            dial = by_socket_file(node.inner) if tls is None else by_tls(node.id, node.inner, tls)
            peer = self._peers[node.id] = Peer(node.inner, dial)
        return peer

    def _close(self, peer: Peer) -> None:
        closing = asyncio.create_task(peer.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        await asyncio.gather(*(peer.close() for peer in self._peers.values()), *self._closing)
        self._peers.clear()
