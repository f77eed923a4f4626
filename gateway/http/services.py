"""The sources of the REST API and the metrics, from the services of a broker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway import __version__
from gateway.groups.lag import Lags
from gateway.http.desk import ApiSources
from gateway.http.heat import HeatMemory
from gateway.http.history import LagMemory, Memory, TotalsMemory
from gateway.http.models import Overview
from gateway.http.records import TopicRecords
from gateway.http.topic_table import TopicTable
from gateway.metrics.activity import Activity
from gateway.metrics.sources import chunk_bytes

if TYPE_CHECKING:
    from gateway.services import Services as BrokerServices


def observed(services: BrokerServices, phase: Callable[[], str]) -> ApiSources:
    """Build the sources of the REST API once; the caller caches them. `phase` names the broker's phase at a call."""
    activity = Activity(services.store)
    lags = Lags(services.groups, services.topics, services.clock, services.nodes, services.elsewhere, services.share)
    records = TopicRecords(services)
    totals = _Totals(services, phase, activity)
    table = TopicTable(services.store, activity, services.clock)
    return ApiSources(
        services.store,
        services.clock,
        lags,
        activity,
        totals,
        services.authorizer,
        records,
        table,
        Memory(
            LagMemory(lags, services.clock),
            TotalsMemory(services.metrics, services.clock),
            HeatMemory(services.store, activity, services.clock),
        ),
        services,
    )


@dataclass(frozen=True, slots=True)
class _Totals:
    services: BrokerServices
    phase: Callable[[], str]
    activity: Activity

    def overview(self) -> Overview:
        services, metrics = self.services, self.services.metrics
        hosted = list(services.store.containers.values())
        containers = [one.container for one in hosted]
        return Overview(
            version=__version__,
            cluster_id=services.cluster_id,
            phase=self.phase(),
            time_ms=services.clock.wall_ms(),
            topics=len(services.topics),
            groups=len(services.groups),
            connections=metrics.connections_open,
            produced_bytes=metrics.produced_bytes,
            produced_records=metrics.produced_records,
            fetched_bytes=metrics.fetched_bytes,
            log_bytes=sum(container.log_bytes for container in containers),
            log_limit_bytes=sum(container.config.log_max_bytes for container in containers),
            chunk_bytes=chunk_bytes(containers),
            long_term=any(container.tier is not None for container in containers),
            cache_bytes=sum(container.log.slabs.used for container in containers),
            cache_limit_bytes=sum(container.log.slabs.limit for container in containers),
            events_total=sum(self.activity.counts().values()),
        )
