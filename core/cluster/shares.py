"""Copies of streams' states: each container that has some of a stream's slots has the stream's row in its own log.

So a container is recovered, moved into long-term storage and rebuilt from there by itself. The registry decides first,
copies follow, and then callers see the change. A crash in between leaves copies behind, and the next start settles
them: it brings what is missing, and drops the copies of streams that do not exist.

**Invariants**

- Nothing is appended to a slot before its container's log has the stream, as large as it must be for that slot.
- A stream that the registry never heard of, because its container lost its newest changes (a power cut in mode
  `interval`, a rebuilt container), is adopted. One that it heard of and does not have was deleted.
- Of two copies the one with the higher revision is right.
- A container forgets a stream only once all others have followed, and the decision is synced, in every mode.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final

from core.applied.tables import Delete, Put
from core.background import Background
from core.errors import StorageFull, StoreError
from core.streams.live import Stream
from core.streams.registry import Streams
from core.streams.state import REGISTRY_DECIDES, STREAMS_TABLE, stream_key

if TYPE_CHECKING:
    from core.cluster.registry import Registry
    from core.container.container import Container

logger = logging.getLogger(__name__)

RETRY_S: Final = 5.0
"""Pause before a copy is tried again for which a container had no room."""

REFUSED_S: Final = 30.0
"""The time for which a container that had no room for a copy is given no new slots."""

Whole = Callable[[Stream], None]
"""Makes a stream's present state visible: all copies are there."""


class Shares:
    """The copies of all streams of a store. `containers` gives those that are open, by id."""

    def __init__(self, streams: Streams, containers: Callable[[], Sequence[Container]], whole: Whole) -> None:
        self._streams = streams
        self._containers = containers
        self._whole = whole
        self._late: dict[Stream, None] = {}  # some containers had no room for what was decided
        self._background: Background | None = None
        self._refused: dict[int, float] = {}  # containers that had no room for a copy: when, monotonic s
        self._joining: dict[int, Container] = {}  # those that are about to be open

    def has_refused(self, container: Container) -> bool:
        """Whether a container has had no room lately."""
        return container.clock.monotonic_s() < self._refused.get(container.id, -REFUSED_S) + REFUSED_S

    def start(self, container_id: int) -> None:
        """Begin to try again what a container had no room for. `container_id` is for the log."""
        self._background = Background("copies of streams", container_id, self._step, retry_s=RETRY_S, first_s=RETRY_S)
        self._background.start()

    async def stop(self) -> None:
        if self._background is not None:
            await self._background.stop()

    def join(self, container: Container) -> None:
        """A container is about to be open: whatever is decided about streams from now on is brought to it as well."""
        self._joining[container.id] = container

    def joined(self, container: Container) -> None:
        """It is open, or will not be."""
        self._joining.pop(container.id, None)

    def _all_here(self) -> list[Container]:
        """All that take copies: not those whose logs have ended, since their next owners bring what is missing."""
        found = {one.id: one for one in (*self._joining.values(), *self._containers())}
        return [one for one in found.values() if not one.is_sealed]

    async def bring(self, stream: Stream) -> None:
        """Log what was decided about a stream in each of its containers that lacks it; others have no copy.

        Returns when all are durable. Raises the first StoreError, after the others are.
        """
        state, value, key = stream.logged, stream.logged.encode(), stream_key(stream.id)
        wanted = state.containers | {state.container}
        changes: list[Awaitable[None]] = []
        over: list[Container] = []  # after a growth that was taken back, or the last slot has left
        for one in self._all_here():
            is_over = one.id not in wanted and not one.outcomes.has_arrivals(stream.id)
            if is_over and stream.id in one.streams:
                over.append(one)
            # Whoever decides outside of all containers may be lost, so the source says where its slots went.
            is_missing = stream.id in one.streams and state.container == REGISTRY_DECIDES if is_over else True
            if is_missing and one.table(STREAMS_TABLE).get(key) != value:
                changes.append(self._log(one, stream))
        await _all(*changes)
        if over and not any(one.is_sealed for one in self._containers() if one.id in wanted):
            await _all(*(one.synced() for one in self._containers() if one.id == state.container))
            await _all(*(one.update(Delete(STREAMS_TABLE, key)) for one in over))

    async def bring_to(self, container: Container, stream: Stream) -> None:
        """Log what was decided about a stream in one container of it, unless that has it. Raises StoreError."""
        if container.table(STREAMS_TABLE).get(stream_key(stream.id)) != stream.logged.encode():
            await self._log(container, stream)

    async def _log(self, container: Container, stream: Stream) -> None:
        try:
            await container.change_stream(stream, stream.logged)
        except StorageFull:
            self._refused[container.id] = container.clock.monotonic_s()
            raise

    async def drop(self, stream: Stream) -> None:
        """Log in each container that a stream is gone. Raises as `bring` does."""
        has_it = [one for one in self._all_here() if stream.id in one.streams]
        await _all(*(one.update(Delete(STREAMS_TABLE, stream_key(stream.id))) for one in has_it))

    def note_late(self, stream: Stream, error: StoreError) -> None:
        """A copy is missing or too much, because a container has no room. A failed one is settled by the next start."""
        if isinstance(error, StorageFull):
            self._late[stream] = None
        logger.warning(
            "a stream's state is not in all of its containers yet", extra={"stream": stream.name, "reason": str(error)}
        )

    async def _step(self) -> float:
        for stream in list(self._late):
            async with stream.changing:
                await (self.drop(stream) if stream.deleted else self.bring(stream))
                del self._late[stream]
                if not stream.deleted:
                    self._whole(stream)
        return RETRY_S

    # A start

    async def settle(self, registry: Registry) -> None:
        """Make all copies right after a recovery, before anything is appended.

        Raises StoreError, but not StorageFull: then streams stay invisible until there is room.
        """
        by_id = {one.id: one for one in self._containers()}
        for stream in [one for one in self._streams.all() if one.state.revision or one.state.is_elsewhere]:
            deciding = by_id.get(stream.state.container)
            if deciding is not None and stream.id not in deciding.streams and registry.was_given(stream.id):
                await self._settled(stream, self.drop)
                stream.deleted = True
                self._streams.remove(stream)
                continue
            if deciding is not None and _lacks(deciding, stream):
                logger.warning("a stream is adopted from the copy of a container", extra={"stream": stream.name})
                await deciding.update(Put(STREAMS_TABLE, stream_key(stream.id), stream.state.encode()))
            stream.logged = stream.state
            if await self._settled(stream, self.bring):
                self._whole(stream)

    async def _settled(self, stream: Stream, settle: Callable[[Stream], Awaitable[None]]) -> bool:
        try:
            await settle(stream)
        except StorageFull as error:
            self.note_late(stream, error)
            return False
        return True


def _lacks(container: Container, stream: Stream) -> bool:
    """Whether the container does not have the newest state of the stream."""
    found = container.streams.get(stream.id)
    return found is None or container.table(STREAMS_TABLE).get(stream_key(stream.id)) != stream.state.encode()


async def _all(*changes: Awaitable[None]) -> None:
    """Wait for all. Raises the first StoreError."""
    outcomes = await asyncio.gather(*changes, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
