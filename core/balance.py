"""A node's part in spreading the load over its cluster: it tells how it is, and asks for moves if it decides.

All nodes look, and one of them asks: the one that has told its loads for longest. While two believe that they are it,
both may ask for a move; more cannot come of it.

**Invariant**: what goes wrong here moves nothing, and keeps nothing else from its work.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from core.background import Background
from core.cluster.balancing import Balancer, Move, Scene
from core.cluster.coordination import Life, Owner, Wish
from core.cluster.levels import Feature, allows
from core.cluster.loads import Load, Meter, Totals, weights_of
from core.store import Store

logger = logging.getLogger(__name__)

LOOK_S: Final = 1.0
TELL_S: Final = 10.0
"""How often loads are measured and told."""


class Moves(Protocol):
    """Takes requests for moves; the container's owner carries one out."""

    async def ask(self, container: int, node: int) -> bool:
        """Ask that a container goes to a node. False if it cannot, or need not. Raises StoreError."""


class Cluster(Moves, Protocol):
    """What is needed of the coordinator, see `core.cluster.coordination`."""

    @property
    def node(self) -> int: ...

    @property
    def level(self) -> int: ...

    @property
    def containers(self) -> Sequence[int]: ...

    def owners(self) -> Mapping[int, Owner]: ...

    def lives(self) -> Mapping[int, Life]: ...

    def wishes(self) -> Mapping[int, Wish]: ...

    def loads(self) -> Mapping[int, Mapping[int, Load]]: ...

    async def tell_loads(self, loads: Mapping[int, Load]) -> None: ...

    async def tell_troubles(self, troubles: Sequence[str]) -> None: ...


class Balance:
    """See the module. For the event loop; end it with `stop`."""

    def __init__(
        self,
        cluster: Cluster,
        totals: Callable[[], Mapping[int, Totals]],
        *,
        moves: bool = True,
        troubles: Callable[[], Sequence[str]] = tuple,
        has_travels: Callable[[], bool] = bool,
    ) -> None:
        """`totals`: what the containers of this node have done; `moves`: whether moves are asked for by itself;
        `troubles`: what is wrong with this node; `has_travels`: whether slots are on their way between nodes."""
        self._troubles = troubles
        self._cluster = cluster
        self._totals = totals
        self._moves = moves
        self._has_travels = has_travels
        self._meter = Meter()
        self._balancer = Balancer()
        self._tell_at_s = 0.0
        self._background = Background("balance of loads", None, self._look, retry_s=LOOK_S)

    def __repr__(self) -> str:
        return f"<Balance of node {self._cluster.node}: {self._balancer!r}>"

    def weights(self) -> Mapping[int, float]:
        """How heavy each container is, as far as anybody has told."""
        return self._balancer.weights

    def start(self) -> None:
        """Measure, tell and look from now on."""
        self._background.start()

    async def stop(self) -> None:
        """End. A move that was asked for goes on."""
        await self._background.stop()

    async def _look(self) -> float:
        await self._step(time.monotonic())
        return LOOK_S

    async def _step(self, now_s: float) -> None:
        if now_s >= self._tell_at_s:
            self._tell_at_s = now_s + TELL_S
            await self._cluster.tell_loads(self._meter.measure(self._totals(), time.thread_time(), now_s))
            await self._cluster.tell_troubles(self._troubles())
        cluster = self._cluster
        loads = cluster.loads()
        weights = weights_of(loads.values())
        scene = Scene(
            cluster.containers, cluster.owners(), cluster.lives(), cluster.wishes(), weights, self._has_travels()
        )
        move = self._balancer.look(scene, now_s)
        may_ask = self._moves and allows(cluster.level, Feature.WISHES)
        if move is not None and may_ask and next(iter(loads), None) == cluster.node:
            await self._ask(move)

    async def _ask(self, move: Move) -> None:
        told = {"container": move.container, "from": move.source, "to": move.target, "reason": move.reason}
        if await self._cluster.ask(move.container, move.target):
            logger.info("a container is to move", extra=told)


def totals_of(store: Store) -> dict[int, Totals]:
    """What the containers of a store have done since they were opened."""
    found: dict[int, Totals] = {}
    for hosted in store.containers.values():
        container, read = hosted.container, hosted.reader.counters
        served = (read.memory, read.log, read.chunk)
        found[hosted.id] = Totals(
            bytes_in=container.appended_bytes,
            bytes_out=sum(one.bytes for one in served),
            calls=container.log.next_lsn + sum(one.reads for one in served),
            log_bytes=container.log_bytes,
        )
    return found
