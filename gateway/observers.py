"""What lets people watch a broker: its HTTP server (console, REST, `/metrics`, health), and what that tells.

Keeps: Kafka clients wait for none of it. It is made beside the broker's start, its modules are imported in a thread,
and when it does not start clients are served without it. Then nothing listens at its port: whoever asks is refused at
once, and does not wait for an answer that never comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol

from core.hosted import HostedContainer
from gateway.apis import discover
from gateway.cluster.authority import NodeTls
from gateway.cluster.nodes import Nodes
from gateway.config.addresses import ListenAddress
from gateway.config.model import Config
from gateway.metrics.counters import Metrics
from gateway.network.binding import BACKLOG, Binding, bind
from gateway.security.authorizer import Authorizer
from gateway.security.listeners import SecuredListener
from gateway.services import Services

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from gateway.http.desk import ApiSources
    from gateway.http.server import HttpServer
    from gateway.metrics.exposition import Exposition

logger = logging.getLogger(__name__)

HTTP_DELAY_S_MAX: Final = 0.5
"""Delay of the HTTP server, which costs a fifth of the time to be ready; during a longer recovery it already serves."""


class Observed(Protocol):
    """The broker. Its services are there once it is ready."""

    metrics: Metrics
    authorizer: Authorizer | None

    @property
    def phase(self) -> str: ...
    @property
    def ready(self) -> bool: ...
    @property
    def unready(self) -> str: ...
    @property
    def healthy(self) -> bool: ...
    @property
    def concerns(self) -> Sequence[str]: ...
    @property
    def services(self) -> Services: ...


class Observers:
    """See the module."""

    def __init__(
        self,
        broker: Observed,
        config: Config,
        binding: Binding | None,
        security: SecuredListener,
        connections_max: int,
        *,
        is_inner: bool,
    ) -> None:
        """`is_inner`: a worker's port, which is for its supervisor; the public one is the supervisor's."""
        self._broker = broker
        self._config = config
        self._binding = binding
        self._security = security
        self._connections_max = connections_max
        self._is_inner = is_inner
        self._server: HttpServer | None = None
        self._inner: Binding | None = None  # for other nodes
        self._inner_server: HttpServer | None = None
        self._nodes: Nodes | None = None
        self._node_tls: NodeTls | None = None
        self._starting: asyncio.Task[None]
        self.concern = ""
        """Why nobody can watch; empty if people can."""
        self._remembering: asyncio.Task[None] | None = None
        self._clients_served = asyncio.Event()
        self._exposition: Exposition | None = None
        self._sources: ApiSources | None = None

    def __repr__(self) -> str:
        return f"<Observers of {self._broker!r} at {self._binding}>"

    @property
    def inner_place(self) -> str:
        """Where other nodes ask for what this one shows, HOST:PORT; empty if they cannot."""
        return "" if self._inner is None else self._inner.place

    def join(self, nodes: Nodes, tls: NodeTls, address: ListenAddress | None) -> None:
        """This node is one of a cluster: others ask it at this address, and it asks them. Before it serves anything;
        raises CannotListen."""
        if self._binding is not None and address is not None:
            self._inner = bind(address, inner=True)
            for bound in self._inner.sockets:
                bound.listen(BACKLOG)
            self._nodes, self._node_tls = nodes, tls

    def start(self) -> None:
        """Begin to start, beside everything else."""
        self._starting = asyncio.create_task(self._start(), name="http-start")

    def serving(self) -> None:
        """Kafka clients are served now."""
        self._clients_served.set()

    async def stop(self) -> None:
        """End, whatever the start was about."""
        self._clients_served.set()
        await self._starting
        if self._remembering is not None:
            self._remembering.cancel()
        await self._close()

    async def _start(self) -> None:
        if self._binding is None:
            return
        try:
            for bound in self._binding.sockets:
                bound.listen(BACKLOG)  # an early connection waits, and is not refused
            await self._serve(self._binding)
        except Exception as error:
            logger.exception("the HTTP server did not start; Kafka clients are served without it")
            self.concern = f"the HTTP server did not start: {type(error).__name__}, the log says more; start again"
            await self._close()

    async def _close(self) -> None:
        """Nothing serves any more, and nothing listens."""
        for server in (self._server, self._inner_server):
            if server is not None:
                await server.stop()
        for binding in (self._binding, self._inner):
            if binding is not None:
                binding.close()

    async def _serve(self, binding: Binding) -> None:
        """Serve Kafka clients first, unless that takes long: then people want to see why."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._clients_served.wait(), HTTP_DELAY_S_MAX)
        self._server = await asyncio.to_thread(self._make_server, binding)
        await self._server.start()
        if self._inner_server is not None:
            await self._inner_server.start()
        from gateway.http.history import remember

        memory = remember(lambda: self._tell().memory if self._broker.ready else None)
        self._remembering = asyncio.create_task(memory, name="http-memory")

    def _make_server(self, binding: Binding) -> HttpServer:
        """Make the HTTP server, in a thread: its modules and the API's description take 100 ms, and Kafka clients are
        already served."""
        from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

        from gateway.http.app import build
        from gateway.http.entrance import Entrance, certified_by, certified_in_front
        from gateway.http.guard import Guard
        from gateway.http.server import HttpServer
        from gateway.http.ways import users_of

        importlib.import_module("gateway.http.services")  # or the first request pays for it
        broker, config = self._broker, self._config
        token = config.http_token
        guard = Guard(
            loopback=binding.loopback,
            hosts=frozenset(host.lower() for host in (binding.host, binding.advertised_host, *config.http_hosts)),
            token=None if token is None else token.get_secret_value(),
            has_users=bool(config.http_auth),
        )
        users = users_of(
            config,
            self._security.keys,
            lambda: broker.services.scram_users if broker.ready else None,
            lambda: broker.authorizer,
        )
        application = build(broker, self._expose, self._containers, self._tell, guard)
        tls = None if self._is_inner else self._security.tls
        certified = certified_in_front if self._is_inner else certified_by(tls)
        entrance: ASGIApp = Entrance(application, guard, users, certified)
        if self._is_inner:
            entrance = ProxyHeadersMiddleware(entrance, "*")  # type: ignore[arg-type,assignment]
        if self._inner is not None and self._nodes is not None and self._node_tls is not None:
            from gateway.http.cluster_front import ClusterFront, Doors

            for_nodes = Entrance(application, guard, users, certified_in_front)
            through = ProxyHeadersMiddleware(for_nodes, "*")  # type: ignore[arg-type]
            at_nodes: ASGIApp = through  # type: ignore[assignment]
            context = self._node_tls.context
            self._inner_server = HttpServer(at_nodes, self._inner.sockets, self._connections_max, context=context)
            nodes = self._nodes
            doors = Doors(nodes.me, self._inner.place, lambda: nodes.others, self._node_tls)
            whole = ClusterFront(entrance, doors, guard, lambda: broker.phase)
            entrance = Entrance(whole, guard, users, certified, is_front=True)
        return HttpServer(entrance, binding.sockets, self._connections_max, tls)

    def _containers(self) -> list[HostedContainer]:
        return list(self._broker.services.store.containers.values())

    def _tell(self) -> ApiSources:
        if self._sources is None:
            from gateway.http.services import observed

            self._sources = observed(self._broker.services, lambda: self._broker.phase)
        return self._sources

    def _expose(self) -> Exposition:
        if self._exposition is None:
            from gateway.metrics.exposition import Exposition

            broker = self._broker
            self._exposition = Exposition(
                broker.metrics,
                {api.key: api.name for api in discover()},
                lambda: self._tell() if broker.ready else None,
                lambda turn: broker.services.telemetry.series.text(turn) if broker.ready else None,
            )
        return self._exposition
