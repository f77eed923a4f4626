"""A node's seat in a cluster of machines: what all decide together, and who owns which container.

Keeps: a seat that was taken is given back, with all its claims, by `leave`; a process that dies gives it back by its
lease.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Protocol

from pydantic import SecretStr

from core.clock import SystemClock
from core.cluster import etcd_keys
from core.cluster.coordination import Coordination
from core.cluster.etcd.client import EtcdClient, EtcdSettings
from core.cluster.etcd.http import Endpoint
from core.cluster.etcd.mirror import Mirror
from core.cluster.etcd.session import Session
from core.cluster.etcd_coordination import EtcdCoordination
from core.cluster.etcd_members import EtcdMembers
from core.cluster.etcd_moves import EtcdMoves
from core.cluster.etcd_registry import EtcdRegistry
from core.cluster.following import SharedRegistry
from core.cluster.members import Member
from core.errors import CoordinatorRefuses, StoreError
from core.membership import Fence
from core.relocation import Rows
from gateway.cluster.authority import Authority
from gateway.cluster.pulse import own_address
from gateway.cluster.settings_copy import SettingsView, Version
from gateway.config.addresses import ListenAddress
from gateway.config.cluster import parse_cluster
from gateway.config.loading import Config

logger = logging.getLogger(__name__)

LEAVE_S: Final = 2.0
"""Longest wait of a stop for etcd: if it does not answer, the lease ends by itself."""


class NodeCoordination(Coordination, Protocol):
    """A coordination in which nodes tell of themselves."""

    def nodes(self) -> Mapping[int, Mapping[str, Any]]:
        """What each node that lives told of itself, by its id."""

    def members(self) -> Mapping[int, Member]:
        """The nodes that live or did, by their ids, until they are forgotten."""

    async def tell(self, told: Mapping[str, Any]) -> None:
        """Tell all of this node, in this life and in those to come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """See the module."""

    registry: SharedRegistry
    coordination: NodeCoordination
    cluster_id: str
    leave: Callable[[], Awaitable[None]]
    fence: Fence = Fence.BOTH
    rebalances: bool = True
    address: str = ""
    """From where this node reaches the coordinator; empty if that is not known."""
    authority: Authority | None = None
    """By which nodes know one another; None: they ask one another for nothing."""
    moves: Rows | None = None
    """Slots that are to go to containers of other nodes; None: they move within a node only."""
    forget: Callable[[int], Awaitable[bool]] | None = None
    """Forgets a node that has gone; None: nobody remembers any."""
    settings: Callable[[], SettingsView] | None = None
    """All settings that nodes share, as this node has them; None: they need no copy."""


async def take_seat(config: Config, cluster_id: str) -> Seat:
    """Join the cluster that the configuration names, or begin it with this id.

    Raises CoordinatorAway, CoordinatorRefuses, CorruptState.
    """
    place = parse_cluster(config.cluster)
    settings = etcd_settings(config)
    warn_of_listeners(settings)
    prefix = etcd_keys.prefix_of(place.name)
    async with contextlib.AsyncExitStack() as undo:
        client = EtcdClient(settings)
        undo.push_async_callback(client.close)
        mirror = await Mirror.open(client, prefix)
        undo.push_async_callback(mirror.close)
        of_registry, of_claims = Session(client, prefix), Session(client, prefix)
        undo.push_async_callback(_closed, of_registry)
        undo.push_async_callback(_closed, of_claims)
        wanted = etcd_keys.Meta(cluster_id, config.cluster_containers)
        meta = await etcd_keys.join(of_registry, prefix, wanted)
        authority = Authority.decode(
            await etcd_keys.agreed(of_registry, prefix + etcd_keys.AUTHORITY, Authority.make().encode())
        )
        registry = await EtcdRegistry.open(client, mirror, of_registry)
        coordination = await EtcdCoordination.join(
            client,
            mirror,
            of_claims,
            node=config.node_id,
            containers=meta.containers,
            ttl_s=config.cluster_lease_ms // 1_000,
        )
        undo.push_async_callback(_left, coordination)
        members = EtcdMembers(mirror, of_registry, coordination, SystemClock().wall_ms)
        undo.push_async_callback(_noted, members)
        members.start()
        leave = undo.pop_all().aclose
    return Seat(
        registry=registry,
        coordination=coordination,
        cluster_id=meta.cluster,
        leave=leave,
        fence=Fence(config.cluster_fence),
        rebalances=config.cluster_rebalance == "auto",
        address=await own_address(place.endpoints),
        authority=authority,
        moves=EtcdMoves(mirror, of_claims),
        forget=members.forget,
        settings=partial(_settings_in, mirror),
    )


def _settings_in(mirror: Mirror) -> SettingsView:
    rows = ((key.partition(b"/"), row.value) for key, row in mirror.below(etcd_keys.SETTINGS))
    epoch = etcd_keys.number_of(mirror.values.get(etcd_keys.EPOCH), 0)
    return SettingsView(
        Version(epoch, mirror.revision), [(kind.decode(errors="replace"), key, value) for (kind, _, key), value in rows]
    )


def etcd_settings(config: Config) -> EtcdSettings:
    """How the configuration says that etcd is reached."""
    place = parse_cluster(config.cluster)
    return EtcdSettings(
        endpoints=tuple(Endpoint(host, port) for host, port in place.endpoints),
        tls=place.tls,
        ca_file=_text(config.etcd_ca_file),
        cert_file=_text(config.etcd_cert_file),
        key_file=_text(config.etcd_key_file),
        key_password=_secret(config.etcd_key_password),
        user=config.etcd_user,
        password=_secret(config.etcd_password),
    )


def warn_of_listeners(settings: EtcdSettings) -> None:
    """Tell what others can read who are on the way to etcd."""
    if settings.tls:
        return
    if settings.user:
        logger.warning("the password for etcd goes over the network in clear: use etcds://, with TLS")
    if not all(ListenAddress(one.host, one.port).loopback for one in settings.endpoints):
        logger.warning("nodes' and users' credentials go to etcd and back in clear: use etcds://, with TLS")


def inner_address(config: Config, seat: Seat, configured: ListenAddress | None) -> ListenAddress | None:
    """Where nodes reach a port of this one that may be configured: else a free port, where they reach its other
    ports. None if no address is known."""
    if configured is not None:
        return configured
    if config.cluster_listen is not None:
        return replace(config.cluster_listen, port=0, advertised_port=None)
    return ListenAddress(seat.address, 0) if seat.address else None


def check_cluster(seat: Seat, cluster_id: str, data_dir: str) -> None:
    """Raise CoordinatorRefuses if a data directory is of another cluster than the one in etcd."""
    if cluster_id != seat.cluster_id:
        raise CoordinatorRefuses(
            f"{data_dir} is of cluster {cluster_id}, and the cluster in etcd is {seat.cluster_id}: name an empty data "
            "directory, or the cluster that this one is of"
        )


def _secret(secret: SecretStr | None) -> str:
    return "" if secret is None else secret.get_secret_value()


def _text(path: object) -> str | None:
    return None if path is None else str(path)


async def _closed(session: Session) -> None:
    await _in_time(session.close())


async def _noted(members: EtcdMembers) -> None:
    await _in_time(members.leave())


async def _left(coordination: EtcdCoordination) -> None:
    await _in_time(coordination.leave())


async def _in_time(call: Awaitable[None]) -> None:
    try:
        async with asyncio.timeout(LEAVE_S):
            await call
    except (TimeoutError, StoreError) as error:
        logger.warning("etcd was not told that this node leaves", extra={"reason": str(error)})
