"""One broker: every service, made in the order of their dependence, ended in reverse.

Keeps: clients are served only when everything below them is recovered. At a stop, requests under way are
answered before the services that answer them end. Handlers reach `Services`, and nothing else of the broker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from core.clock import Clock, SystemClock
from core.cluster.following import Changed
from core.cluster.levels import Feature
from core.config import StoreConfig
from core.hosted import HostedContainer
from core.store import Store
from core.streams.live import Slot
from gateway.apis import discover
from gateway.apis.shared.features import SUPPORTED_FEATURES
from gateway.cluster.nodes import Nodes
from gateway.cluster.seat import Seat
from gateway.config.layers import ConfigError
from gateway.config.loading import Config
from gateway.coordination.homes import Homes
from gateway.coordination.opening import Openings
from gateway.data_directory import REPAIRED_FILE, SCRAM_USERS_FILE, DataDirectory
from gateway.dispatch.dispatcher import Dispatcher
from gateway.dispatch.registry import Registry
from gateway.fetching.sessions import FetchSessions
from gateway.gauges import offer_budgets, offer_container, offer_services
from gateway.groups.coordinators import GroupCoordinators
from gateway.groups.elsewhere import Elsewhere
from gateway.groups.settings import settings_of, streams_settings_of
from gateway.groups.share.coordinators import ShareCoordinators
from gateway.groups.share.dead_letters import DeadLetters
from gateway.groups.share.elsewhere import ShareElsewhere
from gateway.groups.share.partitions import SharePartitions
from gateway.groups.share.service import ShareGroups
from gateway.groups.share.sessions import ShareSessions
from gateway.groups.share.settings import share_settings
from gateway.internal_topics.readable import ReadableTopics
from gateway.internal_topics.topics import InternalTopics
from gateway.kafka_configs.broker_configs import SETTINGS as BROKER_CONFIGS
from gateway.kafka_configs.broker_configs import BrokerConfigs
from gateway.kafka_configs.features import TABLE as FEATURES
from gateway.kafka_configs.features import FinalizedFeatures
from gateway.kafka_configs.keys import ResourceType
from gateway.kafka_configs.resource_configs import SETTINGS as RESOURCE_CONFIGS
from gateway.kafka_configs.resource_configs import ResourceConfigs
from gateway.long_term.holding import Holding
from gateway.long_term.ownership import Owner
from gateway.metrics.cluster import offer_cluster
from gateway.metrics.counters import Metrics
from gateway.network.binding import Binding, CannotListen
from gateway.network.descriptors import shares_of_this_process
from gateway.network.server import Server
from gateway.network.serving_limits import offer_connections, offer_sasl, offer_tls, server_limits
from gateway.observers import Observers
from gateway.quotas.quotas import TABLE as QUOTAS
from gateway.quotas.quotas import Quotas
from gateway.records.openers import Openers
from gateway.records.walking import validates_fully
from gateway.security.acl_format import TABLE as ACLS
from gateway.security.audit import open_audit
from gateway.security.authorizer import Authorizer
from gateway.security.delegation_rows import TABLE as DELEGATION_TOKENS
from gateway.security.delegation_tokens import DelegationTokens
from gateway.security.listeners import http_security, renew_for_ever, secured_listeners
from gateway.security.scram_users import TABLE as USERS
from gateway.security.scram_users import ScramUsers
from gateway.services import Services
from gateway.standing import Standing
from gateway.telemetry.receiver import Telemetry
from gateway.topics.topics import Topics
from gateway.transactions.coordinators import TransactionCoordinators
from gateway.transactions.producer_admission import NewProducers
from gateway.transactions.producer_ids import ProducerIds
from gateway.transactions.refused_batches import RefusedBatches

if TYPE_CHECKING:
    from core.cluster.sqlite_registry import SqliteRegistry

STOP_GRACE_S: Final = 5.0
"""Time for requests under way at a stop; a fetch or a join may wait much longer, and is cut off."""
ABANDON_GRACE_S: Final = 0.5
"""Time after a storage failure for its error to reach the producers that wait."""

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
    standing: Standing

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
        self._registry: SqliteRegistry | None = None
        has_others = part is not None and part.inner is not None
        self._held = Holding(config, data, seat=seat, take_over=take_over, has_others=has_others)
        self.cluster_id = data.cluster_id
        self.clock = clock or SystemClock()
        self.metrics = Metrics()
        self.openers = Openers()
        self.phase = "starting"
        self._shares = shares_of_this_process(config)
        self._kafka = kafka
        self._server: Server | None = None
        self._secured = secured_listeners(config)
        self._http_security = http_security(config)
        self._observers = Observers(self, config, http, self._http_security, self._shares.http, is_inner=has_others)
        self._renewing: asyncio.Task[None] | None = None
        self._early: list[Changed] | None = []  # what others changed while the services that hear of it are made
        self.authorizer: Authorizer | None = None

    def __repr__(self) -> str:
        return f"<Broker {self.node_id} of {self.cluster_id}, {self.phase}>"

    @property
    def ready(self) -> bool:
        return self.phase == "serving"

    @property
    def unready(self) -> str:
        """Why a client should rather go to another node of the cluster; empty if it need not."""
        return self.standing.unready if self.ready else ""

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
        found = [*told, *self._held.concerns, self.standing.concern, self._observers.concern]
        return [one[:CONCERN_CHARS_MAX] for one in found if one][:CONCERNS_MAX]

    # --- Start and stop -----------------------------------------------------------------------

    async def open_long_term(self) -> None:
        """Reach long-term storage, and check its owner. Raises an error if it cannot be used."""
        await self._held.open()
        self.cluster_id = self._held.data.cluster_id

    async def start(self) -> None:
        """Recover and serve. Raises the store's errors when it cannot be opened."""
        self.phase = "recovering"
        self._observers.start()
        configs = BrokerConfigs(self.config)
        part, data, seat = self._part, self._held.data, self._held.seat
        if part is not None:
            from core.cluster.sqlite_registry import SqliteRegistry  # one process needs no SQLite

            self._registry = await SqliteRegistry.open(part.registry, part.told)
        self.store = await Store.open(
            data.store,
            self._store_config(),
            configs.policy_for,
            self.clock,
            self._held.context,
            shared=self._registry if seat is None else seat.registry,
            hosts=() if seat is not None else None if part is None else part.hosts,
        )
        self.store.on_followed(self._followed)
        (data.path / REPAIRED_FILE).unlink(missing_ok=True)
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
        self.standing = Standing(
            self.config,
            self.nodes,
            {one.name: (one.advertised_host, one.advertised_port) for one in self._kafka},
            self.store,
            self.clock,
            self._observers,
            registry=self._registry,
            seat=seat,
            inner=None if part is None else part.inner,
        )
        self.elsewhere = Elsewhere(self.standing.peers.of_container)
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
        self.groups.writes_ids = partial(self.standing.may_write, Feature.STREAM_IDS)
        self.share = self._share_groups(homes)
        self.transactions = TransactionCoordinators(
            self.config,
            self.store,
            self.clock,
            self.groups,
            self.producers,
            self.standing.peers.of_container,
        )
        self.fetch_sessions = FetchSessions(
            self.config.max_incremental_fetch_session_cache_slots,
            self.config.fetch_session_partitions_max,
            self.clock,
        )
        self.standing.look()
        early, self._early = self._early or [], None
        for changed in early:
            self._followed(changed)
        await self.groups.load()
        await self.share.coordinators.load()
        await self.transactions.load()
        # The broker's dynamic configs and the groups' committed offsets are known now.
        self.store.start_retention(self._consumed)
        self.store.start_scaling()
        await self.groups.start()
        await self.share.coordinators.start()
        for hosted in self._containers():
            self.share.partitions.resume(hosted.container)
        await self.transactions.start()
        self.delegation_tokens.start()
        self.services = self._offered()
        self.apis = discover()
        limits = await asyncio.to_thread(server_limits, self.config, self._shares)
        dispatcher = Dispatcher(self.services, self.apis, self.metrics)
        self._server = Server(
            limits, dispatcher, self.metrics, self._secured, self.quotas.connections_per_s, self.standing.node_tls
        )
        self._offer_metrics(self._server)
        try:
            inner = [] if self.standing.inner is None else [self.standing.inner]
            await self._server.start([*self._kafka, *inner])
        except OSError as exc:
            raise CannotListen(", ".join(map(str, self._kafka)), exc) from exc
        await self.standing.tell_workers()
        await self.standing.take_part(self._openings(), self._told_to_all, self._held.storage)
        self._renewing = asyncio.create_task(
            renew_for_ever([*self._secured.values(), self._http_security]), name="certificates"
        )
        self.phase = "serving"
        self._observers.serving()

    def _store_config(self) -> StoreConfig:
        config, seat = self._held.data.store_config(self.config), self._held.seat
        return config if seat is None else replace(config, container_ids=tuple(seat.coordination.containers))

    def _openings(self) -> Openings:
        kinds = (self.groups, self.share.coordinators, self.transactions)
        ended, moved, changed = self.metrics.forget, self.internal_topics.moved, self.standing.look
        return Openings(self.store, kinds, self._begin_serving, ended, moved, changed, self.standing.vacancies)

    def _offer_metrics(self, server: Server) -> None:
        offer_budgets(self.metrics, server)
        offer_connections(self.metrics, server)
        offer_tls(self.metrics, server, [*self._secured.values(), self._http_security])
        offer_sasl(self.metrics, self._secured)
        for hosted in self._containers():
            self._attend(hosted)
        self.metrics.storage = self._held.storage
        if self._held.seat is not None:
            offer_cluster(self.metrics, self.standing.picture, lambda: len(self.store.containers))
        offer_services(self.metrics, self.services, self.letters)

    def _begin_serving(self, hosted: HostedContainer) -> None:
        """A container is open that was not at the start."""
        self._attend(hosted)
        self.share.partitions.resume(hosted.container)

    def _attend(self, hosted: HostedContainer) -> None:
        """A container is open: what it reports to, and what reports of it."""
        assert self._server is not None
        hosted.container.name_writers = self.transactions.name_producers
        hosted.container.log.slabs.relieve = self._server.host.copy_views
        offer_container(self.metrics, hosted)

    async def _consumed(self, slots: Sequence[Slot], group_ids: Sequence[str]) -> Sequence[int | None]:
        """How far groups are through with slots of one stream."""
        return await self.groups.consumed(slots[0].stream.name, [slot.number for slot in slots], group_ids)

    # --- Other nodes --------------------------------------------------------------------------

    def _is_here(self, container_id: int) -> bool:
        return self.store.leads(container_id)

    def look_at_registry(self) -> None:
        """Another worker says that it has changed what all share: see what, without waiting for the next look."""
        if self._registry is not None:
            self._registry.changed.set()

    def _followed(self, changed: Changed) -> None:
        """Other workers, or this one, have changed what all share."""
        if self._early is not None:
            self._early.append(changed)
            return
        self.standing.followed(changed)
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

    def _share_groups(self, homes: Homes) -> ShareGroups:
        settings = share_settings(self.config, partial(self.resource_configs.own, ResourceType.GROUP))
        self.letters = DeadLetters(
            self.config,
            self.store,
            self.clock,
            self.topics,
            self.openers,
            settings,
            self.standing.peers.of_container,
            validates_fully=validates_fully(self.config.record_validation),
        )
        partitions = SharePartitions(self.store, self.clock, self.topics, settings, self.letters)
        coordinators = ShareCoordinators(self.store, self.clock, self.topics, homes, self.groups, settings)
        sessions = ShareSessions(partitions, self.config.group_share_max_share_sessions)

        def reconfigured(resource_type: int, name: str) -> None:
            if resource_type == ResourceType.GROUP:
                sessions.reconfigured(name)

        self.resource_configs.on_change(reconfigured)
        elsewhere = ShareElsewhere(self.nodes, self.standing.peers.of_container, homes.container_ids)
        return ShareGroups(coordinators, partitions, sessions, settings, elsewhere)

    async def _open_users(self) -> ScramUsers:
        """The users of SCRAM, with those that `penstock users` has left. Raises StoreError, ConfigError."""
        users = ScramUsers(self.store)
        try:
            are_kept = self.config.log_store == "disk" or self._held.seat is not None
            await users.prepare(self._held.data.path / SCRAM_USERS_FILE, are_kept=are_kept)
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
            vacancies=self.standing.vacancies,
            picture=self.standing.picture,
            forget_node=self.standing.forget,
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
            refused_batches=RefusedBatches(self.clock.monotonic_s),
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
        return await self._held.until_taken_over()

    async def stop(self) -> None:
        """End cleanly: the next start has nothing to replay."""
        self.phase = "stopping"
        await self.standing.hand_over()
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
        await self.standing.close()
        await self._held.close()
        await self._observers.stop()

    async def abandon(self) -> None:
        """The storage failed: answer waiting requests, and touch the disk no more."""
        self.phase = "failed"
        if self._server is not None:
            await self._server.stop(ABANDON_GRACE_S)

    def _containers(self) -> list[HostedContainer]:
        return list(self.store.containers.values())
