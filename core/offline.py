"""A store that no process runs, opened to be looked at: recovered as at a start, but never started.

Nothing is appended, no epoch is raised, long-term storage is not touched. The disk changes no more than by a start
before it serves: a torn tail is cut, and missing indexes are written.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from core.clock import SystemClock
from core.config import StoreConfig
from core.container.container import Container
from core.hosted import HostedContainer, container_directory
from core.scaling.decisions import Decision
from core.streams.known_writers import KnownWriters
from core.streams.live import Stream
from core.streams.policy import StreamPolicy
from core.streams.state import StreamState
from core.trusted_clock import TrustedClock


@asynccontextmanager
async def looked_at(directory: Path, config: StoreConfig) -> AsyncIterator[list[HostedContainer]]:
    """The containers of a store that the caller owns. Raises CorruptLog, CorruptState, StorageFailure."""
    opened: list[HostedContainer] = []
    clock = SystemClock()
    trusted, known = TrustedClock(clock), KnownWriters(config.writers_max)
    try:
        for container_id in config.container_ids:
            place = config.place(directory, container_id)
            if container_directory(place, container_id).exists():
                opened.append(
                    await HostedContainer.open(
                        container_id, place, config.share(), clock, trusted, known, _stream_changed, _never_scaled
                    )
                )
        yield opened
    finally:
        for hosted in opened:
            await hosted.close(clean=False)


def _stream_changed(container: Container, stream_id: int, state: StreamState | None) -> Stream | None:
    stream = container.streams.get(stream_id)
    if state is None:
        return stream
    if stream is None:
        return Stream(state, StreamPolicy(), container.make_slot)
    stream.state = state
    return stream


async def _never_scaled(stream: Stream, decision: Decision) -> None:
    raise AssertionError(f"{stream!r} is only looked at")
