"""The parts of a gateway that metrics and the REST API show, once clients are served."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from core.clock import Clock
from core.container.container import Container
from core.store import Store
from gateway.groups.lag import Lags
from gateway.metrics.activity import Activity


@dataclass(frozen=True, slots=True)
class Sources:
    """Streams, groups and their lag, rates and scales."""

    store: Store
    clock: Clock
    lags: Lags
    activity: Activity


def chunk_bytes(containers: Sequence[Container]) -> int:
    """Bytes of all streams that are in chunks."""
    return sum(
        slot.tier_bytes for one in containers for stream in one.streams.values() for slot in stream.slots_in(one.id)
    )
