"""The store: streams by name over the containers that hold them. The gateway talks to this.

The store opens containers, and closes them. How streams are changed is `core.deciding`'s, and which of them are seen
`core.showing`'s.

**Invariants**

- A slot's entries, and all that belongs to them, live in the slot's container. What containers have in common is the
  registry's, and is decided there first (`core.cluster`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final, Self

from core.applied.tables import Delete, Put, Table
from core.beside import Hindrance
from core.clock import Clock, SystemClock
from core.cluster.following import Following, SharedRegistry
from core.cluster.registry import Held, Registry
from core.cluster.shares import Shares
from core.cluster.table_registry import TableRegistry
from core.config import LogStore, StoreConfig
from core.container.container import Container
from core.container.forgetting import Forgetting
from core.deciding import Configure, Deciding
from core.errors import CannotMove, CoordinatorRefuses, NotHosted, StorageFailure, StoreClosed
from core.hosted import HostedContainer, StreamChanged
from core.joining import Joining
from core.log.objects.format import log_key
from core.log.objects.home import Claimed, LogStorage
from core.log.objects.prefetch import Prefetched
from core.log.objects.protocol import GENESIS
from core.log.records import Operation
from core.moving import Moved, Mover
from core.premises import Premises
from core.retention import Consumed
from core.scaling.decisions import Decision
from core.scaling.scaler import Scaler
from core.serving import Serving
from core.showing import Followed, PolicyFor, Showing
from core.streams.known_writers import KnownWriters
from core.streams.live import Slot, Stream
from core.streams.registry import Streams
from core.streams.state import Epoch, Segment
from core.tiering.context import LongTermStorage
from core.trusted_clock import TrustedClock

logger = logging.getLogger(__name__)

HOME_CONTAINER: Final = 0
"""Place in `StoreConfig.container_ids` of the container that keeps tables and the registry."""


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
        self._long_term = long_term
        self._log_storage = self._storage_of_log()
        self._tables = TableRegistry(lambda: self.home, lambda container_id: self._hosted(container_id).container)
        self.registry: Registry = self._tables if shared is None else shared
        self._shared = shared
        self._hosts = tuple(config.container_ids if hosts is None else sorted(hosts))
        showing = self._showing = Showing(self.streams, policy_for, self.known_writers, is_shared=shared is not None)
        shares = self._shares = Shares(self.streams, self.open_containers, showing.show)
        self._following = None if shared is None else Following(shared, self.streams, shares, showing)
        self._deciding = Deciding(self, self.registry, self.streams, shares, showing, self._following)
        self._leaving: set[asyncio.Task[None]] = set()  # containers that are being released
        self.joining = Joining(self, shares, showing)  # for a cluster
        self.mover = Mover(self)
        self.is_ours: Callable[[int], bool] | None = None  # in a cluster: whether what is open here is still ours
        self.on_lost: Callable[[int, StorageFailure], None] | None = None  # in a cluster: hears that a container failed
        self.on_risen: Callable[[], Awaitable[None]] | None = None  # beside other processes: tells them of all epochs
        self.raises: Callable[[int], Awaitable[None]] | None = None  # in a cluster: raises a container's leader epoch
        self.relocates: Callable[[Stream, int, int], Awaitable[None]] | None = None  # there: between nodes
        self._serving = Serving(self.containers, config, len(self._hosts), self._container_failed)
        self._premises = Premises(directory, config, self._hosts, is_shared=shared is not None)

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
            await store._premises.lock(store.clock)
            await asyncio.to_thread(store.trusted.load, store._premises.time_file(), store._premises.newest_file_ms)
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
            self._showing.is_settled = True
            await self._following.settle()
            await self.mover.settle(self.streams.by_id)
            self._following.start()
            self._shares.start(self._hosts[0] if self._hosts else HOME_CONTAINER)
            return
        await self._shares.settle(self.registry)
        await self.mover.settle(self.streams.by_id)
        self._showing.is_settled = True
        self._tables.load(stream.state for stream in self.streams.all())
        if len(self.containers) > 1:
            self._shares.start(self.home.id)

    async def _host(self, container_id: int) -> None:
        """Open a container and serve it."""
        hosted = await self._open(container_id, self.known_writers, self._showing.stream_changed, None)
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

    async def reach_log(self) -> None:
        """Ask the object store for an object of a log, which need not be there. Raises StorageError."""
        if self._log_storage is not None:
            await self._log_storage.storage.stat(log_key(self.config.container_ids[0], GENESIS))

    async def begin_serving(self, hosted: HostedContainer) -> None:
        """Have a container take appends, and begin its background work. Raises StoreError."""
        await self._serving.begin(hosted, self._long_term)

    def place_of(self, container_id: int) -> Path:
        """The directory that holds a container's."""
        return self._premises.place_of(container_id)

    def start_retention(self, consumed: Consumed | None = None) -> None:
        """Apply the streams' policies from now on: once `policy_for` knows every default, not before.

        `consumed` gives the progress of the consumers that a policy names.
        """
        self._serving.start_retention(consumed)
        self._forgetting.start()

    def start_scaling(self) -> None:
        """Take rates and scale streams from now on: once `policy_for` knows every default, not before."""
        self._serving.start_scaling()

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
        await self.mover.stop()
        await self._forgetting.stop()
        if self._following is not None:
            await self._following.stop()
        await self._shares.stop()
        await asyncio.gather(*self._leaving, return_exceptions=True)
        await self._deciding.finish()
        await self.joining.close()
        failures: list[StorageFailure] = []
        for hosted in list(self.containers.values()):
            try:
                await hosted.close(clean=clean)
            except StorageFailure as failure:  # of one container: the others are closed all the same
                failures.append(failure)
        self.containers.clear()
        await self.trusted.stop()
        self._premises.free()
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

    def leads(self, container_id: int) -> bool:
        """Whether a container is served here, and takes appends: one that is handed over is still read."""
        return self.serves(container_id) and not self.containers[container_id].container.is_left

    def open_containers(self) -> list[Container]:
        """Those that this process has open."""
        return [hosted.container for hosted in self.containers.values()]

    @property
    def home(self) -> Container:
        """The container that keeps tables and the ids of streams. Raises StoreClosed after a stop."""
        hosted = self.containers.get(self.config.container_ids[HOME_CONTAINER])
        if hosted is None:
            raise StoreClosed("the store has been closed")
        return hosted.container

    # Streams, see `core.deciding`

    async def create_stream(self, name: str, *, slots: int, config: Mapping[str, str] | None = None) -> Stream:
        """Make a stream; it is durable in all of its containers when this returns.

        Raises StreamExists (also while another call makes it), ValueError for less than one slot, StoreError.
        """
        return await self._deciding.create(name, slots=slots, config=config)

    async def update_stream(self, stream: Stream, *, config: Mapping[str, str] | Configure) -> None:
        """Replace a stream's configuration, durably, by this one, or by what it makes of the newest one. Raises
        UnknownStream, StoreError, and what it raises."""
        await self._deciding.update(stream, config=config)

    async def grow_stream(self, stream: Stream, slots: int) -> None:
        """Give a stream more slots, durably: a scale that seals every segment.

        Raises UnknownStream, StreamSealed, ValueError if the stream already has as many, StoreError.
        """
        await self._deciding.grow(stream, slots)

    async def scale_stream(
        self, stream: Stream, sealed: Collection[int], cuts: Collection[int], reason: str, kind: str = "manual"
    ) -> Epoch:
        """Seal neighbouring segments and open others over their slots, in one atomic record; returns the new epoch.

        `cuts` are positions in key order.
        Raises UnknownStream, StreamSealed, ValueError if the arguments describe no scale, StoreError.
        """
        return await self._deciding.scale(stream, sealed, cuts, reason, kind)

    async def _scale(self, stream: Stream, decision: Decision) -> None:
        await self.scale_stream(stream, decision.sealed, decision.cuts, decision.reason, decision.kind)

    async def seal_stream(self, stream: Stream) -> None:
        """End a stream, durably: it takes no more entries and is still read.

        Raises UnknownStream, StreamSealed when it is already, StoreError.
        """
        await self._deciding.seal(stream)

    async def move_slot(self, stream: Stream, number: int, container_id: int) -> Moved:
        """Move a slot to another container, while it is written and read: see `core.moving`. In a cluster that may be
        one of another node, see `core.relocation`. Whoever is cancelled here leaves it to go on.

        Raises UnknownStream, NotHosted, CannotMove, NotMovedYet, StoreError.
        """
        source = stream.slot(number).container_id if 0 <= number < stream.slot_count else container_id
        is_from_here, is_to_here = source in self.containers, container_id in self.containers
        has_workers = self.is_ours is None  # outside a cluster nothing else has a container of the configuration
        if has_workers and is_from_here and not is_to_here and container_id in self.config.container_ids:
            raise CannotMove(
                stream.name,
                number,
                f"container {container_id} is open in another process, and it lies in container {source} of this one. "
                "Slots move within a process: start with workers = 1, move it, and start with as many as before",
            )
        if self.relocates is None or (is_from_here and is_to_here):
            return await self.mover.move(stream, number, container_id)
        await self.relocates(stream, number, container_id)
        return Moved(source, container_id, 0, 0.0)

    async def rise_above(self, hosted: HostedContainer, epoch: int) -> None:
        """Have a container's leader epoch above this one, and other processes, which tell clients of it, know that.

        Raises StoreError, NotHosted.
        """
        container = hosted.container
        if container.epoch <= epoch and self.raises is not None:
            await self.raises(hosted.id)
        elif container.epoch <= epoch:
            await container.rise(epoch + 1)
        if container.epoch <= epoch:
            raise CoordinatorRefuses(f"the coordinator has given epoch {container.epoch} after {epoch}: restore etcd")
        if self.on_risen is not None:  # also after a try that came no further
            await self.on_risen()

    async def decide_move(self, stream: Stream, number: int, target: int, held: Held) -> None:
        """Name another container as a slot's, and follow; the caller holds `stream.changing`. Raises StoreError."""
        await self._deciding.move_locked(stream, number, target, held)

    async def was_moved(self, stream: Stream, number: int, target: int) -> bool:
        """Whether a decision that `decide_move` left open was made; see `core.deciding`."""
        return await self._deciding.was_moved(stream, number, target)

    async def settle_arrivals(self, container: Container) -> None:
        """End the moves into a container that was opened just now, by what was decided. Raises StoreError."""
        await self.mover.settle_in(container, self.streams.by_id)

    def on_move(self, hindrance: Hindrance) -> None:
        """Ask before each move of a slot, and when it is frozen, whether something beside it keeps it where it is: why,
        or None."""
        self.mover.beside.hinders(hindrance)

    async def delete_stream(self, stream: Stream) -> None:
        """Delete a stream, durably. Raises UnknownStream, StoreError."""
        await self._deciding.delete(stream)

    # Streams as they are seen, see `core.showing`

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
        self._showing.on_followed(told)

    def refresh_policies(self) -> None:
        """Ask for every stream's policy again (a default changed)."""
        self._showing.refresh_policies()

    def leader_epochs(self, stream: Stream) -> dict[int, int]:
        """The leader epoch of each container that takes appends for some of a stream's slots, by the container's id."""
        return self._showing.leader_epochs(stream)

    def scaler_of(self, stream: Stream, segment: Segment) -> Scaler:
        """The scaler that takes the rates of a segment's slots. Raises NotHosted."""
        return self._hosted(stream.state.container_of(segment)).scaler

    def stream_of(self, stream_id: int) -> Stream | None:
        """The live stream with this id, also of a container that was released: its slots are not here, but not gone."""
        return self.streams.by_id(stream_id)

    def is_gone(self, stream_id: int) -> bool:
        """Whether a stream that this process has heard of, by its id, was deleted. One that the registry has, and that
        is only about to be known here, is not gone."""
        is_decided = self._shared is not None and self._shared.stream(stream_id) is not None
        return not is_decided and self.stream_of(stream_id) is None

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
