"""A store that nobody runs, opened to be looked at: recovered as a start recovers it, but never started.

Nothing is appended, no epoch raised, no long-term storage touched. On disk it changes no more than a start does before
it serves: a torn tail is cut, indexes that are missing are written.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from core.applied.metadata import Metadata
from core.clock import SystemClock
from core.config import StoreConfig
from core.container.container import Container
from core.container.recovery import recover
from core.streams.live import Stream
from core.streams.policy import StreamPolicy
from core.streams.state import StreamState
from core.trusted_clock import TrustedClock


@asynccontextmanager
async def looked_at(directory: Path, config: StoreConfig) -> AsyncIterator[list[Container]]:
    """The containers of a store that the caller owns. Raises CorruptLog, CorruptState, StorageFailure."""
    containers: list[Container] = []
    clock = SystemClock()
    trusted = TrustedClock(clock)
    try:
        for container_id in config.container_ids:
            path = directory / f"container-{container_id}"
            if not path.exists():
                continue
            metadata = await asyncio.to_thread(Metadata, path / "metadata", config)
            container = Container(container_id, path / "log", config, clock, trusted, metadata, _stream_changed)
            containers.append(container)
            await asyncio.to_thread(recover, container)
        yield containers
    finally:
        for container in containers:
            await container.log.close()
            await asyncio.to_thread(container.reader.close)
            await asyncio.to_thread(container.catalog.close)
            await asyncio.to_thread(container.metadata.close)


def _stream_changed(container: Container, stream_id: int, state: StreamState | None) -> Stream | None:
    stream = container.streams.get(stream_id)
    if state is None:
        return stream
    if stream is None:
        return Stream(state, StreamPolicy(), container.make_slot)
    stream.state = state
    return stream
