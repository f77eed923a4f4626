"""One container with all that serves it: opened, started and closed as one.

Its life has three steps. `open` recovers the durable state and touches nothing outside of its directory. `start` asks
long-term storage, lets the log take appends and begins background work. Retention and scaling begin later, when their
owner knows every policy. `close` ends everything, and `release` does so while the process serves other containers.

**Invariants**

- Parts stop before what they use: policies, background, long-term storage, the log, then caches and files.
- After a failure nothing more is appended. Durable entries can be read until `close`.
- After the call of `release` nothing more is appended. When it has returned, each earlier append is durable or was told
  of an error, and no file, thread or task of the container is left.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

from core.applied.metadata import BEHIND_ALL, Metadata
from core.clock import Clock
from core.config import StoreConfig
from core.container.arrivals import arrival_delete
from core.container.container import CONTAINER_TABLE, Container
from core.container.maintenance import Maintenance
from core.container.recovery import Recovered, recover
from core.errors import Deposed, OutOfRange, StorageFailure, TierMissing, UnknownStream
from core.log.files import make_directory
from core.log.interface import LogReports, LogWriter, NewWriter
from core.log.objects.home import Claimed, LogObjects, LogStorage, is_marked
from core.log.objects.protocol import Link
from core.log.records import Trim
from core.log.writer import FileWriter
from core.reading.reader import Reader
from core.retention import Retention
from core.scaling.scaler import Scale, Scaler
from core.stations import Stations
from core.streams.known_writers import KnownWriters
from core.streams.live import Slot, Stream
from core.streams.state import StreamState
from core.tiering.catalog import Catalog
from core.tiering.context import LongTermStorage
from core.tiering.rewriting.cleaned import count_removed
from core.tiering.rows import RUNS_TABLE
from core.tiering.snapshots.lives import EPOCHS_ABOVE, find_other_life, lives_put
from core.tiering.tier import Tier
from core.trusted_clock import TrustedClock
from core.turns import in_turns

logger = logging.getLogger(__name__)

StreamChanged = Callable[[Container, int, StreamState | None], Stream | None]
"""The callback that makes, changes or forgets a stream by its durable state; see `Container`."""


def container_directory(store: Path, container_id: int) -> Path:
    """The container's directory within a store's directory."""
    return store / f"container-{container_id}"


def log_directory(store: Path, container_id: int) -> Path:
    """The directory of its log."""
    return container_directory(store, container_id) / "log"


def _files_in(directory: Path, name: str, config: StoreConfig) -> NewWriter:
    """Make the writer of a log whose bytes go to files on a disk."""

    def new_writer(size: int, reports: LogReports) -> LogWriter:
        return FileWriter(directory, name, size, config, reports)

    return new_writer


def _refuse_copy(directory: Path) -> None:
    """Raise StorageFailure if the container there is a copy, which may be outdated."""
    if is_marked(directory):
        raise StorageFailure(
            f"the log of {directory} lies in long-term storage, what is here is a copy: start with log.store = object"
        )


class HostedContainer:
    """One container of this process. Make it with `open`."""

    def __init__(self, container: Container, scale: Scale, archive: LogObjects | None = None) -> None:
        self.container = container
        self.claim_epoch: int | None = None  # of a coordinator's claim; None: nobody gives epochs but we
        self._archive = archive
        self.catalog = Catalog(container)
        self.reader = Reader(container, self.catalog, container.config)
        self.maintenance = Maintenance(container, self.catalog, archive)
        self.retention = Retention(container, self.reader, self.catalog)
        self.scaler = Scaler(container, scale)
        self.tier: Tier | None = None  # where there is long-term storage, once started
        self.recovered = Recovered(next_lsn=1, epoch=0, replayed_bytes=0, clean=False)
        self._freeing: asyncio.Task[None] | None = None  # once it is released
        container.on_applied(RUNS_TABLE, self.catalog.row_applied)

    def __repr__(self) -> str:
        return f"<HostedContainer {self.container!r}>"

    @property
    def id(self) -> int:
        return self.container.id

    @classmethod
    async def open(
        cls,
        container_id: int,
        store: Path,
        config: StoreConfig,
        clock: Clock,
        trusted: TrustedClock,
        known_writers: KnownWriters,
        stream_changed: StreamChanged,
        scale: Scale,
        log_storage: LogStorage | None = None,
        claimed: Claimed | None = None,
    ) -> Self:
        """Recover a container of the store in this directory, or from the storage that has its log.

        `claimed`: what the coordinator of a cluster gave with it; its epoch is the container's from here on.
        Raises CorruptLog, CorruptState, StorageFailure; Deposed when it is somebody else's.
        """
        metadata_directory = container_directory(store, container_id) / "metadata"
        logs = log_directory(store, container_id)
        for needed in (container_directory(store, container_id), logs, metadata_directory):
            await asyncio.to_thread(make_directory, needed)
        name, objects = f"log-{container_id}", None
        new_writer = _files_in(logs, name, config)
        if log_storage is None:
            await asyncio.to_thread(_refuse_copy, metadata_directory.parent)
        else:
            objects = await LogObjects.take(log_storage, container_id, metadata_directory.parent, logs, claimed)
            new_writer = objects.new_writer(logs, name, config)
        metadata = await asyncio.to_thread(Metadata, metadata_directory, config)
        stations = Stations() if claimed is None else claimed.stations
        stations.reached("state opened")
        container = Container(
            container_id, logs, config, clock, trusted, metadata, known_writers, stream_changed, new_writer
        )
        hosted = cls(container, scale, objects)
        hosted.claim_epoch = None if claimed is None else claimed.epoch
        try:
            await asyncio.to_thread(hosted._recover)
            stations.reached("replayed")
            if claimed is not None:
                hosted._rise_to(claimed.epoch)
        except BaseException:
            await hosted.close(clean=False)
            raise
        logger.info(
            "container recovered",
            extra={
                "container": container_id,
                "clean": hosted.recovered.clean,
                "replayed_bytes": hosted.recovered.replayed_bytes,
                "epoch": hosted.recovered.epoch,
                "streams": len(hosted.container.streams),
            },
        )
        return hosted

    def _recover(self) -> None:
        self.recovered = recover(self.container, self.catalog)
        count_removed(self.container, self.catalog)

    def _rise_to(self, epoch: int) -> None:
        if self.recovered.epoch > epoch:
            raise StorageFailure(
                f"the coordinator gave epoch {epoch} to container {self.id}, and its log is in epoch "
                f"{self.recovered.epoch}: the coordinator has lost its counter. Put it back above that"
            )
        self.recovered = replace(self.recovered, epoch=epoch)

    @property
    def links(self) -> Sequence[Link]:
        """The ends of former epochs of the log, for the coordinator; empty while nobody else can own it."""
        return () if self._archive is None else self._archive.links

    async def start(self, long_term: LongTermStorage | None) -> None:
        """Begin to serve. Raises TierMissing, StorageFailure, StoreError, and what `LongTermStorage.admit` raises."""
        container, recovered = self.container, self.recovered
        await self._admit(long_term)
        told = await container.start(recovered.next_lsn, recovered.epoch)
        try:
            await self._start_tier(long_term)
        finally:
            await told  # meanwhile the rest has begun
        self.maintenance.start()

    async def _start_tier(self, long_term: LongTermStorage | None) -> None:
        container = self.container
        if long_term is not None:
            if self.claim_epoch is None:  # else no epoch is given twice
                await self._rise(long_term)
            self.tier = Tier(container, self.reader, self.catalog, long_term)
            self.reader.tiered = self.tier.reader
            container.tier = self.tier
            await self.tier.start()

    async def close(self, *, clean: bool = True) -> None:
        """End everything. After a clean stop the next start replays nothing. Callers must have ended their appends.

        Raises StorageFailure when the stop is not clean; everything is closed all the same.
        """
        clean = clean and not self.container.failed.done()
        await self.scaler.stop()
        await self.retention.stop()
        await self.maintenance.stop()
        if self.tier is not None:
            await self.tier.stop(clean=clean)
        await self.container.log.close()
        try:
            await self.maintenance.close(clean=clean and not self.container.failed.done())
        finally:
            await self.reader.close()
            await self.catalog.close()
            await asyncio.to_thread(self.container.metadata.close)

    async def release(self) -> None:
        """Stop serving, and close everything as a clean stop does. What is on its way ends durable or with an error.

        From the call on appends get NotHosted, and so do reads that memory does not answer once this has returned.
        Raises StorageFailure when the stop is not clean; everything is closed all the same.
        """
        self.container.leave()
        await self._for_each_slot(Slot.changed)
        try:
            await self.close()
        finally:
            await self._for_each_slot(self.container.known_writers.slot_gone)
            await self._for_each_slot(Slot.changed)  # who has begun to wait meanwhile looks again
            self._freeing = asyncio.create_task(self._let_go(), name=f"memory of container {self.id}")

    async def _let_go(self) -> None:
        """Free the tables, in turns. Nobody waits for that: its next owner may be this process."""
        for table in list(self.container.tables.values()):
            await table.let_go()

    async def prepare(self) -> None:
        """Have a last checkpoint stored while all goes on. Raises StorageError, OSError, StorageFailure."""
        await self.maintenance.store_now()

    async def seal(self, next_epoch: int) -> Link:
        """Take nothing more, and end the log so that it goes on in another owner's epoch; returns where it ends.

        From the call on appends get NotHosted. What was taken before is durable when this returns.
        Raises StorageFailure; Deposed when the log is another's already.
        """
        assert self._archive is not None, "a log on this machine has no other owner"
        await self.container.seal()
        return await self._archive.fence(self.container.log.next_lsn, next_epoch)

    def disown(self, error: Deposed) -> None:
        """Another owner has the container: whatever waits for its log hears of that. `release` has to follow."""
        if self._archive is not None:
            self._archive.disown(error)
        self.container.fail(error)

    async def _for_each_slot(self, do: Callable[[Slot], None]) -> None:
        # Also those that have moved, of which this log is still to hear: nobody else lets go of them any more.
        slots = dict.fromkeys((*self.container.all_slots(), *self.container.outcomes.beside.values()))
        async for slot in in_turns(slots):
            do(slot)

    async def _admit(self, long_term: LongTermStorage | None) -> None:
        """Check, before any change, that long-term storage is there if it holds anything, and is the right one."""
        has_chunks = await self.catalog.has_chunks()
        if long_term is None:
            if has_chunks:
                raise TierMissing
        elif long_term.admit is not None:
            await long_term.admit(has_chunks)

    async def _rise(self, long_term: LongTermStorage) -> None:
        """An epoch above the one that another copy of this store has left in long-term storage, if there was one."""
        container, next_lsn = self.container, self.recovered.next_lsn
        found = await find_other_life(
            long_term.storage, container.id, container.epoch, next_lsn, chunks=long_term.had_another_life
        )
        if found is None:
            return
        epoch = found.last_epoch + EPOCHS_ABOVE
        logger.warning(
            "another copy of this store has put things into long-term storage: they are not used, and the epoch rises",
            extra={"container": container.id, "epoch": epoch, "last_epoch_there": found.last_epoch},
        )
        await container.rise(epoch, lives_put(CONTAINER_TABLE, container.table(CONTAINER_TABLE).entries, found))

    async def has_remains(self, place: tuple[int, int]) -> bool:
        """Whether anything is left here of a slot that has left, so that it cannot come back yet."""
        container = self.container
        if container.slot_at(*place) is not None or any(place in kept.places for kept in container.kept):
            return True
        # In the thread that changes rows: so what it finds gone is gone from the disk, or is to be forgotten again.
        row = await self.maintenance.thread.run(container.metadata.block_at, *place, BEHIND_ALL)
        if row is not None or container.unsaved.has_gone(place):
            return True
        return await self.catalog.in_thread(self.catalog.find_run, *place, -1) is not None

    async def clear(self, place: tuple[int, int]) -> None:
        """Do what brings a slot's remains nearer to their end. Raises StoreError."""
        container = self.container
        container.unsaved.mark_gone(place)
        container.departed[place] = None
        await container.update(arrival_delete(place))  # so that there is something to checkpoint
        await self.maintenance.checkpoint_now()

    def concerns(self) -> list[str]:
        """Troubles of this container, a sentence each; empty when all is well."""
        failed = self.container.failed
        found = [f"container {self.id} takes nothing more: {failed.result()}"] if failed.done() else []
        if hindrance := self.container.log.hindrance:
            found.append(f"the log of container {self.id} is held up: {hindrance}")
        return found + (self.tier.concerns() if self.tier is not None else [])

    # Slots

    async def truncate(self, slot: Slot, offset: int) -> int:
        """Move a slot's start up to `offset`, durably; returns the start.

        Raises OutOfRange beyond `durable_end`, UnknownStream, SlotMoves, StoreError.
        """
        if not 0 <= offset <= slot.durable_end:
            raise OutOfRange(offset, slot.start, slot.durable_end)
        if offset > slot.start:
            before = await self.reader.bytes_before(slot, offset)
            if slot.stream.deleted:
                raise UnknownStream(slot.stream.name)
            self.container.check_not_frozen(slot)
            await self.container.update(Trim(slot.stream.id, slot.number, offset, before))
        return slot.start
