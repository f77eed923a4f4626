"""One broker: every service, made in the order in which they need one another, ended in reverse.

Keeps: clients are served only when everything below them is recovered, and hear the end of what they
asked before what answers it goes. Handlers reach services through this object's attributes.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from core.clock import Clock, SystemClock
from core.container import Container
from core.errors import StorageFailure
from core.store import Store
from core.tiering.tier import LongTermStorage
from gateway.apis import Registry, discover
from gateway.binding import BACKLOG, Binding, CannotListen
from gateway.broker_configs import BrokerConfigs
from gateway.config import Config
from gateway.datadir import DataDirectory
from gateway.dispatch import Dispatcher
from gateway.fetch_sessions import FetchSessions
from gateway.groups import GroupCoordinator
from gateway.identity import Admission
from gateway.long_term import open_storage, place_of, worker_setup
from gateway.metrics import Metrics
from gateway.producers import ProducerIds
from gateway.server import Server, ServerLimits
from gateway.tier_metrics import offer_container
from gateway.topics import Topics
from gateway.transactions import TransactionCoordinator
from gateway.wire.record_batch import entry_head
from tier2.retrying import RetryingStorage

if TYPE_CHECKING:
    from gateway.http.api import Services
    from gateway.http.exposition import Exposition
    from gateway.http.server import HttpServer

logger = logging.getLogger(__name__)

STOP_GRACE_S: Final = 5.0
"""For requests under way at a stop; a fetch or a join may wait much longer, and is cut off."""
ABANDON_GRACE_S: Final = 0.5
"""After a storage failure: time for its error to reach the producers that wait."""

OWNER_CHECK_S: Final = 20.0
OWNER_CHECK_S_MIN: Final = 1.0
"""How often a gateway looks whether it still owns its prefix: before what it deletes is gone, if that may be."""

HTTP_DELAY_S_MAX: Final = 0.5
"""The HTTP server costs a fifth of the time to be ready; a recovery longer than this is watched by it."""


class Broker:
    """What handlers find behind `ctx.broker`."""

    store: Store
    topics: Topics
    producers: ProducerIds
    groups: GroupCoordinator
    transactions: TransactionCoordinator
    fetch_sessions: FetchSessions
    apis: Registry

    def __init__(
        self,
        config: Config,
        data: DataDirectory,
        kafka: Sequence[Binding],
        http: Binding | None,
        clock: Clock | None = None,
    ) -> None:
        self.config = config
        self.node_id = config.node_id
        self.cluster_id = data.cluster_id
        self.clock = clock or SystemClock()
        self.metrics = Metrics()
        self.phase = "starting"
        self._data = data
        self._kafka = kafka
        self._http_binding = http
        self._http: HttpServer | None = None
        self._http_start: asyncio.Task[None]
        self._serving = asyncio.Event()
        self._server: Server | None = None
        self._exposition: Exposition | None = None
        self._services: Services | None = None
        self._storage: RetryingStorage | None = None
        self._long_term: LongTermStorage | None = None
        self._admission: Admission | None = None
        self._watch: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Broker {self.node_id} of {self.cluster_id}, {self.phase}>"

    @property
    def ready(self) -> bool:
        return self.phase == "serving"

    @property
    def healthy(self) -> bool:
        return self.phase != "failed"

    # Start and stop

    async def open_long_term(self) -> None:
        """Reach long-term storage, and see whose it is. Raises what says that it cannot be used."""
        self._storage = await open_storage(self.config)
        if self._storage is None:
            return
        admission = Admission(self._storage, place_of(self.config), self._data.path, self.cluster_id, self._data.fresh)
        await admission.look()
        self._admission = admission
        self._long_term = LongTermStorage(
            storage=self._storage,
            cluster_id=self.cluster_id,
            head_of=entry_head,
            admit=admission.admit,
            rewriting=worker_setup(self.config),
        )

    async def start(self) -> None:
        """Recover and serve. Raises what the store raises when it cannot be opened."""
        self.phase = "recovering"
        self._http_start = asyncio.create_task(self._start_http(), name="http-start")
        configs = BrokerConfigs(self.config)
        self.store = await Store.open(
            self._data.store, self.config.store_config(), configs.policy_for, self.clock, self._long_term
        )
        self.topics = Topics(self.config, self.store, configs)
        self.producers = ProducerIds(self.store)
        self.groups = GroupCoordinator(self.config, self.store, self.clock, self.topics)
        self.transactions = TransactionCoordinator(
            self.config, self.store, self.clock, self.topics, self.groups, self.producers
        )
        for container in self.store.containers.values():
            container.name_writers = self.transactions.name_producers
        self.fetch_sessions = FetchSessions(
            self.config.max_incremental_fetch_session_cache_slots,
            self.config.fetch_session_partitions_max,
            self.clock,
        )
        self.groups.load()
        self.transactions.load()
        # The broker's dynamic configs are known now, and what groups have committed.
        self.store.start_retention(lambda slot, ids: self.groups.consumed(slot.stream.name, slot.number, ids))
        self.store.start_scaling()
        await self.groups.start()
        await self.transactions.start()
        self.apis = discover()
        self._server = Server(_limits(self.config), Dispatcher(self, self.apis, self.metrics), self.metrics)
        self._offer_gauges(self._server)
        try:
            await self._server.start(self._kafka)
        except OSError as exc:
            raise CannotListen(", ".join(map(str, self._kafka)), exc) from exc
        if self._admission is not None:
            self._watch = asyncio.create_task(self._watch_ownership(self._admission), name="tier2-owner")
        self.phase = "serving"
        self._serving.set()

    async def _watch_ownership(self, admission: Admission) -> None:
        """End the process before it deletes what another copy of the data directory refers to."""
        interval_s = min(OWNER_CHECK_S, self.config.file_delete_delay_ms / 2000)
        owner = await admission.until_replaced(max(interval_s, OWNER_CHECK_S_MIN))
        if not self.store.failed.done():
            why = f"{admission.place} was taken by {owner}, which began with another copy of this data directory"
            self.store.failed.set_result(StorageFailure(why))

    async def stop(self) -> None:
        """End cleanly: the next start has nothing to replay."""
        self.phase = "stopping"
        if self._watch is not None:
            self._watch.cancel()
        if self._server is not None:
            # Together: fetches and members of groups wait for others, and are answered by the end of these.
            await asyncio.gather(self._server.stop(STOP_GRACE_S), self.groups.stop(), self.fetch_sessions.stop())
            await self.transactions.stop()
        await self.store.close()
        if self._storage is not None:
            await self._storage.close()
        await self._stop_http()

    async def abandon(self) -> None:
        """The storage failed: tell those who wait, and touch the disk no more."""
        self.phase = "failed"
        if self._server is not None:
            await self._server.stop(ABANDON_GRACE_S)

    # HTTP and metrics

    async def _start_http(self) -> None:
        if self._http_binding is None:
            return
        for bound in self._http_binding.sockets:
            bound.listen(BACKLOG)  # who comes early waits, and is not refused
        try:
            await self._build_http(self._http_binding)
        except Exception:
            logger.exception("the HTTP server did not start; Kafka clients are served without it")

    async def _build_http(self, binding: Binding) -> None:
        """Let Kafka clients in first, unless that takes long: then people want to see why."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._serving.wait(), HTTP_DELAY_S_MAX)
        await asyncio.to_thread(importlib.import_module, "gateway.http.server")
        from gateway.http.app import build
        from gateway.http.guard import Guard
        from gateway.http.server import HttpServer

        token = self.config.http_token
        guard = Guard(
            loopback=binding.loopback,
            hosts=frozenset(host.lower() for host in (binding.host, binding.advertised_host, *self.config.http_hosts)),
            token=None if token is None else token.get_secret_value(),
        )
        application = build(self, self._expose, self._containers, self._tell, guard)
        self._http = HttpServer(application, binding.sockets)
        await self._http.start()

    async def _stop_http(self) -> None:
        self._serving.set()
        await self._http_start
        if self._http is not None:
            await self._http.stop()

    def _containers(self) -> list[Container]:
        return list(self.store.containers.values())

    def _tell(self) -> Services:
        if self._services is None:
            from gateway.http.services import services_of

            self._services = services_of(self)
        return self._services

    def _expose(self) -> Exposition:
        if self._exposition is None:
            from gateway.http.exposition import Exposition

            names = {api.key: api.name for api in discover()}
            self._exposition = Exposition(self.metrics, names, lambda: self._tell() if self.ready else None)
        return self._exposition

    def _offer_gauges(self, server: Server) -> None:
        """Tell the metrics where the sizes of bounded things can be read."""
        metrics, store = self.metrics, self.store
        metrics.memory("requests being received", lambda: server.receive_budget.used)
        metrics.memory("requests being handled", lambda: server.request_budget.used)
        metrics.memory("responses", lambda: server.output_budget.used)
        for container in store.containers.values():
            _offer_container_gauges(metrics, container)
            offer_container(metrics, container)
        metrics.storage = self._storage
        metrics.gauge("penstock_topics", "Topics", lambda: len(self.topics))
        metrics.gauge("penstock_groups", "Consumer groups", lambda: len(self.groups))
        _offer_transactions(metrics, self.transactions)
        metrics.gauge("penstock_fetch_sessions", "Sessions", lambda: len(self.fetch_sessions))


def _offer_transactions(metrics: Metrics, transactions: TransactionCoordinator) -> None:
    counters = transactions.counters
    metrics.gauge("penstock_transactional_ids", "Transactional ids", lambda: len(transactions))
    metrics.gauge("penstock_transactions_open", "Transactions under way", lambda: transactions.under_way)
    name, doc = "penstock_transactions_ended_total", "Transactions that ended"
    metrics.counter(name, doc, lambda: counters.committed, outcome="committed")
    metrics.counter(name, doc, lambda: counters.aborted, outcome="aborted")
    metrics.counter("penstock_transactions_timed_out_total", "Of the aborted: timed out", lambda: counters.timed_out)


def _offer_container_gauges(metrics: Metrics, container: Container) -> None:
    metrics.memory(f"tail cache {container.id}", lambda: container.cache.used)
    metrics.memory(f"index cache {container.id}", lambda: container.reader.index_cache_used)
    metrics.log_syncs[container.id] = container.log.stats


def _limits(config: Config) -> ServerLimits:
    return ServerLimits(
        request_bytes_max=config.socket_request_max_bytes,
        queued_request_bytes_max=config.queued_max_request_bytes,
        queued_response_bytes_max=config.queued_max_response_bytes,
        connections_max=config.max_connections,
        connections_per_ip_max=config.max_connections_per_ip,
        idle_ms=config.connections_max_idle_ms,
        receive_progress_ms=config.connections_receive_timeout_ms,
        first_request_ms=config.connections_first_request_timeout_ms,
    )
