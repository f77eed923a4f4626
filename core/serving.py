"""What goes on in the containers that serve: those that are open, and those that are opened later.

**Invariants**

- Retention and scaling go on in each of them once they were started, and in none before: policies have defaults that
  are known late.
- All logs of a process together take no more memory at once than is allowed for one process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from core.config import StoreConfig
from core.errors import StorageFailure
from core.hosted import HostedContainer
from core.log.slabs import AT_ONCE_BYTES, AtOnce
from core.retention import Consumed
from core.tiering.context import LongTermStorage

Failed = Callable[[HostedContainer, StorageFailure], None]
"""Hears that a container has failed."""


class Serving:
    """See the module. `containers`: those that are open, by id; `expected`: how many there will be, 0 if not known."""

    def __init__(
        self, containers: Mapping[int, HostedContainer], config: StoreConfig, expected: int, failed: Failed
    ) -> None:
        self._containers = containers
        self._failed = failed
        self._consumed: Consumed | None = None
        self._retains = False
        self._scales = False
        share = AT_ONCE_BYTES // len(config.container_ids)  # other processes may have the rest
        self._at_once = AtOnce(share * (expected or len(config.container_ids)), share)

    def __repr__(self) -> str:
        return f"<Serving {len(self._containers)} containers>"

    async def begin(self, hosted: HostedContainer, long_term: LongTermStorage | None) -> None:
        """Have a container take appends, and begin its background work. Raises StoreError."""
        hosted.container.failed.add_done_callback(
            lambda failed: None if failed.cancelled() else self._failed(hosted, failed.result())
        )
        hosted.maintenance.is_replay_long = self._is_replay_long
        hosted.container.log.slabs.share(self._at_once)
        await hosted.start(long_term)
        if self._retains:
            hosted.retention.start(self._consumed)
        if self._scales:
            hosted.scaler.start()

    def _is_replay_long(self) -> bool:
        """Whether the logs have grown since their checkpoints by as much as all together may."""
        hosted = self._containers.values()
        allowed = sum(one.container.config.checkpoint_log_bytes for one in hosted)
        return sum(one.maintenance.log_bytes_since for one in hosted) >= allowed

    def start_retention(self, consumed: Consumed | None) -> None:
        """Apply the streams' policies from now on. `consumed` gives the progress of the consumers that one names."""
        self._retains, self._consumed = True, consumed
        for hosted in self._containers.values():
            hosted.retention.start(consumed)

    def start_scaling(self) -> None:
        """Take rates and scale streams from now on."""
        self._scales = True
        for hosted in self._containers.values():
            hosted.scaler.start()
