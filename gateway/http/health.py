"""How the gateway is, over HTTP: what fills its logs, what its disks and long-term storage say, its last warnings.

Keeps: only numbers that are in memory are read on the loop; the disks are asked in a thread. Lists are bounded.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from core.hosted import HostedContainer
from gateway import logs
from gateway.http.desk import Desk, answered, number
from gateway.http.health_models import (
    DiskView,
    FailedRequests,
    HealthReport,
    LogHealth,
    PinView,
    ThroughputHistory,
    WarningList,
    WarningView,
)
from gateway.http.history import TOTALS_PERIOD_S
from gateway.http.openapi import Endpoint, Parameter
from gateway.security.acls import Operation, ResourceType

PINS_MAX: Final = 10
CONCERNS_MAX: Final = 100
CONCERN_CHARS_MAX: Final = 300
WARNINGS_DEFAULT: Final = 100


class HealthPages:
    """The operations. `concerns` are those of the process."""

    def __init__(self, desk: Desk, concerns: Callable[[], Sequence[str]]) -> None:
        self._desk = desk
        self._concerns = concerns

    def endpoints(self) -> Sequence[Endpoint]:
        most = (Parameter("limit", f"Maximum number of lines. Default: {WARNINGS_DEFAULT}, at most {logs.RECENT_MAX}"),)
        past = "Bytes and records of the last ten minutes"
        told = "How the logs, long-term storage and the disks are", "The last warnings and errors of the gateway's log"
        return (
            Endpoint("GET", "/api/v1/history", past, self._history, ThroughputHistory, problems=(403, 503)),
            Endpoint("GET", "/api/v1/health", told[0], self._health, HealthReport, problems=(403, 503)),
            Endpoint(
                "GET", "/api/v1/warnings", told[1], self._warnings, WarningList, None, most, problems=(400, 403, 503)
            ),
        )

    async def _health(self, request: Request) -> Response:
        sources = self._desk.ready()
        self._desk.access(request).require(Operation.DESCRIBE, ResourceType.CLUSTER)
        config = sources.services.config
        places = config.data_dirs or (config.data_dir,)
        disks = await asyncio.to_thread(lambda: [_disk(Path(place)) for place in places])
        failures = sorted(sources.services.metrics.request_failures.items(), key=lambda one: (-one[1], one[0]))
        return answered(
            HealthReport(
                time_ms=sources.clock.wall_ms(),
                concerns=[line[:CONCERN_CHARS_MAX] for line in self._concerns()[:CONCERNS_MAX]],
                logs=[_log(hosted) for hosted in sources.store.containers.values()],
                disks=disks,
                failed_requests=[FailedRequests(api=api, count=count) for api, count in failures],
            )
        )

    async def _history(self, request: Request) -> Response:
        totals = self._desk.ready().memory.totals
        self._desk.access(request).require(Operation.DESCRIBE, ResourceType.CLUSTER)
        came, went, records = totals.added()
        return answered(
            ThroughputHistory(
                period_ms=int(TOTALS_PERIOD_S * 1000),
                end_ms=totals.sampled_ms,
                bytes_in=came,
                bytes_out=went,
                records_in=records,
            )
        )

    async def _warnings(self, request: Request) -> Response:
        self._desk.ready()
        self._desk.access(request).require(Operation.DESCRIBE, ResourceType.CLUSTER)
        most = number(request, "limit", WARNINGS_DEFAULT, logs.RECENT_MAX) or 0
        recent = logs.recent()
        lines = () if recent is None else islice(reversed(recent.lines), most)
        told = [WarningView(time_ms=time_ms, level=level, text=text) for time_ms, level, text in lines]
        return answered(WarningList(warnings=told, total=0 if recent is None else recent.count))


def _log(hosted: HostedContainer) -> LogHealth:
    container, tier = hosted.container, hosted.tier
    now_s = container.clock.monotonic_s()
    named = () if tier is None else tier.pins.named[:PINS_MAX]
    taken_s = None if tier is None else tier.snapshots.counters.taken_s
    return LogHealth(
        container=container.id,
        log_bytes=container.log_bytes,
        log_limit_bytes=container.config.log_max_bytes,
        held_bytes=0 if tier is None else tier.pins.bytes,
        pins=[
            PinView(topic=pin.slot.stream.name, partition=pin.slot.number, reason=pin.reason, bytes=pin.bytes)
            for pin in named
        ],
        held_up_s=container.throttle.held_s(now_s),
        long_term=tier is not None,
        untiered_bytes=container.log_bytes if tier is None else tier.writer.untiered_bytes,
        storage_full=tier is not None and tier.is_full,
        put_failures=0 if tier is None else tier.writer.counters.failures,
        snapshot_age_s=None if taken_s is None else now_s - taken_s,
        snapshot_failures=0 if tier is None else tier.snapshots.counters.failures,
    )


def _disk(place: Path) -> DiskView:
    usage = shutil.disk_usage(place)
    return DiskView(path=str(place), size_bytes=usage.total, free_bytes=usage.free)
