"""The one thread that changes a container's applied state, and that opens RocksDB again after a failed write.

**Invariants**

- All changes of RocksDB run here, one after the other.
- After a failed write RocksDB is opened again before the next one, so unflushed values are never taken for flushed.
  Rows are then made to agree with the log files: unflushed rows are registered again, and rows of files that are gone
  are deleted again.
- RocksDB is closed for that only if there is room to open it again, because old entries cannot be read without it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Protocol, TypeVar

from core.applied.metadata import Metadata
from core.config import MIB
from core.container.kept import KeptFile
from core.container.log_files import LogFiles
from core.errors import StorageFailure
from core.index.rows import BlockRef
from core.log.durable_log import DurableLog
from core.log.files import drop_ballast, free_bytes
from core.log.log_file import LogFile
from tier2.shortage import is_forbidden, is_shortage

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

REOPEN_ROOM_BYTES: Final = 4 * MIB
"""Free room that there must be before RocksDB is opened again."""


class Owner(Protocol):
    """The container, as this thread sees it."""

    @property
    def id(self) -> int: ...
    @property
    def directory(self) -> Path: ...
    @property
    def metadata(self) -> Metadata: ...
    @property
    def log(self) -> DurableLog: ...
    @property
    def files(self) -> LogFiles: ...
    @property
    def kept(self) -> Sequence[KeptFile]: ...


class MetadataThread:
    """The metadata thread of one container. Methods are for the event loop."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"metadata-{owner.id}")
        self._unflushed: list[BlockRef] = []  # registered since the last checkpoint
        self._is_stale = False  # a write of RocksDB failed: it must be opened again

    async def run(self, function: Callable[..., _T], *args: object) -> _T:
        """Run a call that blocks."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    async def shutdown(self) -> None:
        """End the thread, after its present call."""
        await asyncio.to_thread(self._thread.shutdown)

    # Rows that name places in log files

    async def register(self, refs: Sequence[BlockRef]) -> None:
        """Have the applied state name a sidecar's rows. Raises RocksDB's errors; after one it is opened again."""
        try:
            await self.run(self._owner.metadata.register, refs)
        except Exception:
            self.write_failed()
            raise
        self._unflushed += refs

    def take_unflushed(self) -> list[BlockRef]:
        """Take the rows that the next flush brings to disk."""
        refs, self._unflushed = self._unflushed, []
        return refs

    def put_back(self, refs: Iterable[BlockRef]) -> None:
        """Note that the flush failed."""
        self._unflushed += refs

    def forget(self, file: LogFile) -> None:
        """Note that a log file goes: its rows must not be registered again."""
        self._unflushed = [ref for ref in self._unflushed if ref.file_lsn != file.first_lsn]

    def forget_slots(self, places: Collection[tuple[int, int]]) -> None:
        """Note that slots have left: their rows must not be registered again."""
        if places:
            self._unflushed = [ref for ref in self._unflushed if (ref.stream_id, ref.slot) not in places]

    # After a failed write

    def write_failed(self) -> None:
        """Note that RocksDB must be opened again before the next write."""
        self._is_stale = True

    async def is_writable(self) -> bool:
        """Whether RocksDB takes writes. After a failed write it is opened again here, once the disk has room.

        Raises StorageFailure when it cannot be opened.
        """
        if self._is_stale and await self.run(self._reopen):
            self._is_stale = False
        return not self._is_stale

    def _reopen(self) -> bool:
        directory, metadata = self._owner.directory, self._owner.metadata
        if free_bytes(directory) < REOPEN_ROOM_BYTES:
            drop_ballast(directory)
            if free_bytes(directory) < REOPEN_ROOM_BYTES:
                logger.error("no room for the applied state: free some disk space", extra={"directory": str(directory)})
                return False
        try:
            metadata.reopen()
            metadata.forget_blocks_before(self._oldest_lsn)
            metadata.register(self._unflushed)
            metadata.replace_blocks([ref for kept in self._owner.kept for ref in kept.refs])
        except Exception as error:
            if is_shortage(error) or is_forbidden(error):
                logger.error("the applied state cannot be opened, will be tried again", extra={"error": str(error)})
                return False
            raise StorageFailure(f"the applied state cannot be written any more: {error}") from error
        return True

    @property
    def _oldest_lsn(self) -> int:
        """First LSN of the oldest log file."""
        return (self._owner.files.complete or [self._owner.log.file])[0].first_lsn
