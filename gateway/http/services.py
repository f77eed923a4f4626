"""What the REST API and the metrics tell of, taken from a broker that serves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway import __version__
from gateway.groups.lag import Lags
from gateway.http.api import Services, chunk_bytes
from gateway.http.models import Overview
from gateway.metrics.activity import Activity

if TYPE_CHECKING:
    from gateway.broker import Broker


def services_of(broker: Broker) -> Services:
    """The services of a broker, for one who keeps them."""
    activity = Activity(broker.store)
    lags = Lags(broker.groups, broker.topics, broker.clock)
    return Services(broker.store, broker.clock, lags, activity, _Totals(broker, activity))


@dataclass(frozen=True, slots=True)
class _Totals:
    broker: Broker
    activity: Activity

    def overview(self) -> Overview:
        broker, metrics = self.broker, self.broker.metrics
        hosted = list(broker.store.containers.values())
        containers = [one.container for one in hosted]
        return Overview(
            version=__version__,
            cluster_id=broker.cluster_id,
            phase=broker.phase,
            time_ms=broker.clock.wall_ms(),
            topics=len(broker.topics),
            groups=len(broker.groups),
            connections=metrics.connections_open,
            produced_bytes=metrics.produced_bytes,
            produced_records=metrics.produced_records,
            fetched_bytes=metrics.fetched_bytes,
            log_bytes=sum(container.log_bytes for container in containers),
            log_limit_bytes=sum(container.config.log_max_bytes for container in containers),
            chunk_bytes=chunk_bytes(containers),
            long_term=any(container.tier is not None for container in containers),
            cache_bytes=sum(container.cache.used for container in containers),
            cache_limit_bytes=sum(container.cache.limit for container in containers),
            events_total=sum(self.activity.counts().values()),
        )
