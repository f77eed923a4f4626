"""A look at a cluster from outside: who lives, who has which container, how busy it is. For people and their tools.

**Invariant**: an observer is no node: it has no life and claims nothing. It may ask for moves, and have nodes that have
gone forgotten.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Final

from core.clock import SystemClock
from core.cluster import etcd_keys
from core.cluster.etcd.client import EtcdClient, EtcdSettings
from core.cluster.etcd.mirror import Mirror
from core.cluster.etcd.session import Session
from core.cluster.etcd.wire import Put, Range, end_of, none_newer, unchanged
from core.cluster.etcd_coordination import EtcdCoordination
from core.cluster.etcd_members import EtcdMembers
from core.cluster.etcd_moves import EtcdMoves
from core.cluster.loads import weights_of
from core.cluster.wanted_moves import WantedMove
from core.errors import CoordinatorRefuses, CorruptState
from core.streams.state import decode_stream

NOBODY: Final = -1
"""In place of a node's id."""


@dataclass(frozen=True, slots=True)
class Renewal:
    """A lease: how long it lives without a renewal, and how long ago the last one was; whole seconds."""

    ttl_s: int
    age_s: int


class Observer:
    """See the module. Make it with `observed`."""

    def __init__(self, meta: etcd_keys.Meta, client: EtcdClient, mirror: Mirror, session: Session) -> None:
        self.meta = meta
        self.coordination = EtcdCoordination(client, mirror, session, node=NOBODY, containers=meta.containers, ttl_s=0)
        """What nodes know. No call that needs a life is for an observer."""
        self._client = client
        self._mirror = mirror
        self._session = session

    def __repr__(self) -> str:
        return f"<Observer of {self.meta.cluster}>"

    @property
    def epoch(self) -> int:
        """The last epoch that was given. Raises CorruptState."""
        return etcd_keys.number_of(self._mirror.values.get(etcd_keys.EPOCH), 0)

    def weights(self) -> Mapping[int, float]:
        """How heavy containers are, as far as anybody tells."""
        return weights_of(self.coordination.loads().values())

    def moves(self) -> Sequence[tuple[str, WantedMove]]:
        """Slots that are on their way to other nodes' containers, with the names of their streams, oldest first."""
        return [(self._name_of(one.place[0]), one) for one in EtcdMoves(self._mirror, self._session).wanted()]

    def _name_of(self, stream_id: int) -> str:
        row = self._mirror.values.get(etcd_keys.stream_key(stream_id))
        try:
            return f"stream {stream_id}" if row is None else decode_stream(row.value).name
        except CorruptState:
            return f"stream {stream_id}"

    async def forget(self, node: int) -> bool:
        """Forget a node that has gone. False if it lives, or is not known.

        Raises CoordinatorAway, CoordinatorRefuses.
        """
        members = EtcdMembers(self._mirror, self._session, self.coordination, SystemClock().wall_ms)
        return await members.forget(node)

    async def raise_level(self) -> int:
        """Raise the cluster's level to the highest that all nodes know, which live; returns it.

        One transaction, which fails if a node has joined meanwhile. Raises CoordinatorAway, CoordinatorRefuses.
        """
        meta_key, nodes = self._mirror.prefix + etcd_keys.META, self._mirror.prefix + etcd_keys.NODES
        meta_row = self._mirror.values.get(etcd_keys.META)
        read = await self._client.read(Range(nodes, end_of(nodes)))
        await self._mirror.reached(max((row.revision for row in read.keys), default=0))
        lives = self.coordination.lives().values()
        if meta_row is None or not lives or len(lives) != len(read.keys):
            raise CoordinatorRefuses("no node lives, or some cannot be read: start all nodes, then try again")
        level = min(life.level for life in lives)
        if level <= self.coordination.level:
            return self.coordination.level
        raised = Put(meta_key, replace(etcd_keys.Meta.decode(meta_row.value), level=level).encode())
        outcome = await self._session.change(
            (unchanged(meta_row, meta_key), none_newer(nodes, read.revision)), (raised,)
        )
        if not outcome.succeeded:
            raise CoordinatorRefuses("a node has come or changed meanwhile, and nothing was raised: try again")
        return level

    async def renewals(self) -> Mapping[int, Renewal]:
        """The leases of the nodes that live. Raises CoordinatorAway, CoordinatorRefuses."""
        leases = {
            node: row.lease
            for node in self.coordination.lives()
            if (row := self._mirror.values.get(b"%s%d" % (etcd_keys.NODES, node))) is not None
        }
        times = await asyncio.gather(*map(self._client.time_to_live, leases.values()))
        return {
            node: Renewal(granted_s, max(0, granted_s - left_s))
            for node, (granted_s, left_s) in zip(leases, times, strict=True)
            if left_s >= 0
        }


@asynccontextmanager
async def observed(settings: EtcdSettings, name: str) -> AsyncIterator[Observer]:
    """Observe the cluster of this name. Raises CoordinatorAway, CoordinatorRefuses, CorruptState."""
    prefix = etcd_keys.prefix_of(name)
    async with AsyncExitStack() as undo:
        client = EtcdClient(settings)
        undo.push_async_callback(client.close)
        mirror = await Mirror.open(client, prefix)
        undo.push_async_callback(mirror.close)
        row = mirror.values.get(etcd_keys.META)
        if row is None:
            raise CoordinatorRefuses(
                f"etcd has no cluster of the name {name!r}: check the name in --cluster; the first node that starts "
                "makes it. If etcd has lost its data, `penstock cluster rebuild` makes it anew"
            )
        session = Session(client, prefix)
        undo.push_async_callback(session.close)
        yield Observer(etcd_keys.Meta.decode(row.value), client, mirror, session)
