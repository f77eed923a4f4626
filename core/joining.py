"""Containers that are opened and released while a store serves others.

A start fills a store that nobody uses yet. At runtime a container is recovered on its own, in a thread, with streams
that only it knows (`_Alone`). Then, on the event loop, its slots take their places in the store's streams.

**Invariants**

- Nobody reaches a container before it has the copy of each stream that it has slots of: `Joining.serve` makes it
  visible as its last step.
- Of a slot's objects the newest is the stream's. All others are marked (`has_moved`), and their watchers are told.
- What a released container leaves on this machine is a copy, and is removed.
- A slot that a container has by its own copy of the stream, and by the registry's no more, has moved while nobody had
  that container open: it is let go of, and no caller ever finds it. What was on its way into it is settled likewise.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Awaitable, Iterable, Sequence
from pathlib import Path
from typing import Final, Protocol

from core.applied.tables import Delete
from core.cluster.registry import Registry
from core.cluster.shares import Shares
from core.container.container import Container
from core.errors import Deposed, NotHosted, StorageFailure, StoreError
from core.hosted import HostedContainer, StreamChanged, container_directory
from core.log.objects.home import Claimed
from core.log.objects.prefetch import Prefetched
from core.log.objects.protocol import Link
from core.showing import Showing
from core.stations import Stations
from core.streams.known_writers import KnownWriters
from core.streams.live import Slot, Stream
from core.streams.registry import Streams
from core.streams.state import STREAMS_TABLE, StreamState, stream_key
from core.turns import in_turns

logger = logging.getLogger(__name__)

COPIES_AT_ONCE: Final = 100
"""Copies of streams on their way to the log of a container that is opened."""


class Joined(Protocol):
    """The store, as containers come and go."""

    streams: Streams
    containers: dict[int, HostedContainer]
    known_writers: KnownWriters

    @property
    def registry(self) -> Registry: ...

    async def open_alone(
        self, container_id: int, known_writers: KnownWriters, stream_changed: StreamChanged, claimed: Claimed
    ) -> HostedContainer:
        """Recover a container that nobody else uses, for `stream_changed` to hear of its streams."""

    async def prefetch(self, container_id: int) -> Prefetched:
        """Read ahead what a takeover would read."""

    async def begin_serving(self, hosted: HostedContainer) -> None:
        """Have it take appends, and begin its background work; it is not visible yet."""

    async def catch_up(self) -> None:
        """Take over all that was decided about streams by now."""

    async def settle_arrivals(self, container: Container) -> None:
        """End the moves of slots into it that its former owner has begun."""

    def place_of(self, container_id: int) -> Path:
        """The directory that holds the container's."""


class _Alone:
    """The streams of a container while it is recovered, for nobody else."""

    def __init__(self, showing: Showing, writers_max: int) -> None:
        self.known_writers = KnownWriters(writers_max)
        self._showing = showing
        self._streams: dict[int, Stream] = {}
        self._has_joined = False

    def stream_changed(self, container: Container, stream_id: int, state: StreamState | None) -> Stream | None:
        """As the store's, which goes on with it later."""
        if self._has_joined:
            return self._showing.stream_changed(container, stream_id, state)
        if state is None:
            return self._streams.pop(stream_id, None)
        stream = self._streams.get(stream_id)
        if stream is None:
            stream = Stream(state, self._showing.policy_of(state), container.make_slot)
            self._streams[stream_id] = stream
        elif state.revision >= stream.state.revision:
            stream.state = state
        return stream

    def join(self) -> None:
        """From now on changes are the store's."""
        self._has_joined = True
        self._streams.clear()


class Joining:
    """See the module. One call at a time for a container; calls for several go on side by side."""

    def __init__(self, store: Joined, shares: Shares, showing: Showing) -> None:
        self._store = store
        self._shares = shares
        self._showing = showing
        self._opened: dict[int, tuple[HostedContainer, _Alone]] = {}  # recovered, not serving
        self._releases: set[asyncio.Task[None]] = set()  # one at most for each container

    def __repr__(self) -> str:
        return f"<Joining {sorted(self._opened)}>"

    async def open(self, container_id: int, claimed: Claimed) -> HostedContainer:
        """Take over a container's log, and recover. It serves nobody yet. Raises StoreError, OSError."""
        alone = _Alone(self._showing, self._store.known_writers.limit)
        hosted = await self._store.open_alone(container_id, alone.known_writers, alone.stream_changed, claimed)
        self._opened[container_id] = hosted, alone
        return hosted

    async def serve(self, container_id: int, stations: Stations | None = None) -> None:
        """Serve a container that is open. Raises StoreError; then `leave` has to follow."""
        stations = stations or Stations()
        hosted, alone = self._opened[container_id]
        store, container = self._store, hosted.container
        for error in await asyncio.gather(store.begin_serving(hosted), store.catch_up(), return_exceptions=True):
            if isinstance(error, BaseException):
                raise error  # both have ended: nothing begins in a container that is being closed
        stations.reached("log begun, streams known")
        self._showing.know(container)
        moved = await self._forget(container_id)
        moved += await self._adopt(container, alone)
        self._shares.join(container)
        try:
            await self._settle(container)
            await store.settle_arrivals(container)
            self._opened.pop(container_id)
            store.containers[container_id] = hosted
        finally:
            self._shares.joined(container)
        await _tell(moved)
        stations.reached("slots in place")

    async def prefetch(self, container_id: int) -> Prefetched:
        """Read ahead of a takeover what can be read. Raises StoreError, StorageError, OSError."""
        return await self._store.prefetch(container_id)

    async def prepare(self, container_id: int) -> None:
        """Have a last checkpoint of it stored, while it is served. Raises StoreError, StorageError, OSError."""
        await self._hosted(container_id).prepare()

    async def seal(self, container_id: int, next_epoch: int) -> Link:
        """End its log, so that it goes on in this epoch; `leave` follows. Raises StorageFailure, Deposed, NotHosted."""
        return await self._hosted(container_id).seal(next_epoch)

    def _hosted(self, container_id: int) -> HostedContainer:
        hosted = self._store.containers.get(container_id)
        if hosted is None:
            raise NotHosted(container_id)
        return hosted

    def stop_appends(self, container_id: int, lost: Deposed | None = None) -> None:
        """Take nothing more for a container that is open; `leave` follows.

        `lost`: somebody else has it. Then nothing that waits is acknowledged, and nothing is waited for.
        """
        store = self._store
        opened, _ = self._opened.get(container_id, (None, None))
        hosted = store.containers.get(container_id) or opened
        if hosted is None:
            raise NotHosted(container_id)
        hosted.container.leave()
        if lost is not None:
            hosted.disown(lost)

    async def leave(self, container_id: int) -> None:
        """Close it, and remove what is here. Raises NotHosted for one that is not open.

        Whoever is cancelled here leaves the closing to go on by itself: `close` waits for it.
        """
        store = self._store
        opened, _ = self._opened.pop(container_id, (None, None))
        hosted = store.containers.pop(container_id, None) or opened
        if hosted is None:
            raise NotHosted(container_id)
        release = asyncio.create_task(self._release(hosted), name=f"release-{container_id}")
        self._releases.add(release)
        release.add_done_callback(self._releases.discard)
        await asyncio.shield(release)
        self._showing.forget(container_id)
        for stream_id in {place[0] for place in hosted.container.outcomes.beside}:  # perhaps decided, and not here yet
            if (stream := store.streams.by_id(stream_id)) is not None:
                self._showing.look_for_left(stream)
        await _tell(await self._forget(container_id))
        directory = container_directory(store.place_of(container_id), container_id)
        await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)

    async def _release(self, hosted: HostedContainer) -> None:
        try:
            await hosted.release()
        except StorageFailure as failure:  # its log has all that was acknowledged
            logger.warning("a container was not stopped cleanly", extra={"container": hosted.id, "reason": failure})

    async def close(self) -> None:
        """Close what is open and was never served, and what is being closed."""
        while self._opened:
            _, (hosted, _) = self._opened.popitem()
            await hosted.close(clean=False)
        await asyncio.gather(*self._releases, return_exceptions=True)

    # Slots

    async def _forget(self, container_id: int) -> list[Slot]:
        """Forget what memory holds of a container's slots; returns it."""
        moved: list[Slot] = []
        async for stream in in_turns(self._store.streams.all()):
            moved += stream.forget_slots(container_id)
        return moved

    async def _adopt(self, container: Container, alone: _Alone) -> list[Slot]:
        """Give the container's slots their places in the store's streams; returns those that were there meanwhile."""
        store = self._store
        moved: list[Slot] = []
        for stream_id, its in list(container.streams.items()):
            stream = store.streams.by_id(stream_id) or self._showing.begin(its.state)
            newest = max(its.state, stream.logged, key=lambda state: state.revision)
            async for slot in in_turns([slot for slot in its.written_slots() if not slot.has_moved]):
                if slot.number >= newest.slots or newest.container_of_slot(slot.number) == container.id:
                    moved += stream.adopt(slot)
                else:  # it has left, and this container has still to hear of that
                    container.outcomes.beside[stream_id, slot.number] = slot
            container.outcomes.rejoin(stream)
            stream.go_by(newest, container.id)
        container.join(store.known_writers)
        alone.join()
        return moved

    async def _settle(self, container: Container) -> None:
        """Make the container's copies of streams those of the registry."""
        registry = self._store.registry
        exist = {state.id: state for state in registry.streams()}
        gone = [one for one in container.streams.values() if one.id not in exist and registry.was_given(one.id)]
        for stream in gone:
            if not stream.deleted:
                self._showing.end(stream)
        await _some(container.update(Delete(STREAMS_TABLE, stream_key(stream.id))) for stream in gone)
        wanted = [s for s in exist.values() if container.id in s.containers or s.id in container.streams]
        await _some(self._bring(container, state) for state in wanted)

    async def _bring(self, container: Container, state: StreamState) -> None:
        stream = self._store.streams.by_id(state.id)
        if stream is None:
            if self._store.registry.stream(state.id) is None:
                return  # it has been deleted while others were brought
            stream = self._showing.begin(state)
        async with stream.changing:
            if stream.deleted:
                return
            try:
                await self._shares.bring_to(container, stream)
            except StoreError as error:
                self._shares.note_late(stream, error)
                return
            self._showing.show(stream)


async def _tell(moved: Iterable[Slot]) -> None:
    """Have whoever watches these look again: the stream has other objects for them."""
    async for slot in in_turns(moved):
        slot.changed()


async def _some(changes: Iterable[Awaitable[None]]) -> None:
    """Wait for all, some at a time."""
    waiting: Sequence[Awaitable[None]] = list(changes)
    for begin in range(0, len(waiting), COPIES_AT_ONCE):
        await asyncio.gather(*waiting[begin : begin + COPIES_AT_ONCE])
