"""The one thread that changes a container's applied state, and how that takes writes again after one has failed.

**Invariants**

- Whatever changes RocksDB runs here, one after the other.
- After a failed write RocksDB is opened anew before the next one, so nothing that was not flushed is ever taken for
  flushed. Rows that name log files are then as the files are: what was not flushed is registered again, rows of files
  that are gone go again.
- RocksDB is closed for that only where there is room to open it again: without it nothing old can be read.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
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
"""Room that RocksDB is given before it is opened anew."""


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
        self._is_stale = False  # a write of RocksDB failed: it must be opened anew

    async def run(self, function: Callable[..., _T], *args: object) -> _T:
        """Run something that blocks."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    async def shutdown(self) -> None:
        """End the thread, after what it runs."""
        await asyncio.to_thread(self._thread.shutdown)

    # Rows that name what lies in log files

    async def register(self, refs: Sequence[BlockRef]) -> None:
        """Have the applied state name a sidecar's rows. Raises whatever RocksDB does: then it is opened anew."""
        try:
            await self.run(self._owner.metadata.register, refs)
        except Exception:
            self.write_failed()
            raise
        self._unflushed += refs

    def take_unflushed(self) -> list[BlockRef]:
        """Rows that the next flush brings to disk."""
        refs, self._unflushed = self._unflushed, []
        return refs

    def put_back(self, refs: Iterable[BlockRef]) -> None:
        """Note that the flush failed."""
        self._unflushed += refs

    def forget(self, file: LogFile) -> None:
        """A log file goes: its rows are not to be registered again."""
        self._unflushed = [ref for ref in self._unflushed if ref.file_lsn != file.first_lsn]

    # After a failed write

    def write_failed(self) -> None:
        """RocksDB must be opened anew before it is written to again."""
        self._is_stale = True

    async def is_writable(self) -> bool:
        """Whether RocksDB takes writes. After a failed one it is opened anew here, once the disk has room.

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
