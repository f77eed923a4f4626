"""The store: streams by name over the containers that hold them. The gateway talks to this.

**Invariants**

- A name belongs to one live stream at most, also while its creation is on its way to the log.
- A stream's slots, tables and records live in the container that the stream names.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Final, Self
from uuid import uuid4

from core.applied.tables import Delete, Put, Table
from core.clock import Clock, SystemClock
from core.config import StoreConfig
from core.container.container import Container
from core.container.forgetting import Forgetting
from core.errors import (
    AlreadyLocked,
    Corrupt,
    NotHosted,
    StorageFailure,
    StoreClosed,
    StreamExists,
    UnknownStream,
)
from core.hosted import HostedContainer, log_directory
from core.log.files import make_directory
from core.log.records import Operation
from core.log.replay import open_log_files
from core.retention import Consumed
from core.scaling.decisions import Decision
from core.scaling.scaler import ScaleEvent, Scaler
from core.streams.known_writers import KnownWriters
from core.streams.live import Slot, Stream
from core.streams.policy import StreamPolicy
from core.streams.registry import Streams
from core.streams.state import NEXT_STREAM_KEY, STREAM_IDS_TABLE, STREAMS_TABLE, Epoch, StreamState, new_stream
from core.tiering.context import LongTermStorage
from core.trusted_clock import TrustedClock

logger = logging.getLogger(__name__)

PolicyFor = Callable[[Mapping[str, str]], StreamPolicy]

HOME_CONTAINER: Final = 0
"""Place in `StoreConfig.container_ids` of the container that keeps tables and the ids of streams."""
TIME_FILE: Final = "time"
"""The file in the store's directory with the clock's state, see `core.trusted_time`."""


class Store:
    """The containers of one process. Open with `Store.open`, end with `close`."""

    def __init__(
        self,
        directory: Path,
        config: StoreConfig,
        policy_for: PolicyFor,
        clock: Clock,
        long_term: LongTermStorage | None = None,
    ) -> None:
        self.directory = directory
        self.config = config
        self.clock = clock
        self.trusted = TrustedClock(clock)
        self.known_writers = KnownWriters(config.writers_max)
        self._forgetting = Forgetting(self.known_writers, lambda: [one.container for one in self.containers.values()])
        self.streams = Streams()
        self.containers: dict[int, HostedContainer] = {}  # by id
        self.replayed_bytes = 0
        self.failed: asyncio.Future[StorageFailure] = asyncio.get_running_loop().create_future()
        self._policy_for = policy_for
        self._long_term = long_term
        self._creating: set[str] = set()
        self._leaving: set[asyncio.Task[None]] = set()  # containers that are being released
        self._released: dict[int, Stream] = {}  # streams of containers that were: not here, and not deleted
        self._lock_fd = -1
        self._next_stream_id = 1

    def __repr__(self) -> str:
        return f"<Store {self.directory} {len(self.streams)} streams in {len(self.containers)} containers>"

    @classmethod
    async def open(
        cls,
        directory: Path,
        config: StoreConfig,
        policy_for: PolicyFor,
        clock: Clock | None = None,
        long_term: LongTermStorage | None = None,
    ) -> Self:
        """Recover and start. Without long-term storage everything stays in the log.

        Raises AlreadyLocked, CorruptLog, CorruptState, StorageFailure.
        """
        store = cls(directory, config, policy_for, clock or SystemClock(), long_term)
        try:
            store._lock()
            await asyncio.to_thread(store.trusted.load, directory / TIME_FILE, store._newest_file_ms)
            for container_id in config.container_ids:
                await store._host(container_id)
        except BaseException:
            await store.close(clean=False)
            raise
        store.trusted.start()
        store._next_stream_id = max((stream.id for stream in store.streams), default=0) + 1
        highest = store.table(STREAM_IDS_TABLE).get(NEXT_STREAM_KEY)
        store._next_stream_id = max(store._next_stream_id, int.from_bytes(highest or b"", "big"))
        return store

    def _lock(self) -> None:
        make_directory(self.directory)
        path = self.directory / "lock"
        fd = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(fd, 100, 0).decode(errors="replace").strip()
            os.close(fd)
            raise AlreadyLocked(self.directory, f"process {owner or 'unknown'}") from error
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._lock_fd = fd

    def _newest_file_ms(self) -> int | None:
        """The time when the newest log file was begun, so a time that is past. Blocks."""
        begun: list[int] = []
        for container_id in self.config.container_ids:
            with contextlib.suppress(Corrupt, OSError):  # recovery says what is wrong with it
                begun += (file.created_ms for file in open_log_files(log_directory(self.directory, container_id)))
        return max(begun, default=None)

    async def _host(self, container_id: int) -> None:
        """Open a container and serve it."""
        hosted = await HostedContainer.open(
            container_id,
            self.directory,
            self.config,
            self.clock,
            self.trusted,
            self.known_writers,
            self._stream_changed,
            self._scale,
        )
        self.containers[container_id] = hosted
        self.replayed_bytes += hosted.recovered.replayed_bytes
        hosted.container.failed.add_done_callback(
            lambda failed: None if failed.cancelled() else self._container_failed(hosted, failed.result())
        )
        await hosted.start(self._long_term)

    def start_retention(self, consumed: Consumed | None = None) -> None:
        """Apply the streams' policies from now on: once `policy_for` knows every default, not before.

        `consumed` gives the progress of the consumers that a policy names.
        """
        for hosted in self.containers.values():
            hosted.retention.start(consumed)
        self._forgetting.start()

    def start_scaling(self) -> None:
        """Take rates and scale streams from now on: once `policy_for` knows every default, not before."""
        for hosted in self.containers.values():
            hosted.scaler.start()

    def _container_failed(self, hosted: HostedContainer, failure: StorageFailure) -> None:
        """End the process only if nothing can go on without this container."""
        is_home = hosted.id == self.config.container_ids[HOME_CONTAINER]
        if not is_home and any(not one.container.failed.done() for one in self.containers.values()):
            logger.error(
                "a container failed: nothing is appended to its streams until the next start, the others go on",
                extra={"container": hosted.id, "reason": str(failure)},
            )
        elif not self.failed.done():
            self.failed.set_result(failure)

    async def release(self, container_id: int) -> None:
        """Stop serving a container: from now on its slots get NotHosted. It is closed when this returns.

        Others go on. Raises NotHosted for one that is not open, ValueError for the one that nothing can go on without,
        StorageFailure when its stop was not clean.
        """
        if container_id == self.config.container_ids[HOME_CONTAINER]:
            raise ValueError(f"container {container_id} keeps the tables of this store: close the store instead")
        hosted = self.containers.pop(container_id, None)
        if hosted is None:
            raise NotHosted(container_id)
        self._released |= hosted.container.streams
        leaving = asyncio.create_task(hosted.release(), name=f"release of container {container_id}")
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)
        await asyncio.shield(leaving)
        logger.info("container released", extra={"container": container_id})

    async def close(self, *, clean: bool = True) -> None:
        """Stop. After a clean stop the next start replays nothing. Callers must have ended their appends."""
        await self._forgetting.stop()
        await asyncio.gather(*self._leaving, return_exceptions=True)
        failures: list[StorageFailure] = []
        for hosted in list(self.containers.values()):
            try:
                await hosted.close(clean=clean)
            except StorageFailure as failure:  # of one container: the others are closed all the same
                failures.append(failure)
        self.containers.clear()
        await self.trusted.stop()
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1
        if failures:
            raise failures[0]

    # Containers

    def hosted(self, slot: Slot) -> HostedContainer:
        """The container that a slot lies in. Raises NotHosted, and is the only place that decides so."""
        found = self.containers.get(slot.container_id)
        if found is None:
            raise NotHosted(slot.container_id)
        return found

    @property
    def home(self) -> Container:
        """The container that keeps tables and the ids of streams. Raises StoreClosed after a stop."""
        hosted = self.containers.get(self.config.container_ids[HOME_CONTAINER])
        if hosted is None:
            raise StoreClosed("the store has been closed")
        return hosted.container

    # Streams

    async def create_stream(self, name: str, *, slots: int, config: Mapping[str, str] | None = None) -> Stream:
        """Make a stream; it is durable when this returns.

        Raises StreamExists (also while another call makes it), ValueError for less than one slot, StoreError.
        """
        if slots < 1:
            raise ValueError(f"a stream has at least one slot, not {slots}")
        if name in self._creating or self.streams.get(name) is not None:
            raise StreamExists(name)
        container = self.home
        stream_id = self._next_stream_id
        self._next_stream_id += 1
        state = new_stream(
            stream_id=stream_id,
            name=name,
            uuid=uuid4(),
            slots=slots,
            created_ms=self.clock.wall_ms(),
            container=container.id,
            config=config or {},
            segments=self._policy_for(config or {}).scaling.min_segments,
        )
        self._creating.add(name)
        try:
            # The next id is logged too: the id of a deleted stream must never come back.
            await container.update(
                _put(state), Put(STREAM_IDS_TABLE, NEXT_STREAM_KEY, (stream_id + 1).to_bytes(4, "big"))
            )
        finally:
            self._creating.discard(name)
        return container.streams[stream_id]

    async def update_stream(self, stream: Stream, *, config: Mapping[str, str]) -> None:
        """Replace a stream's configuration, durably. Raises UnknownStream, StoreError."""
        await self._change(stream, lambda state: state.configured(config))

    async def grow_stream(self, stream: Stream, slots: int) -> None:
        """Give a stream more slots, durably: a scale that seals every segment.

        Raises UnknownStream, StreamSealed, ValueError if the stream already has as many, StoreError.
        """
        await self._change(stream, lambda state: state.grown(slots, self.clock.wall_ms()), "grown")

    async def scale_stream(
        self, stream: Stream, sealed: Collection[int], cuts: Collection[int], reason: str, kind: str = "manual"
    ) -> Epoch:
        """Seal neighbouring segments and open others over their slots, in one atomic record; returns the new epoch.

        `cuts` are positions in key order.
        Raises UnknownStream, StreamSealed, ValueError if the arguments describe no scale, StoreError.
        """
        return await self._change(stream, lambda state: state.scaled(sealed, cuts, self.clock.wall_ms(), reason), kind)

    async def seal_stream(self, stream: Stream) -> None:
        """End a stream, durably: it takes no more entries and is still read.

        Raises UnknownStream, StreamSealed when it is already, StoreError.
        """
        await self._change(stream, lambda state: state.sealed_at(self.clock.wall_ms()))

    async def _scale(self, stream: Stream, decision: Decision) -> None:
        await self.scale_stream(stream, decision.sealed, decision.cuts, decision.reason, decision.kind)

    async def delete_stream(self, stream: Stream) -> None:
        """Delete a stream, durably. Raises UnknownStream, StoreError."""
        async with stream.changing:
            if stream.deleted:
                raise UnknownStream(stream.name)
            await self._hosted_of(stream).container.update(Delete(STREAMS_TABLE, stream.id.to_bytes(4, "big")))

    async def _change(
        self, stream: Stream, changed: Callable[[StreamState], StreamState], kind: str | None = None
    ) -> Epoch:
        # Each change starts from the outcome of the one before: a record holds the whole state.
        async with stream.changing:
            if stream.deleted:
                raise UnknownStream(stream.name)
            before, state = stream.state.current, changed(stream.state)
            if state.current is not before:
                going_on = {segment.number for segment in state.current.segments}
                sealed = [segment for segment in before.segments if segment.number not in going_on]
                state = state.measured({segment.number: stream.segment_bytes(segment) for segment in sealed})
            hosted = self._hosted_of(stream)
            await hosted.container.change_stream(stream, state)
            if kind is not None:
                _record(hosted.scaler, stream, before, state.current, kind)
            return state.current

    def scaler_of(self, stream: Stream) -> Scaler:
        """The scaler that takes a stream's rates. Raises NotHosted."""
        return self._hosted_of(stream).scaler

    def stream_of(self, stream_id: int) -> Stream | None:
        """The live stream with this id, also of a container that was released: its slots are not here, but not gone."""
        found = (hosted.container.streams.get(stream_id) for hosted in self.containers.values())
        return next((stream for stream in found if stream is not None), None) or self._released.get(stream_id)

    def refresh_policies(self) -> None:
        """Ask for every stream's policy again (a default changed)."""
        for stream in self.streams:
            stream.policy = self._policy_for(stream.config)

    def _hosted_of(self, stream: Stream) -> HostedContainer:
        found = self.containers.get(stream.state.container)
        if found is None:
            raise NotHosted(stream.state.container)
        return found

    def _stream_changed(self, container: Container, stream_id: int, state: StreamState | None) -> Stream | None:
        stream = container.streams.get(stream_id)
        if state is None:
            if stream is not None:
                self.streams.remove(stream)
        elif stream is None:
            stream = Stream(state, self._policy_for(state.config), container.make_slot)
            self.streams.add(stream)
        else:
            stream.state = state
            stream.policy = self._policy_for(state.config)
        return stream

    # Tables

    def table(self, name: str) -> Table:
        """A table's applied state; empty when nothing was ever put."""
        return self.home.table(name)

    async def update(self, *operations: Put | Delete) -> None:
        """Change tables by one atomic record; durable and applied when this returns. Raises StoreError."""
        changes: tuple[Operation, ...] = operations
        await self.home.update(*changes)

    async def synced(self) -> None:
        """Wait until all changes of tables are synced, in every mode. Raises StoreError.

        Call it before an identity is given out. In mode `interval` a change counts before it is synced: a power cut
        could take it back, and the identity would be given out a second time.
        """
        await self.home.synced()


def _put(state: StreamState) -> Put:
    return Put(STREAMS_TABLE, state.id.to_bytes(4, "big"), state.encode())


def _record(scaler: Scaler, stream: Stream, before: Epoch, after: Epoch, kind: str) -> None:
    going_on = {segment.number for segment in after.segments}
    event = ScaleEvent(
        time_ms=after.started_ms,
        stream=stream.name,
        epoch=after.epoch,
        kind=kind,
        reason=after.reason,
        sealed=tuple(segment.number for segment in before.segments if segment.number not in going_on),
        opened=tuple(segment.number for segment in after.opened),
    )
    scaler.record(event)
    logger.info(
        "stream scaled",
        extra={"stream": event.stream, "epoch": event.epoch, "kind": kind, "reason": event.reason}
        | {"sealed": event.sealed, "opened": event.opened},
    )
