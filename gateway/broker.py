"""One broker: every service, made in the order of their dependence, ended in reverse.

Keeps: clients are served only when everything below them is recovered. At a stop, requests under way are
answered before the services that answer them end. Handlers reach `Services`, and nothing else of the broker.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from core.balance import Balance, totals_of
from core.clock import Clock, SystemClock
from core.cluster.following import Changed
from core.cluster.sqlite_registry import SqliteRegistry
from core.config import StoreConfig
from core.hosted import HostedContainer
from core.membership import Membership
from core.relocation import Relocation
from core.spread import Spread
from core.store import Store
from core.streams.live import Slot
from core.tiering.context import LongTermStorage
from gateway import __version__
from gateway.apis import discover
from gateway.apis.shared.features import SUPPORTED_FEATURES
from gateway.cluster.authority import NodeTls
from gateway.cluster.nodes import Node, Nodes, owners_of
from gateway.cluster.peers import Peers
from gateway.cluster.picture import Picture
from gateway.cluster.pulse import Mourning, Pulse
from gateway.cluster.seat import Seat, check_cluster, inner_address, take_seat
from gateway.cluster.settings_keeper import SettingsKeeper, public_rows, settings_key
from gateway.cluster.vacancies import Vacancies
from gateway.config.addresses import ListenAddress
from gateway.config.layers import ConfigError
from gateway.config.loading import Config
from gateway.coordination.homes import Homes
from gateway.coordination.opening import Openings
from gateway.data_directory import (
    DRILL_DIRECTORY,
    REPAIRED_FILE,
    SCRAM_USERS_FILE,
    DataDirectory,
    is_drill,
)
from gateway.dispatch.dispatcher import Dispatcher
from gateway.dispatch.registry import Registry
from gateway.fetching.sessions import FetchSessions
from gateway.gauges import offer_budgets, offer_container, offer_services
from gateway.groups.consumer.format import CONSUMER_TABLE
from gateway.groups.coordinators import GroupCoordinators
from gateway.groups.elsewhere import Elsewhere
from gateway.groups.persistence import GROUPS_TABLE, OFFSETS_TABLE
from gateway.groups.settings import settings_of, streams_settings_of
from gateway.groups.share.coordinators import ShareCoordinators
from gateway.groups.share.dead_letters import DeadLetters
from gateway.groups.share.elsewhere import ShareElsewhere
from gateway.groups.share.format import GROUPS_TABLE as SHARE_GROUPS_TABLE
from gateway.groups.share.format import PARTITIONS_TABLE as SHARE_PARTITIONS_TABLE
from gateway.groups.share.partitions import SharePartitions
from gateway.groups.share.service import ShareGroups
from gateway.groups.share.sessions import ShareSessions
from gateway.groups.share.settings import share_settings
from gateway.groups.streams.format import STREAMS_TABLE
from gateway.internal_topics.readable import ReadableTopics
from gateway.internal_topics.topics import InternalTopics
from gateway.kafka_configs.broker_configs import SETTINGS as BROKER_CONFIGS
from gateway.kafka_configs.broker_configs import BrokerConfigs
from gateway.kafka_configs.features import TABLE as FEATURES
from gateway.kafka_configs.features import FinalizedFeatures
from gateway.kafka_configs.keys import ResourceType
from gateway.kafka_configs.resource_configs import SETTINGS as RESOURCE_CONFIGS
from gateway.kafka_configs.resource_configs import ResourceConfigs
from gateway.long_term.identity import Admission
from gateway.long_term.log_objects import check_conditions, check_containers, of_cluster
from gateway.long_term.opening import is_private, open_storage, place_of, storage_of_log, worker_setup
from gateway.long_term.ownership import BEAT_S, Owner
from gateway.metrics.counters import Metrics
from gateway.network.binding import Binding, CannotListen, bind
from gateway.network.descriptors import shares_of_this_process
from gateway.network.server import Server
from gateway.network.serving_limits import offer_connections, offer_sasl, offer_tls, server_limits
from gateway.observers import Observers
from gateway.quotas.quotas import TABLE as QUOTAS
from gateway.quotas.quotas import Quotas
from gateway.records.openers import Openers
from gateway.records.record_batch import entry_head
from gateway.records.walking import validates_fully
from gateway.security import scram_users
from gateway.security.acl_format import TABLE as ACLS
from gateway.security.audit import open_audit
from gateway.security.authorizer import Authorizer
from gateway.security.delegation_rows import TABLE as DELEGATION_TOKENS
from gateway.security.delegation_tokens import DelegationTokens
from gateway.security.listeners import http_security, renew_for_ever, secured_listeners
from gateway.security.scram_users import TABLE as USERS
from gateway.security.scram_users import ScramUsers
from gateway.services import Services
from gateway.telemetry.receiver import Telemetry
from gateway.topics.topics import Topics
from gateway.transactions.coordinators import TransactionCoordinators
from gateway.transactions.producer_admission import NewProducers
from gateway.transactions.producer_ids import ProducerIds
from tier2.retrying import RetryingStorage
from tier2.storage import Storage, StorageError

logger = logging.getLogger(__name__)

STOP_GRACE_S: Final = 5.0
"""Time for requests under way at a stop; a fetch or a join may wait much longer, and is cut off."""
ABANDON_GRACE_S: Final = 0.5
"""Time after a storage failure for its error to reach the producers that wait."""

BEAT_S_MIN: Final = 1.0
"""Shortest pause between two looks whether this gateway still owns its prefix. A look comes before deleted objects are
removed, if possible."""
RELEASE_S: Final = 2.0
"""Longest wait of a stop to release its prefix in long-term storage; if it fails, the next start of a copy must check
whether this gateway lives."""

CONCERNS_MAX: Final = 20
CONCERN_CHARS_MAX: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What a worker serves of a gateway of several: its node id, the containers it opens, how it reaches the others."""

    node_id: int
    hosts: tuple[int, ...]
    registry: Path
    """The file that all workers share."""
    inner: Binding | None
    """Where other workers reach this one; None if there are no others."""
    told: Callable[[], None]
    """Tells the others that the registry has changed."""


class Broker:
    """Makes, starts and ends the services that handlers reach as `ctx.services`."""

    store: Store
    topics: Topics
    producers: ProducerIds
    new_producers: NewProducers
    groups: GroupCoordinators
    share: ShareGroups
    transactions: TransactionCoordinators
    fetch_sessions: FetchSessions
    scram_users: ScramUsers
    delegation_tokens: DelegationTokens
    apis: Registry
    _peers: Peers

    def __init__(
        self,
        config: Config,
        data: DataDirectory,
        kafka: Sequence[Binding],
        http: Binding | None,
        clock: Clock | None = None,
        *,
        take_over: bool = False,
        part: Part | None = None,
        seat: Seat | None = None,
    ) -> None:
        """`part`: what this worker serves of a gateway of several; `seat`: the cluster that this node is one of."""
        self.config = config
        self.node_id = config.node_id if part is None else part.node_id
        self._part = part
        self.nodes = Nodes(self.node_id, self._is_here)
        self._inner = None if part is None else part.inner
        self._node_tls: NodeTls | None = None
        self._registry: SqliteRegistry | None = None
        self._seat = seat
        self._membership: Membership | None = None
        self._balance: Balance | None = None
        self._relocation: Relocation | None = None
        self._spread: Spread | None = None
        self._keeper: SettingsKeeper | None = None
        self._pulse: Pulse | None = None
        self._mourning: Mourning | None = None
        self.cluster_id = data.cluster_id
        self.clock = clock or SystemClock()
        self.metrics = Metrics()
        self.openers = Openers()
        self.phase = "starting"
        self._shares = shares_of_this_process(config)
        self._data = data
        self._kafka = kafka
        self._server: Server | None = None
        self._storage: RetryingStorage | None = None
        self._log_puts: Storage | None = None
        self._long_term: LongTermStorage | None = None
        self._admission: Admission | None = None
        self._take_over = take_over
        self._remarks: list[str] = []  # about the bucket
        self._secured = secured_listeners(config)
        self._http_security = http_security(config)
        is_inner = part is not None and part.inner is not None
        self._observers = Observers(self, config, http, self._http_security, self._shares.http, is_inner=is_inner)
        self._renewing: asyncio.Task[None] | None = None
        self.authorizer: Authorizer | None = None

    def __repr__(self) -> str:
        return f"<Broker {self.node_id} of {self.cluster_id}, {self.phase}>"

    @property
    def ready(self) -> bool:
        return self.phase == "serving"

    @property
    def unready(self) -> str:
        """Why a client should rather go to another node of the cluster; empty if it need not."""
        return "" if self._membership is None else self._membership.unready

    @property
    def healthy(self) -> bool:
        return self.phase != "failed"

    def _told_to_all(self) -> list[str]:
        """What is wrong with this node, for those who look at the cluster."""
        return [one for one in (self.unready, *self.concerns) if one]

    @property
    def concerns(self) -> list[str]:
        """Facts that an operator should know although clients are served; a few sentences."""
        told = (one for hosted in self._containers() for one in hosted.concerns())
        found = [one[:CONCERN_CHARS_MAX] for one in (*told, *self._remarks)]
        if self._admission is not None and not self._admission.has_taken:
            found.append(f"{self._admission.place} has no room: its data is served, nothing more is moved there")
        if self._keeper is not None and self._keeper.concern:
            found.append(self._keeper.concern[:CONCERN_CHARS_MAX])
        return found[:CONCERNS_MAX]

    # --- Start and stop -----------------------------------------------------------------------

    async def open_long_term(self) -> None:
        """Reach long-term storage, and check its owner. Raises an error if it cannot be used."""
        self._storage = await open_storage(self.config, remark=self._remarked)
        if self._storage is None:
            return
        holds_log = self.config.log_store == "object"
        if holds_log:
            if self.config.cluster_fence != "verify":
                await check_conditions(self._storage, place_of(self.config))
            self._data = await of_cluster(self._data, self._storage, place_of(self.config), __version__)
            if self.config.cluster:
                self._seat = await take_seat(self.config, self._data.cluster_id)
                if self._data.fresh:
                    self._data = await asyncio.to_thread(self._data.of_cluster, self._seat.cluster_id, __version__)
                check_cluster(self._seat, self._data.cluster_id, str(self._data.path))
            self.cluster_id = self._data.cluster_id
            self._log_puts = storage_of_log(self.config, self._data.layout.containers)
        admission = Admission(
            self._storage,
            place_of(self.config),
            self._data.path,
            self.cluster_id,
            self._data.fresh,
            beat_s=max(min(BEAT_S, self.config.file_delete_delay_ms / 2000), BEAT_S_MIN),
            take_over=self._take_over,
            drill=is_drill(self._data.path),
            beside=self._seat is not None or (self._part is not None and self._part.inner is not None),
            private=is_private(self.config),
            holds_log=holds_log,
        )
        if admission.drill:
            logger.warning(
                "this is a drill: it reads long-term storage, and puts new chunks below the data directory",
                extra={"reads": admission.place, "writes": str(self._data.path / DRILL_DIRECTORY)},
            )
        await admission.look()
        if holds_log:
            await check_containers(self._storage, place_of(self.config), self._data.layout.containers)
        self._admission = admission
        self._long_term = LongTermStorage(
            storage=self._storage,
            log_puts=self._log_puts,
            cluster_id=self.cluster_id,
            head_of=entry_head,
            admit=admission.admit,
            had_another_life=(self._data.path / REPAIRED_FILE).exists(),
            rewriting=worker_setup(self.config),
            promised=frozenset(
                {GROUPS_TABLE, CONSUMER_TABLE, STREAMS_TABLE, OFFSETS_TABLE, SHARE_GROUPS_TABLE, SHARE_PARTITIONS_TABLE}
            ),
            private=frozenset({scram_users.TABLE}),
        )

    def _remarked(self, remark: str) -> None:
        logger.warning("long-term storage: %s", remark)
        self._remarks.append(remark)

    async def start(self) -> None:
        """Recover and serve. Raises the store's errors when it cannot be opened."""
        self.phase = "recovering"
        self._observers.start()
        configs = BrokerConfigs(self.config)
        part = self._part
        if part is not None:
            self._registry = await SqliteRegistry.open(part.registry, part.told)
        self.store = await Store.open(
            self._data.store,
            self._store_config(),
            configs.policy_for,
            self.clock,
            self._long_term,
            shared=self._registry if self._seat is None else self._seat.registry,
            hosts=() if self._seat is not None else None if part is None else part.hosts,
        )
        (self._data.path / REPAIRED_FILE).unlink(missing_ok=True)
        self.topics = Topics(self.config, self.store, configs)
        self.resource_configs = ResourceConfigs(self.store, self.config)
        if self.config.authorizer_class_name:
            self.authorizer = Authorizer(self.config, self.store, open_audit(self.config))
        self.internal_topics = InternalTopics(self.config, self.store, self.clock, self.cluster_id, configs.policy_for)
        self.all_topics = ReadableTopics(self.topics, self.internal_topics)
        self.features = FinalizedFeatures(self.store, SUPPORTED_FEATURES, self.node_id)
        self.telemetry = Telemetry(self.config, self.resource_configs, self.clock)
        self.delegation_tokens = DelegationTokens(self.config, self.store, self.clock)
        self.scram_users = await self._open_users()
        self.quotas = Quotas(self.store, self.clock)
        self.producers = ProducerIds(self.store)
        self.new_producers = NewProducers(self.store.known_writers, self.clock)
        homes = Homes(self.store.config.container_ids)
        own = partial(self.resource_configs.own, ResourceType.GROUP)
        settings, streams_settings = settings_of(self.config, own), streams_settings_of(self.config, own)
        self._open_door()
        self.picture = Picture(
            self.nodes,
            lambda: {hosted.id: hosted.container.epoch for hosted in self._containers()},
            None if self._seat is None else self._seat.coordination,
            self.clock.monotonic_s,
        )
        self.vacancies = Vacancies(self.nodes, () if self._seat is None else self._seat.coordination.containers)
        self.elsewhere = Elsewhere(self._peers.of_container)
        self.groups = GroupCoordinators(
            self.config,
            self.store,
            self.clock,
            self.topics,
            self.all_topics,
            homes,
            settings,
            streams_settings,
            self.elsewhere,
        )
        self.share = self._share_groups(homes)
        self.transactions = TransactionCoordinators(
            self.config, self.store, self.clock, self.topics, self.groups, self.producers, self._peers.of_container
        )
        self.fetch_sessions = FetchSessions(
            self.config.max_incremental_fetch_session_cache_slots,
            self.config.fetch_session_partitions_max,
            self.clock,
        )
        self._know_nodes()
        self.store.on_followed(self._followed)
        self.groups.load()
        self.share.coordinators.load()
        self.transactions.load()
        # The broker's dynamic configs and the groups' committed offsets are known now.
        self.store.start_retention(self._consumed)
        self.store.start_scaling()
        await self.groups.start()
        await self.share.coordinators.start()
        self.share.partitions.start()
        await self.transactions.start()
        self.delegation_tokens.start()
        self.services = self._offered()
        self.apis = discover()
        limits = await asyncio.to_thread(server_limits, self.config, self._shares)
        dispatcher = Dispatcher(self.services, self.apis, self.metrics)
        self._server = Server(
            limits, dispatcher, self.metrics, self._secured, self.quotas.connections_per_s, self._node_tls
        )
        self._offer_metrics(self._server)
        try:
            inner = [] if self._inner is None else [self._inner]
            await self._server.start([*self._kafka, *inner])
        except OSError as exc:
            raise CannotListen(", ".join(map(str, self._kafka)), exc) from exc
        if self._registry is not None:
            self.store.on_risen = partial(self._tell, self._registry)
            await self._tell(self._registry)
        if self._seat is not None:
            await self._join(self._seat)
        self._renewing = asyncio.create_task(
            renew_for_ever([*self._secured.values(), self._http_security]), name="certificates"
        )
        self.phase = "serving"
        self._observers.serving()

    def _store_config(self) -> StoreConfig:
        config = self._data.store_config(self.config)
        return (
            config if self._seat is None else replace(config, container_ids=tuple(self._seat.coordination.containers))
        )

    async def _join(self, seat: Seat) -> None:
        """Take and serve containers of the cluster from now on."""
        kinds = (self.groups, self.share.coordinators, self.transactions)
        moved, changed = self.internal_topics.moved, self._know_nodes
        openings = Openings(self.store, kinds, self._attend, moved, changed, self.vacancies)
        if seat.moves is not None:
            self._relocation = Relocation(seat.coordination, seat.moves, self.store)
        self._balance = Balance(
            seat.coordination,
            partial(totals_of, self.store),
            moves=seat.rebalances,
            troubles=self._told_to_all,
            has_travels=lambda: self._relocation is not None and self._relocation.is_at_work,
        )
        self._membership = Membership(
            seat.coordination,
            self.store,
            openings,
            seat.fence,
            weights=self._balance.weights,
            rebalances=seat.rebalances,
        )
        seat.coordination.on_changed(self._know_nodes)
        self._pulse, self._mourning = Pulse(seat.coordination), Mourning(seat.coordination)
        wanted = self.config.cluster_pulse_listen
        if (address := inner_address(self.config, seat, wanted)) is not None:
            await self._start_pulse(self._pulse, address, must=wanted is not None)
        await seat.coordination.tell(self._myself().encode())
        self._know_nodes()
        self._mourning.start()
        self._keep_settings(seat)
        self._membership.start()
        self._balance.start()
        if self._relocation is not None:
            self._relocation.start()
            if seat.rebalances:
                self._spread = Spread(seat.coordination, self._relocation, self.store, self._balance.weights)
                self._spread.start()

    async def _start_pulse(self, pulse: Pulse, address: ListenAddress, *, must: bool) -> None:
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

    def _keep_settings(self, seat: Seat) -> None:
        """Have a copy of the settings in the bucket, for the day on which etcd has lost them."""
        if seat.settings is None or self._storage is None:
            return
        is_public, key = public_rows(self.config), settings_key(self.config)
        self._keeper = SettingsKeeper(self._storage, self.cluster_id, seat.coordination, seat.settings, is_public, key)
        seat.coordination.on_changed(self._keeper.look)
        self._keeper.start()

    def _offer_metrics(self, server: Server) -> None:
        offer_budgets(self.metrics, server)
        offer_connections(self.metrics, server)
        offer_tls(self.metrics, server, [*self._secured.values(), self._http_security])
        offer_sasl(self.metrics, self._secured)
        for hosted in self._containers():
            self._attend(hosted)
        self.metrics.storage = self._storage
        offer_services(self.metrics, self.services, self.letters)

    def _attend(self, hosted: HostedContainer) -> None:
        """A container is open: what it reports to, and what reports of it."""
        assert self._server is not None
        hosted.container.name_writers = self.transactions.name_producers
        hosted.container.log.slabs.relieve = self._server.host.copy_views
        self.metrics.forget(hosted.id)
        offer_container(self.metrics, hosted)

    async def _consumed(self, slots: Sequence[Slot], group_ids: Sequence[str]) -> Sequence[int | None]:
        """How far groups are through with slots of one stream."""
        return await self.groups.consumed(slots[0].stream.name, [slot.number for slot in slots], group_ids)

    # --- Other nodes --------------------------------------------------------------------------

    def _open_door(self) -> None:
        """Bind the port for nodes of other machines, and prepare to ask them. Raises CannotListen."""
        seat = self._seat
        if seat is not None and seat.authority is not None:
            address = inner_address(self.config, seat, self.config.cluster_listen)
            if address is None:
                logger.warning("other nodes cannot ask this one: set cluster.listen, as its way to etcd is not known")
            else:
                self._node_tls = seat.authority.node(self.node_id)
                self._inner = bind(address, inner=True)
                at = inner_address(self.config, seat, self.config.cluster_http_listen)
                self._observers.join(self.nodes, self._node_tls, at)
        self._peers = Peers(self.nodes, self._node_tls)

    def _is_here(self, container_id: int) -> bool:
        return self.store.leads(container_id)

    def _myself(self) -> Node:
        """This node, as others see it."""
        return Node(
            id=self.node_id,
            listeners={one.name: (one.advertised_host, one.advertised_port) for one in self._kafka},
            containers={hosted.id: hosted.container.epoch for hosted in self._containers()},
            inner="" if self._inner is None else self._inner.place,
            pulse=None if self._pulse is None else self._pulse.address,
            http=self._observers.inner_place,
        )

    async def _tell(self, registry: SqliteRegistry) -> None:
        """Have other workers tell clients of this one, in its present epochs. Raises StoreError."""
        await registry.tell_node(self.node_id, self._myself().encode())

    def _know_nodes(self) -> None:
        if self._seat is not None:
            self.nodes.replace(owners_of(self._seat.coordination.nodes(), self._seat.coordination))
        elif self._registry is not None:
            self.nodes.replace(Node.decode(node_id, told) for node_id, told in self._registry.nodes().items())
        self._peers.follow()
        self.vacancies.look()

    def look_at_registry(self) -> None:
        """Another worker says that it has changed what all share: see what, without waiting for the next look."""
        if self._registry is not None:
            self._registry.changed.set()

    def _followed(self, changed: Changed) -> None:
        """Other workers, or this one, have changed what all share."""
        if changed.nodes:
            self._know_nodes()
        self.topics.followed(changed.streams, changed.deleted)
        if BROKER_CONFIGS in changed.kinds:
            self.topics.take_over_configs()
        if self.authorizer is not None and ACLS in changed.kinds:
            self.authorizer.take_over()
        for kind, part in (
            (FEATURES, self.features),
            (QUOTAS, self.quotas),
            (USERS, self.scram_users),
            (DELEGATION_TOKENS, self.delegation_tokens),
            (RESOURCE_CONFIGS, self.resource_configs),
        ):
            if kind in changed.kinds:
                part.take_over()
        if self._keeper is not None and changed.kinds:
            self._keeper.changed()

    def _share_groups(self, homes: Homes) -> ShareGroups:
        settings = share_settings(self.config, partial(self.resource_configs.own, ResourceType.GROUP))
        self.letters = DeadLetters(
            self.config,
            self.store,
            self.clock,
            self.topics,
            self.openers,
            settings,
            self._peers.of_container,
            validates_fully=validates_fully(self.config.record_validation),
        )
        partitions = SharePartitions(self.store, self.clock, self.topics, settings, self.letters)
        coordinators = ShareCoordinators(self.store, self.clock, self.topics, homes, self.groups, settings)
        sessions = ShareSessions(partitions, self.config.group_share_max_share_sessions)
        return ShareGroups(
            coordinators, partitions, sessions, settings, ShareElsewhere(self.nodes, self._peers.of_container)
        )

    async def _open_users(self) -> ScramUsers:
        """The users of SCRAM, with those that `penstock users` has left. Raises StoreError, ConfigError."""
        users = ScramUsers(self.store)
        try:
            are_kept = self.config.log_store == "disk" or self._seat is not None
            await users.prepare(self._data.path / SCRAM_USERS_FILE, are_kept=are_kept)
        except ValueError as wrong:
            raise ConfigError([str(wrong)]) from wrong
        for listener in self._secured.values():
            if listener.sasl is not None:
                listener.sasl.use(users, self.delegation_tokens)
        return users

    def _offered(self) -> Services:
        return Services(
            config=self.config,
            node_id=self.node_id,
            nodes=self.nodes,
            vacancies=self.vacancies,
            picture=self.picture,
            cluster_id=self.cluster_id,
            clock=self.clock,
            metrics=self.metrics,
            store=self.store,
            topics=self.topics,
            resource_configs=self.resource_configs,
            features=self.features,
            telemetry=self.telemetry,
            internal_topics=self.internal_topics,
            all_topics=self.all_topics,
            producers=self.producers,
            new_producers=self.new_producers,
            groups=self.groups,
            elsewhere=self.elsewhere,
            share=self.share,
            transactions=self.transactions,
            fetch_sessions=self.fetch_sessions,
            openers=self.openers,
            scram_users=self.scram_users,
            delegation_tokens=self.delegation_tokens,
            quotas=self.quotas,
            authorizer=self.authorizer,
            validates_fully=validates_fully(self.config.record_validation),
        )

    async def until_taken_over(self) -> Owner:
        """Returns when another copy of the data directory owns long-term storage: this process must end then, before
        it deletes objects that the copy refers to."""
        if self._admission is None or self._admission.drill or self._admission.beside:
            never: asyncio.Future[Owner] = asyncio.get_running_loop().create_future()
            return await never
        return await self._admission.until_replaced()

    async def stop(self) -> None:
        """End cleanly: the next start has nothing to replay."""
        self.phase = "stopping"
        if self._balance is not None:
            await self._balance.stop()
        if self._spread is not None:
            await self._spread.stop()
        if self._relocation is not None:
            await self._relocation.stop()
        if self._keeper is not None:
            await self._keeper.stop()
        if self._membership is not None:  # clients find the next owners while this node still answers
            await self._membership.drain(self.config.shutdown_drain_ms / 1000)
            await self._membership.stop()
        if self._mourning is not None:
            await self._mourning.close()
        if self._renewing is not None:
            self._renewing.cancel()
        if self._server is not None:
            # Together: fetches and group members wait for these services, whose end answers them.
            await asyncio.gather(
                self._server.stop(STOP_GRACE_S),
                self.groups.stop(),
                self.share.coordinators.stop(),
                self.share.partitions.stop(),
                self.fetch_sessions.stop(),
            )
            await self.transactions.stop()
        await self.openers.close()
        await self.delegation_tokens.stop()
        for listener in self._secured.values():
            listener.close()
        if self.authorizer is not None:
            self.authorizer.audit.close()
        await self.store.close()
        await self._peers.close()
        if self._registry is not None:
            await self._registry.close()
        if self._seat is not None:
            await self._seat.leave()
        if self._pulse is not None:
            await self._pulse.close()
        if self._storage is not None:
            await self._release()
            await self._storage.close()
        if self._log_puts is not None:
            await self._log_puts.close()
        await self._observers.stop()

    async def _release(self) -> None:
        """Release the prefix, so that the next owner need not check whether this gateway lives."""
        if self._admission is None:
            return
        with contextlib.suppress(TimeoutError, StorageError):
            async with asyncio.timeout(RELEASE_S):
                await self._admission.release()

    async def abandon(self) -> None:
        """The storage failed: answer waiting requests, and touch the disk no more."""
        self.phase = "failed"
        if self._server is not None:
            await self._server.stop(ABANDON_GRACE_S)

    def _containers(self) -> list[HostedContainer]:
        return list(self.store.containers.values())
