"""The background work of a container, and its times.

Files are indexed as they are completed. A checkpoint is due by time, by the growth of the log, or when the log is
pressed; behind each one the log gives up the files that nobody needs. Where this machine has but a copy of the log,
the applied state then goes to long-term storage, which may be slow or away: that is a task of its own.

**Invariants**

- No two works that touch the container's files run at once. Nothing that waits for long-term storage is among them.
- Files are given up only behind a checkpoint, which is what lets them go.
- StorageFailure ends it, and the container with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from core.background import Background
from core.container.checkpoints import Checkpoints
from core.container.indexing import Indexing
from core.container.metadata_thread import MetadataThread
from core.container.ports import Chunks
from core.container.truncation import Truncation
from core.errors import StorageFailure, StorageFull
from core.index.rows import sidecar_path
from core.log.files import KEPT_DIRECTORY
from core.log.log_file import LogFile, LogPosition
from tier2.storage import StorageError

if TYPE_CHECKING:
    from core.container.container import Container

LOOK_EVERY_S: Final = 1.0
"""How often it is looked whether the log has grown enough for a checkpoint before its interval is over."""

RETRY_S: Final = 1.0


class Archive(Protocol):
    """The checkpoints of a log that this machine only has a copy of."""

    @property
    def is_long(self) -> bool:
        """Whether whoever takes the container over has so many objects of the log to read that it is to be cut."""

    def is_file_long(self, first_lsn: int) -> bool:
        """Whether the log file that begins there has so many of them that it is worth to be cut behind it."""

    async def checkpoint(
        self, first_lsn: int, lsn: int, snapshot: Callable[[Path], Awaitable[None]], *, is_due: bool = False
    ) -> None:
        """Have the applied state stored, so that the log can be cut before `first_lsn`, if enough is new; with
        `is_due`, if anything is. Raises StorageError."""

    async def cut(self) -> None:
        """Remove what the last stored checkpoint has made needless of the log; nobody waits for it. Raises
        StorageError."""


class Maintenance:
    """The background side of one container."""

    def __init__(self, container: Container, chunks: Chunks, archive: Archive | None = None) -> None:
        self._container = container
        self._archive = archive
        self.thread = MetadataThread(container)
        self._checkpoints = Checkpoints(container, self.thread)
        self._indexing = Indexing(container, self.thread)
        self._truncation = Truncation(container, chunks, self.thread)
        self._interval_s = container.config.checkpoint_interval_ms / 1000
        self._checkpoint_at = 0.0  # on the event loop's clock, s
        self.is_replay_long: Callable[[], bool] = _is_alone
        """Whether a start would have to replay as much of all of a process's logs together as it may."""
        self._background = Background(
            "maintenance",
            container.id,
            self._step,
            retry_s=RETRY_S,
            first_s=min(self._interval_s, LOOK_EVERY_S),
            wait=self._until_rolled,
        )
        self._at_files = asyncio.Lock()  # held by each work that touches files
        self._at_archive = asyncio.Lock()  # one checkpoint is stored at a time
        self._checkpointed = asyncio.Event()  # since the last look of what stores checkpoints away
        self._storing_away = Background(
            "storing checkpoints away",
            container.id,
            self._store_away_due,
            retry_s=RETRY_S,
            wait=self._until_checkpointed,
            expected=(OSError,),
        )

    @property
    def position(self) -> LogPosition:
        """P: what the applied state on disk reflects."""
        return self._checkpoints.position

    @property
    def log_bytes_since(self) -> int:
        """Bytes of the log behind the last checkpoint, which a start would replay."""
        return self._checkpoints.log_bytes_since

    def start(self) -> None:
        self._checkpoint_at = asyncio.get_running_loop().time() + self._interval_s
        self._background.start()
        if self._archive is not None:
            self._storing_away.start()

    async def stop(self) -> None:
        """End the tasks. The log may still be written to."""
        await self._storing_away.stop()
        await self._background.stop()

    async def close(self, *, clean: bool) -> None:
        """After the log was closed: index its last file and commit everything, so that nothing is left to replay.

        Raises StorageFailure when that fails; the thread has ended all the same.
        """
        container = self._container
        try:
            if clean:
                last = container.log.file
                if last.file_id:
                    last.end_lsn, last.size = container.log.next_lsn, container.log.position
                    container.log_rolled(last)
                    await self.thread.run(_truncate, last)
                await self.index_files()
                await self.checkpoint(clean=not container.files.unindexed)
        finally:
            await self.thread.shutdown()

    async def _until_rolled(self, pause_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._container.files.rolled.wait()

    async def _step(self) -> float:
        loop = asyncio.get_running_loop()
        try:
            async with self._at_files:
                await self.index_files()
                if loop.time() >= self._checkpoint_at or self._is_checkpoint_urgent():
                    self._checkpoint_at = loop.time() + self._interval_s
                    self._shorten()
                    await self.checkpoint()
                    await self.truncate()
                    self._checkpointed.set()
        except StorageFailure as failure:  # the container ends, and the process with the last one
            self._container.fail(failure)
            raise
        return max(0.0, min(self._checkpoint_at - loop.time(), LOOK_EVERY_S))

    def _shorten(self) -> None:
        """Have a log of many objects cut, now or behind a later checkpoint: it goes by whole files, once all of them is
        in chunks."""
        container, archive = self._container, self._archive
        if archive is None or not archive.is_long:
            return
        if archive.is_file_long(container.log.file.first_lsn):
            with contextlib.suppress(StorageFull):  # the next file is not ready
                container.log.roll()
        if container.tier is not None:
            container.tier.log_is_long()

    def _is_checkpoint_urgent(self) -> bool:
        container = self._container
        # Who replays a log from long-term storage has its containers alone, and in any number.
        is_long = self._archive is not None or self.is_replay_long()
        if is_long and self.log_bytes_since >= container.config.checkpoint_log_bytes:
            return True
        return container.tier is not None and container.tier.is_pressed

    # Its works

    async def index_files(self) -> None:
        """Write the sidecars that are due; rows of older files leave memory."""
        await self._indexing.write_due()

    async def checkpoint(self, *, clean: bool = False) -> None:
        """Bring the applied state on disk up to what is durable now. Raises StorageFailure."""
        await self._checkpoints.take(clean=clean)

    async def checkpoint_now(self) -> None:
        """The same for others than the background, in its turn. Raises StorageFailure."""
        async with self._at_files:
            await self.checkpoint()

    async def truncate(self) -> int:
        """Give up log files that nobody needs; returns how many. Damaged indices are made again before: they pin it."""
        await self._truncation.release_kept()
        await self._indexing.mend()
        return await self._truncation.truncate(self.position)

    async def store_away(self, *, is_due: bool = False) -> None:
        """Let what is stored away go as far as what is here.

        Raises StorageError, OSError, StorageFailure.
        """
        if self._archive is not None:
            async with self._at_archive:
                first_lsn, lsn = self._container.files.first_lsn, self.position.lsn
                await self._archive.checkpoint(first_lsn, lsn, self._snapshot, is_due=is_due)

    async def store_now(self) -> None:
        """Checkpoint what is durable now, cut the log, and store it away. Raises StorageError, OSError,
        StorageFailure.
        """
        async with self._at_files:
            await self.index_files()
            await self.checkpoint()
            await self.truncate()
        await self.store_away(is_due=True)
        self._checkpointed.set()  # so that the log is cut behind it

    async def _until_checkpointed(self, pause_s: float) -> None:
        await asyncio.sleep(pause_s)  # after a failure
        await self._checkpointed.wait()

    async def _store_away_due(self) -> float:
        self._checkpointed.clear()
        try:
            await self.store_away()
            if self._archive is not None:
                await self._archive.cut()
        except StorageFailure as failure:
            self._container.fail(failure)
            raise
        except (StorageError, OSError):
            self._checkpointed.set()  # it is tried again, whether or not another one comes
            raise
        return 0.0

    async def _snapshot(self, directory: Path) -> None:
        """The applied state on disk as it is now, laid out as below the container's directory; with the indices of
        complete log files, which a taker would have to make from all of their bytes."""
        async with self._at_files:
            await self.thread.run(self._container.metadata.snapshot, directory / "metadata")
            kept = self._container.directory / KEPT_DIRECTORY
            if kept.is_dir():
                target = directory / self._container.directory.name / KEPT_DIRECTORY
                await self.thread.run(shutil.copytree, kept, target)
            indexed = [sidecar_path(file.path) for file in self._container.files.complete if file.indexed]
            await self.thread.run(_link, indexed, directory / self._container.directory.name)


def _is_alone() -> bool:
    """There are no other logs, whose share this one might use."""
    return True


def _link(paths: Sequence[Path], directory: Path) -> None:
    directory.mkdir(exist_ok=True)
    for path in paths:
        with contextlib.suppress(FileNotFoundError):  # it is to be made again
            os.link(path, directory / path.name)


def _truncate(file: LogFile) -> None:
    """Give back the room that a finished file did not use."""
    os.truncate(file.path, file.size)
