"""The store: streams by name over the containers that hold them. The gateway talks to this.

**Invariants**

- A name belongs to one live stream at most, also while its creation is on its way to the log.
- A slot's entries, and all that belongs to them, live in the slot's container. What containers have in common is the
  registry's, and is decided there first (`core.cluster`).
- A change of a stream is seen once each of its containers has it in its log.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self
from uuid import uuid4

from core.applied.tables import Delete, Put, Table
from core.clock import Clock, SystemClock
from core.cluster.following import Changed, Following, SharedRegistry
from core.cluster.placement import Loads
from core.cluster.registry import NewStream, Registry
from core.cluster.shares import Shares
from core.cluster.table_registry import TableRegistry
from core.config import LogStore, StoreConfig
from core.container.container import Container
from core.container.forgetting import Forgetting
from core.errors import (
    AlreadyLocked,
    Corrupt,
    NotHosted,
    Stale,
    StorageFailure,
    StorageFull,
    StoreClosed,
    StoreError,
    UnknownStream,
)
from core.hosted import HostedContainer, StreamChanged, container_directory, log_directory
from core.joining import Joining
from core.log.files import make_directory
from core.log.objects.home import Claimed, LogStorage
from core.log.objects.prefetch import Prefetched
from core.log.records import Operation
from core.log.replay import open_log_files
from core.moving import Moved, Mover
from core.retention import Consumed
from core.scaling.decisions import Decision
from core.scaling.scaler import ScaleEvent, Scaler
from core.streams.known_writers import KnownWriters
from core.streams.live import Slot, Stream
from core.streams.policy import StreamPolicy
from core.streams.registry import Streams
from core.streams.state import Epoch, Segment, StreamState
from core.tiering.context import LongTermStorage
from core.trusted_clock import TrustedClock

logger = logging.getLogger(__name__)

PolicyFor = Callable[[Mapping[str, str]], StreamPolicy]

HOME_CONTAINER: Final = 0
"""Place in `StoreConfig.container_ids` of the container that keeps tables and the registry."""
TIME_FILE: Final = "time"
"""The file in the store's directory with the clock's state, see `core.trusted_time`."""
LOCK_S_MAX: Final = 10.0
"""Longest wait for the process that had a container before: the system frees its lock when it ends."""
LOCK_PAUSE_S: Final = 0.02
CHANGE_TRIES_MAX: Final = 20
"""How often a change is decided anew because another process changed the stream meanwhile."""

Followed = Callable[[Changed], None]


class Store:
    """The containers of one process. Open with `Store.open`, end with `close`."""

    def __init__(
        self,
        directory: Path,
        config: StoreConfig,
        policy_for: PolicyFor,
        clock: Clock,
        long_term: LongTermStorage | None = None,
        shared: SharedRegistry | None = None,
        hosts: Collection[int] | None = None,
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
        self._log_storage = self._storage_of_log()
        self._known: dict[int, Container] = {}  # all that were ever opened, by id: the owners of slots
        self._tables = TableRegistry(lambda: self.home, lambda container_id: self._hosted(container_id).container)
        self.registry: Registry = self._tables if shared is None else shared
        self._shared = shared
        self._hosts = tuple(config.container_ids if hosts is None else sorted(hosts))
        self._followed: list[Followed] = []
        self._loads = Loads()
        self._shares = Shares(self.streams, self._open_containers, self.show)
        self._following = None if shared is None else Following(shared, self.streams, self._shares, self)
        self._is_settled = False  # copies of streams agree: recovery is over
        self._under_way: set[asyncio.Task[Stream]] = set()  # creations, which go on when their caller has gone
        self._leaving: set[asyncio.Task[None]] = set()  # containers that are being released
        self.joining = Joining(self, self._shares)  # for a cluster
        self._mover = Mover(self)
        self._hindrances: list[Callable[[Slot], str | None]] = []
        self.is_ours: Callable[[int], bool] | None = None  # in a cluster: whether what is open here is still ours
        self.on_lost: Callable[[int, StorageFailure], None] | None = None  # in a cluster: hears that a container failed
        self._consumed: Consumed | None = None
        self._retains = False  # retention was started
        self._scales = False
        self._locks: list[int] = []  # descriptors

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
        *,
        shared: SharedRegistry | None = None,
        hosts: Collection[int] | None = None,
    ) -> Self:
        """Recover and start. Without long-term storage everything stays in the log.

        With a `shared` registry this process opens the containers `hosts` only; others have the rest. In a cluster
        there are none at the start: they are opened and released at runtime, by `joining`.
        Raises AlreadyLocked, CorruptLog, CorruptState, StorageFailure.
        """
        store = cls(directory, config, policy_for, clock or SystemClock(), long_term, shared, hosts)
        try:
            await store._lock()
            await asyncio.to_thread(store.trusted.load, store._time_file(), store._newest_file_ms)
            await store._admit()
            for container_id in store._hosts:
                await store._host(container_id)
            await store._settle()
        except BaseException:
            await store.close(clean=False)
            raise
        store.trusted.start()
        return store

    def _storage_of_log(self) -> LogStorage | None:
        """The storage that has the log; None if it lies on this machine."""
        if self.config.log_store is LogStore.DISK:
            return None
        if self._long_term is None:
            raise ValueError("a log in long-term storage, and no long-term storage")
        storage = self._long_term.storage
        return LogStorage(storage=storage, puts=self._long_term.log_puts or storage)

    async def _admit(self) -> None:
        """Before the log is taken over: is long-term storage ours? Raises what `LongTermStorage.admit` raises."""
        if self._log_storage is not None and self._long_term is not None and self._long_term.admit is not None:
            await self._long_term.admit(False)
            self._long_term = replace(self._long_term, admit=None)

    async def _settle(self) -> None:
        """Make one store of the recovered containers."""
        if self._following is not None:
            self._is_settled = True
            await self._following.settle()
            await self._mover.settle(self.streams.by_id)
            self._following.start()
            self._shares.start(self._hosts[0] if self._hosts else HOME_CONTAINER)
            return
        await self._shares.settle(self.registry)
        await self._mover.settle(self.streams.by_id)
        self._is_settled = True
        self._tables.load(stream.state for stream in self.streams.all())
        if len(self.containers) > 1:
            self._shares.start(self.home.id)

    def _time_file(self) -> Path:
        """The clock's file; a process that has a part of the containers has one of its own."""
        shared = self._shared is not None and bool(self._hosts)
        return self.directory / (f"{TIME_FILE}-{self._hosts[0]}" if shared else TIME_FILE)

    async def _lock(self) -> None:
        """Own the directory, or each container that this process opens."""
        make_directory(self.directory)
        if self._shared is None or not self._hosts:
            self._locks.append(_locked(self.directory))
            return
        for container_id in self._hosts:
            directory = container_directory(self.config.place(self.directory, container_id), container_id)
            make_directory(directory)
            deadline = self.clock.monotonic_s() + LOCK_S_MAX
            while True:
                try:
                    self._locks.append(_locked(directory))
                    break
                except AlreadyLocked:
                    if self.clock.monotonic_s() > deadline:
                        raise
                await asyncio.sleep(LOCK_PAUSE_S)

    def _newest_file_ms(self) -> int | None:
        """The time when the newest log file was begun, so a time that is past. Blocks."""
        begun: list[int] = []
        for container_id in self._hosts:
            with contextlib.suppress(Corrupt, OSError):  # recovery says what is wrong with it
                logs = log_directory(self.config.place(self.directory, container_id), container_id)
                begun += (file.created_ms for file in open_log_files(logs))
        return max(begun, default=None)

    async def _host(self, container_id: int) -> None:
        """Open a container and serve it."""
        hosted = await self._open(container_id, self.known_writers, self.stream_changed, None)
        self.containers[container_id] = hosted
        self.replayed_bytes += hosted.recovered.replayed_bytes
        await self.begin_serving(hosted)

    async def _open(
        self, container_id: int, known_writers: KnownWriters, stream_changed: StreamChanged, claimed: Claimed | None
    ) -> HostedContainer:
        return await HostedContainer.open(
            container_id,
            self.place_of(container_id),
            self.config.share(),
            self.clock,
            self.trusted,
            known_writers,
            stream_changed,
            self._scale,
            self._log_storage,
            claimed,
        )

    # How containers come and go in a cluster: see `core.joining`

    async def open_alone(
        self, container_id: int, known_writers: KnownWriters, stream_changed: StreamChanged, claimed: Claimed
    ) -> HostedContainer:
        """Recover a container that nobody else uses yet. Raises StoreError, OSError."""
        return await self._open(container_id, known_writers, stream_changed, claimed)

    async def prefetch(self, container_id: int) -> Prefetched:
        """Read ahead what a takeover of a container would read. Raises StorageFailure, StorageError, OSError."""
        if self._log_storage is None:
            raise ValueError("a log on this machine is not taken over")
        found = Prefetched(self._log_storage.storage, container_id, self.place_of(container_id))
        try:
            await found.fetch()
        except BaseException:
            found.forget()
            raise
        return found

    async def begin_serving(self, hosted: HostedContainer) -> None:
        """Have a container take appends, and begin its background work. Raises StoreError."""
        hosted.container.failed.add_done_callback(
            lambda failed: None if failed.cancelled() else self._container_failed(hosted, failed.result())
        )
        await hosted.start(self._long_term)
        if self._retains:
            hosted.retention.start(self._consumed)
        if self._scales:
            hosted.scaler.start()

    def policy_of(self, state: StreamState) -> StreamPolicy:
        """The policy of a stream in this state."""
        return self._policy_for(state.config)

    def know(self, container: Container) -> None:
        """A container owns its slots from now on."""
        self._known[container.id] = container

    def forget(self, container_id: int) -> None:
        """The slots of a container are addresses from now on."""
        self._known.pop(container_id, None)

    def place_of(self, container_id: int) -> Path:
        """The directory that holds a container's."""
        return self.config.place(self.directory, container_id)

    def start_retention(self, consumed: Consumed | None = None) -> None:
        """Apply the streams' policies from now on: once `policy_for` knows every default, not before.

        `consumed` gives the progress of the consumers that a policy names.
        """
        self._retains, self._consumed = True, consumed
        for hosted in self.containers.values():
            hosted.retention.start(consumed)
        self._forgetting.start()

    def start_scaling(self) -> None:
        """Take rates and scale streams from now on: once `policy_for` knows every default, not before."""
        self._scales = True
        for hosted in self.containers.values():
            hosted.scaler.start()

    def _container_failed(self, hosted: HostedContainer, failure: StorageFailure) -> None:
        """End the process only if no container is left: each answers for its own slots. A cluster has other nodes."""
        if hosted.container.is_sealed:
            return  # it has been handed over, or is about to be
        if self.on_lost is not None:
            logger.warning("a container is lost", extra={"container": hosted.id, "reason": str(failure)})
            self.on_lost(hosted.id, failure)
        elif any(not one.container.failed.done() for one in self.containers.values()):
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
        leaving = asyncio.create_task(hosted.release(), name=f"release of container {container_id}")
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)
        await asyncio.shield(leaving)
        logger.info("container released", extra={"container": container_id})

    async def close(self, *, clean: bool = True) -> None:
        """Stop. After a clean stop the next start replays nothing. Callers must have ended their appends."""
        await self._mover.stop()
        await self._forgetting.stop()
        if self._following is not None:
            await self._following.stop()
        await self._shares.stop()
        await asyncio.gather(*self._leaving, *self._under_way, return_exceptions=True)
        await self.joining.close()
        failures: list[StorageFailure] = []
        for hosted in list(self.containers.values()):
            try:
                await hosted.close(clean=clean)
            except StorageFailure as failure:  # of one container: the others are closed all the same
                failures.append(failure)
        self.containers.clear()
        await self.trusted.stop()
        while self._locks:
            os.close(self._locks.pop())
        if failures:
            raise failures[0]

    # Containers

    def hosted(self, slot: Slot) -> HostedContainer:
        """The container that a slot lies in. Raises NotHosted, and is the only place that decides so."""
        return self._hosted(slot.container_id)

    def _hosted(self, container_id: int) -> HostedContainer:
        found = self.containers.get(container_id)
        if found is None or (self.is_ours is not None and not self.is_ours(container_id)):
            raise NotHosted(container_id)
        return found

    def serves(self, container_id: int) -> bool:
        """Whether a container is open here, and certainly still ours."""
        return container_id in self.containers and (self.is_ours is None or self.is_ours(container_id))

    def _open_containers(self) -> list[Container]:
        return [hosted.container for hosted in self.containers.values()]

    @property
    def home(self) -> Container:
        """The container that keeps tables and the ids of streams. Raises StoreClosed after a stop."""
        hosted = self.containers.get(self.config.container_ids[HOME_CONTAINER])
        if hosted is None:
            raise StoreClosed("the store has been closed")
        return hosted.container

    # Streams

    async def create_stream(self, name: str, *, slots: int, config: Mapping[str, str] | None = None) -> Stream:
        """Make a stream; it is durable in all of its containers when this returns.

        Raises StreamExists (also while another call makes it), ValueError for less than one slot, StoreError.
        """
        if slots < 1:
            raise ValueError(f"a stream has at least one slot, not {slots}")
        try:
            return await self._create_once(name, slots, config or {})
        except StorageFull:  # the container that had no room is left out now, if it was one of several
            return await self._create_once(name, slots, config or {})

    async def _create_once(self, name: str, slots: int, config: Mapping[str, str]) -> Stream:
        policy = self._policy_for(config)
        wanted = NewStream(
            name=name,
            uuid=uuid4(),
            slots=slots,
            created_ms=self.clock.wall_ms(),
            config=config,
            segments=policy.scaling.min_segments,
            placement=self._place(slots, spread=policy.spread),
        )
        self._loads.expect(wanted.placement, slots)
        creation = asyncio.create_task(self._create(wanted))
        self._under_way.add(creation)
        creation.add_done_callback(self._under_way.discard)
        creation.add_done_callback(lambda _: self._loads.expect(wanted.placement, -slots))
        return await asyncio.shield(creation)

    def _place(self, slots: int, *, spread: bool) -> Sequence[int]:
        """The containers for the slots of a stream. Raises StorageFailure when all have failed."""
        open_now = {one.id: one for one in self._open_containers() if not one.failed.done()}
        if self._shared is not None:
            failed = self.containers.keys() - open_now.keys()
            return self._loads.place(slots, set(self.config.container_ids) - failed, spread=spread)
        if not open_now:
            raise self.home.failed.result()
        if len(open_now) > 1:
            appended = {one.id: one.appended_bytes for one in open_now.values()}
            self._loads.observe(appended, self.clock.monotonic_s())
        with_room = [id for id, one in open_now.items() if not self._shares.has_refused(one)]
        return self._loads.place(slots, with_room or list(open_now), spread=spread)

    async def _create(self, wanted: NewStream) -> Stream:
        state = await self.registry.create(wanted)
        if self._following is not None:
            return await self._create_shared(self._following, state)
        stream = self.streams.by_id(state.id)
        assert stream is not None, "the registry's decision was applied"
        if state.is_elsewhere:
            try:
                await self._shares.bring(stream)
            except StoreError:
                await self._take_back(stream)
                raise
            self.show(stream)
        return stream

    async def _create_shared(self, following: Following, state: StreamState) -> Stream:
        stream = await following.take(state)
        if not self.streams.has_name(stream):
            await self._take_back(stream)
            raise StorageFull(f"a container has no room for stream {state.name!r}: free some disk space")
        return stream

    async def _take_back(self, stream: Stream) -> None:
        """End a stream that could not be made in all of its containers. If this fails, the next start settles it."""
        try:
            await self.registry.delete(stream.state)
            await self._shares.drop(stream)
        except StoreError as error:
            self._shares.note_late(stream, error)

    async def update_stream(self, stream: Stream, *, config: Mapping[str, str]) -> None:
        """Replace a stream's configuration, durably. Raises UnknownStream, StoreError."""
        await self._change(stream, lambda state: state.configured(config))

    async def grow_stream(self, stream: Stream, slots: int) -> None:
        """Give a stream more slots, durably: a scale that seals every segment.

        Raises UnknownStream, StreamSealed, ValueError if the stream already has as many, StoreError.
        """
        places = self._place(slots, spread=True) if stream.policy.spread else ()
        await self._change(stream, lambda state: state.grown(slots, self.clock.wall_ms(), places), "grown")

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

    async def move_slot(self, stream: Stream, number: int, container_id: int) -> Moved:
        """Move a slot to another container of this process, while it is written and read. See `core.moving`.

        Raises UnknownStream, NotHosted, CannotMove, NotMovedYet, StoreError.
        """
        return await self._mover.move(stream, number, container_id)

    async def decide_move(self, stream: Stream, number: int, target: int) -> None:
        """Name another container as a slot's, and follow; the caller holds `stream.changing`. Raises StoreError."""
        reason = f"slot {number} moved to container {target}"

        def moved(state: StreamState) -> StreamState:
            return state.moved(number, target, self.clock.wall_ms(), reason)

        for _ in range(CHANGE_TRIES_MAX - 1):
            with contextlib.suppress(Stale):
                await self._change_once(stream, moved, "move")
                return
            await self._catch_up(stream)
        await self._change_once(stream, moved, "move")

    def on_move(self, hindrance: Callable[[Slot], str | None]) -> None:
        """Ask before each move of a slot whether something beside it keeps it where it is: why, or None."""
        self._hindrances.append(hindrance)

    def hindrance_of(self, slot: Slot) -> str | None:
        """The reason why a slot must stay where it is."""
        return next((why for ask in self._hindrances if (why := ask(slot)) is not None), None)

    async def _scale(self, stream: Stream, decision: Decision) -> None:
        await self.scale_stream(stream, decision.sealed, decision.cuts, decision.reason, decision.kind)

    async def delete_stream(self, stream: Stream) -> None:
        """Delete a stream, durably. Raises UnknownStream, StoreError."""
        async with stream.changing:
            if stream.deleted:
                raise UnknownStream(stream.name)
            await self.registry.delete(stream.state)
            if not stream.deleted:
                self.end(stream)
            try:
                await self._shares.drop(stream)
            except StoreError as error:
                self._shares.note_late(stream, error)

    async def _change(
        self, stream: Stream, changed: Callable[[StreamState], StreamState], kind: str | None = None
    ) -> Epoch:
        # Each change starts from the outcome of the one before: a record holds the whole state.
        async with stream.changing:
            for _ in range(CHANGE_TRIES_MAX - 1):
                with contextlib.suppress(Stale):
                    return await self._change_once(stream, changed, kind)
                await self._catch_up(stream)
            return await self._change_once(stream, changed, kind)

    async def _change_once(
        self, stream: Stream, changed: Callable[[StreamState], StreamState], kind: str | None
    ) -> Epoch:
        if stream.deleted:
            raise UnknownStream(stream.name)
        before, state = stream.state.current, changed(stream.state)
        if state.current is not before:
            going_on = {segment.number for segment in state.current.segments}
            sealed = [segment for segment in before.segments if segment.number not in going_on]
            state = state.measured({segment.number: stream.segment_bytes(segment) for segment in sealed})
        await self._decide(stream, state)
        if kind is not None:
            _record(self._scaler_of_epoch(state), stream, before, state.current, kind)
        return state.current

    async def _catch_up(self, stream: Stream) -> None:
        """Take over what another process has changed in a stream. Raises UnknownStream."""
        assert self._shared is not None, "nobody else changes streams"
        assert self._following is not None
        newest = self._shared.stream(stream.id)
        if newest is None:
            raise UnknownStream(stream.name)
        await self._following.take_locked(stream, newest)

    async def _decide(self, stream: Stream, state: StreamState) -> None:
        """Make this a stream's state. If a container has no room for it, a growth is taken back."""
        before = stream.state
        await self.registry.change(state)
        if self._following is not None:
            await self._following.take_locked(stream, state)
            return
        if not state.is_elsewhere and not before.is_elsewhere:
            return
        try:
            await self._shares.bring(stream)
        except StoreError as error:
            if state.slots != before.slots:
                await self.registry.change(before.after(state))
                self.show(stream)
                self._shares.note_late(stream, error)
                raise
            self._shares.note_late(stream, error)
        self.show(stream)

    # How decisions are taken over

    def begin(self, state: StreamState) -> Stream:
        """Know a stream, which has no name yet."""
        stream = Stream(state, self._policy_for(state.config), self._make_slot)
        self.streams.add(stream)
        self._loads.add(state)
        return stream

    def followed(self, changed: Changed) -> None:
        """Tell those who asked of what all processes have changed in the registry."""
        for told in self._followed:
            told(changed)

    @property
    def is_shared(self) -> bool:
        """Whether other processes have a part of the containers."""
        return self._shared is not None

    async def catch_up(self) -> None:
        """Take over all that other processes have decided by now. Raises StoreError."""
        if self._following is not None:
            await self._following.follow()

    def on_followed(self, told: Followed) -> None:
        """Call `told` on the loop with what changed in the registry, here or elsewhere; only where it is shared."""
        self._followed.append(told)

    def show(self, stream: Stream) -> None:
        """Make visible what was decided about a stream: all of its containers have it."""
        self._take(stream, stream.logged)
        self.streams.name(stream)

    def _take(self, stream: Stream, state: StreamState) -> None:
        if state.current is not stream.state.current:
            self._loads.add(stream.state, -1)
            self._loads.add(state)
        stream.state = state
        stream.policy = self._policy_for(state.config)

    def scaler_of(self, stream: Stream, segment: Segment) -> Scaler:
        """The scaler that takes the rates of a segment's slots. Raises NotHosted."""
        return self._hosted(stream.state.container_of(segment)).scaler

    def _scaler_of_epoch(self, state: StreamState) -> Scaler | None:
        """The scaler that remembers a stream's newest epoch: that of the first segment it opened, if it is here."""
        found = self.containers.get(state.container_of(state.current.opened[0]))
        return next((one.scaler for one in self.containers.values()), None) if found is None else found.scaler

    def leader_epochs(self, stream: Stream) -> dict[int, int]:
        """The leader epoch of each container that has some of a stream's slots, by the container's id."""
        known = self._known
        return {one: known[one].epoch for one in sorted(stream.state.containers) if one in known}

    def stream_of(self, stream_id: int) -> Stream | None:
        """The live stream with this id, also of a container that was released: its slots are not here, but not gone."""
        return self.streams.by_id(stream_id)

    def refresh_policies(self) -> None:
        """Ask for every stream's policy again (a default changed)."""
        for stream in self.streams:
            stream.policy = self._policy_for(stream.config)

    def stream_changed(self, container: Container, stream_id: int, state: StreamState | None) -> Stream | None:
        """A container's row of a stream is durable: the decision about it, or a copy."""
        self._known[container.id] = container
        stream = self.streams.by_id(stream_id)
        if state is None:
            if stream is not None and stream.state.container == container.id:
                self.end(stream)
            return stream
        decides = container.id == state.container
        if stream is None:
            stream = self.begin(state)
        elif state.revision >= stream.state.revision and not (self._is_settled and state.is_elsewhere):
            self._take(stream, state)
        if decides and not state.is_elsewhere:
            self.streams.name(stream)
        return stream

    def end(self, stream: Stream) -> None:
        """A stream is gone."""
        stream.deleted = True
        self.streams.remove(stream)
        self._loads.add(stream.state, -1)
        for slot in stream.written_slots():
            slot.changed()

    def _make_slot(self, stream: Stream, number: int) -> Slot:
        container_id = stream.logged.container_of_slot(number)
        container = self._known.get(container_id)
        if container is not None:
            return container.make_slot(stream, number)
        if self._shared is None:
            raise NotHosted(container_id)
        return Slot(_Elsewhere(container_id, self.known_writers), stream, number)

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


@dataclass(frozen=True, slots=True)
class _Elsewhere:
    """The owner of a slot that another process has: the slot is an address here, without entries."""

    id: int
    known_writers: KnownWriters
    epoch: int = -1  # not known here


def _locked(directory: Path) -> int:
    """Lock a directory for this process; returns the descriptor that holds the lock. Raises AlreadyLocked."""
    fd = os.open(directory / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = os.pread(fd, 100, 0).decode(errors="replace").strip()
        os.close(fd)
        raise AlreadyLocked(directory, f"process {owner or 'unknown'}") from error
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def _record(scaler: Scaler | None, stream: Stream, before: Epoch, after: Epoch, kind: str) -> None:
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
    if scaler is not None:
        scaler.record(event)
    logger.info(
        "stream scaled",
        extra={"stream": event.stream, "epoch": event.epoch, "kind": kind, "reason": event.reason}
        | {"sealed": event.sealed, "opened": event.opened},
    )
