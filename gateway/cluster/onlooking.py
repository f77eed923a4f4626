"""A cluster as somebody sees it who is none of its nodes: the commands of an operator.

Keeps: an onlooker has no life, no lease and no claim. Whoever may write below the cluster's keys in etcd may do this.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from core.cluster import etcd_keys
from core.cluster.etcd.client import EtcdClient
from core.cluster.etcd.mirror import Mirror
from core.cluster.etcd.session import Session
from core.cluster.etcd_coordination import EtcdCoordination
from core.errors import CoordinatorRefuses
from gateway.cluster.seat import etcd_settings
from gateway.config.cluster import parse_cluster
from gateway.config.layers import ConfigError
from gateway.config.loading import Config

NOBODY = -1
"""In place of the id of a node."""


@contextlib.asynccontextmanager
async def looked_at(config: Config) -> AsyncIterator[EtcdCoordination]:
    """The cluster that the configuration names. Raises ConfigError, CoordinatorAway, CoordinatorRefuses."""
    if not config.cluster:
        raise ConfigError(["cluster is not set: name it, as in --cluster etcd://HOST:PORT/NAME"])
    place = parse_cluster(config.cluster)
    prefix = etcd_keys.prefix_of(place.name)
    async with contextlib.AsyncExitStack() as undo:
        client = EtcdClient(etcd_settings(config))
        undo.push_async_callback(client.close)
        mirror = await Mirror.open(client, prefix)
        undo.push_async_callback(mirror.close)
        row = mirror.values.get(etcd_keys.META)
        if row is None:
            raise CoordinatorRefuses(f"etcd has no cluster {place.name!r}: look at the name, and at etcd's address")
        session = Session(client, prefix)
        undo.push_async_callback(session.close)
        containers = etcd_keys.Meta.decode(row.value).containers
        yield EtcdCoordination(client, mirror, session, node=NOBODY, containers=containers, ttl_s=0)
