"""A broker among other nodes: whom it knows, how they reach it, and the part that it takes in a cluster.

Keeps: clients hear of other nodes what these have told of themselves. A node takes containers of a cluster only after
it has told the others how it is reached. At a stop clients find the next owners while this node still answers.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

from core.balance import Balance, totals_of
from core.clock import Clock
from core.cluster.following import Changed
from core.cluster.levels import Feature, allows
from core.membership import Membership, Services
from core.relocation import Relocation
from core.spread import Spread
from core.store import Store
from gateway.cluster.authority import NodeTls
from gateway.cluster.nodes import Node, Nodes, owners_of
from gateway.cluster.peers import Peers
from gateway.cluster.picture import Picture
from gateway.cluster.pulse import Mourning, Pulse
from gateway.cluster.seat import Seat, inner_address
from gateway.cluster.settings_keeper import SettingsKeeper, public_rows, settings_key
from gateway.cluster.vacancies import Vacancies
from gateway.config.addresses import ListenAddress
from gateway.config.loading import Config
from gateway.network.binding import Binding, CannotListen, bind
from gateway.observers import Observers
from tier2.storage import Storage

if TYPE_CHECKING:
    from core.cluster.sqlite_registry import SqliteRegistry

logger = logging.getLogger(__name__)

Address = tuple[str, int]


class Standing:
    """See the module. Alone, if there is neither a registry of workers nor a seat in a cluster."""

    def __init__(
        self,
        config: Config,
        nodes: Nodes,
        listeners: dict[str, Address],
        store: Store,
        clock: Clock,
        observers: Observers,
        *,
        registry: SqliteRegistry | None,
        seat: Seat | None,
        inner: Binding | None,
    ) -> None:
        """`listeners`: where clients reach this node, by the listener's name; `inner`: where other workers do.

        Binds the ports for nodes of other machines. Raises CannotListen.
        """
        self._config = config
        self._listeners = listeners
        self._store = store
        self._observers = observers
        self._registry = registry
        self._seat = seat
        self.nodes = nodes
        self.inner = inner
        self.node_tls: NodeTls | None = None
        self._membership: Membership | None = None
        self.balance: Balance | None = None
        self._relocation: Relocation | None = None
        self._spread: Spread | None = None
        self._keeper: SettingsKeeper | None = None
        self._pulse: Pulse | None = None
        self._mourning: Mourning | None = None
        if seat is not None:
            self._open_door(seat)
        coordination = None if seat is None else seat.coordination
        self.peers = Peers(nodes, self.node_tls)
        self.picture = Picture(nodes, self._epochs, coordination, clock.wall_ms)
        self.vacancies = Vacancies(nodes, () if coordination is None else coordination.containers)

    def __repr__(self) -> str:
        return f"<Standing of {self.nodes.me} among {len(self.nodes.others)}>"

    @property
    def unready(self) -> str:
        """Why a client should rather go to another node of the cluster; empty if it need not."""
        return "" if self._membership is None else self._membership.unready

    @property
    def forget(self) -> Callable[[int], Awaitable[bool]] | None:
        """Forgets a node that has gone; None where nobody remembers any."""
        return None if self._seat is None else self._seat.forget

    @property
    def concern(self) -> str:
        """What keeps the copy of the settings from being made; empty if nothing does."""
        return "" if self._keeper is None else self._keeper.concern

    def may_write(self, feature: Feature) -> bool:
        """Whether every node that may read it knows what a feature writes. All workers of a gateway are of one
        release."""
        return self._seat is None or allows(self._seat.coordination.level, feature)

    def _open_door(self, seat: Seat) -> None:
        """Bind the port for nodes of other machines, and prepare to ask them."""
        if seat.authority is None:
            return
        address = inner_address(self._config, seat, self._config.cluster_listen)
        if address is None:
            logger.warning("other nodes cannot ask this one: set cluster.listen, as its way to etcd is not known")
            return
        self.node_tls = seat.authority.node(self.nodes.me)
        self.inner = bind(address, inner=True)
        at = inner_address(self._config, seat, self._config.cluster_http_listen)
        self._observers.join(self.nodes, self.node_tls, at)

    # What nodes tell

    def _epochs(self) -> dict[int, int]:
        return {hosted.id: hosted.container.epoch for hosted in self._store.containers.values()}

    def _myself(self) -> Node:
        """This node, as others see it."""
        return Node(
            id=self.nodes.me,
            listeners=self._listeners,
            containers=self._epochs(),
            inner="" if self.inner is None else self.inner.place,
            pulse=None if self._pulse is None else self._pulse.address,
            http=self._observers.inner_place,
        )

    async def tell_workers(self) -> None:
        """Have other workers tell clients of this one, now and whenever an epoch rises. Raises StoreError."""
        if self._registry is not None:
            self._store.on_risen = partial(self._tell, self._registry)
            await self._tell(self._registry)

    async def _tell(self, registry: SqliteRegistry) -> None:
        await registry.tell_node(self.nodes.me, self._myself().encode())

    def look(self) -> None:
        """See what the other nodes tell of themselves now."""
        if self._seat is not None:
            self.nodes.replace(owners_of(self._seat.coordination.nodes(), self._seat.coordination))
        elif self._registry is not None:
            self.nodes.replace(Node.decode(node_id, told) for node_id, told in self._registry.nodes().items())
        self.peers.follow()
        self.vacancies.look()

    def followed(self, changed: Changed) -> None:
        """Another node, or this one, has changed what all share."""
        if changed.nodes:
            self.look()
        if self._keeper is not None and changed.kinds:
            self._keeper.changed()

    # The part in a cluster

    async def take_part(self, services: Services, troubles: Callable[[], list[str]], settings: Storage | None) -> None:
        """Take and serve containers of the cluster from now on, if there is one; tell others of `troubles`, and keep a
        copy of what nodes share in `settings`, for the day on which etcd has lost it. Raises CannotListen, StoreError.
        """
        if self._seat is None:
            return
        seat, coordination = self._seat, self._seat.coordination
        if seat.moves is not None:
            self._relocation = Relocation(coordination, seat.moves, self._store)
        self.balance = Balance(
            coordination,
            partial(totals_of, self._store),
            moves=seat.rebalances,
            troubles=troubles,
            has_travels=lambda: self._relocation is not None and self._relocation.is_at_work,
        )
        self._membership = Membership(
            coordination,
            self._store,
            services,
            seat.fence,
            weights=self.balance.weights,
            rebalances=seat.rebalances,
        )
        coordination.on_changed(self.look)
        self._pulse, self._mourning = Pulse(coordination), Mourning(coordination)
        wanted = self._config.cluster_pulse_listen
        if (address := inner_address(self._config, seat, wanted)) is not None:
            await _start_pulse(self._pulse, address, must=wanted is not None)
        await coordination.tell(self._myself().encode())
        self.look()
        self._mourning.start()
        if settings is not None:
            self._keep_settings(seat, settings)
        self._membership.start()
        self.balance.start()
        if self._relocation is not None:
            self._relocation.start()
            if seat.rebalances:
                self._spread = Spread(coordination, self._relocation, self._store, self.balance.weights)
                self._spread.start()

    def _keep_settings(self, seat: Seat, storage: Storage) -> None:
        if seat.settings is None:
            return
        is_public, key = public_rows(self._config), settings_key(self._config)
        self._keeper = SettingsKeeper(storage, seat.cluster_id, seat.coordination, seat.settings, is_public, key)
        seat.coordination.on_changed(self._keeper.look)
        self._keeper.start()

    async def hand_over(self) -> None:
        """Give up the part, while this node still answers."""
        if self.balance is not None:
            await self.balance.stop()
        if self._spread is not None:
            await self._spread.stop()
        if self._relocation is not None:
            await self._relocation.stop()
        if self._keeper is not None:
            await self._keeper.stop()
        if self._membership is not None:
            await self._membership.drain(self._config.shutdown_drain_ms / 1000)
            await self._membership.stop()
        if self._mourning is not None:
            await self._mourning.close()

    async def close(self) -> None:
        """Leave: the store is closed, nothing of this node is served any more."""
        if self._membership is not None:
            await self._membership.close()
        await self.peers.close()
        if self._registry is not None:
            await self._registry.close()
        if self._seat is not None:
            await self._seat.leave()
        if self._pulse is not None:
            await self._pulse.close()


async def _start_pulse(pulse: Pulse, address: ListenAddress, *, must: bool) -> None:
    """Without it others wait for the lease, so it is no error if that cannot be, unless it `must`: then raises
    CannotListen."""
    try:
        binding = bind(address)
    except CannotListen as error:
        if must:
            raise
        logger.warning("other nodes notice this node's end by its lease only", extra={"reason": str(error)})
    else:
        await pulse.start(binding.sockets, (binding.advertised_host, binding.advertised_port))
