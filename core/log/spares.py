"""The next log file, made ready beside the log: its room is allocated, and filled with zeros as far as time allows.

One thread prepares one file at a time; the event loop takes it. If the disk is full, or this process lacks something,
preparation is tried again every `RETRY_S`. Any other error of the disk is final and goes to `failed`.

Each file that is begun costs three syncs, and one that is not filled yet makes every sync dearer. So a log whose next
file was needed before it was filled gets larger ones from then on: a burst then finds more room that is filled. Where
many containers share a disk, each begins with small files, and only those that are written fast take more room.

**Invariant**: each spare has one owner, which closes its descriptor. The owner is the thread at first, the loop once
`_ready` has run, and the log's writer once `take` has returned. The thread's job always ends in one of the loop's
methods.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from core.errors import StorageFailure
from core.log.files import (
    DISK_FULL,
    FILL_BYTES_S,
    SpareFile,
    allocate_spare,
    drop_ballast,
    log_failure,
    make_ballast,
    sweep_spares,
)
from tier2.shortage import is_forbidden, is_shortage

logger = logging.getLogger(__name__)

RETRY_S: Final = 1.0
"""The pause before the next file is prepared again, if the disk is full or this process lacks something."""


class Spares:
    """The next log files, of `size` bytes, and of `size_max` once the log is hurried.

    Methods are for the event loop; those named `_in_thread` run beside it.
    """

    def __init__(
        self,
        directory: Path,
        size: int,
        size_max: int,
        name: str,
        failed: Callable[[StorageFailure], None],
        *,
        fills: bool,
    ) -> None:
        # Both threads read these, nobody changes them.
        self._directory = directory
        self._size = size
        self._size_max = size_max
        self._loop = asyncio.get_running_loop()
        self._failed = failed
        self._fills = fills  # with zeros, which make later syncs cheap
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        # The event loop's alone.
        self._spare: SpareFile | None = None
        self._is_hurried = False  # a file was needed before it was filled
        self._ended = False
        self.is_full = False
        self.hindrance = ""  # why the next file cannot be prepared, other than a full disk

    @property
    def room(self) -> int | None:
        """Bytes of the file that is ready; None while none is."""
        return None if self._spare is None else self._spare.allocated

    async def start(self) -> None:
        """Make the first one ready, filled. Raises OSError."""
        self._spare = await self._loop.run_in_executor(self._thread, self._first_in_thread)

    def take(self) -> SpareFile:
        """The file that is ready, and its descriptor; the next one is prepared from now on."""
        spare = self._spare
        assert spare is not None
        if self._fills and not spare.is_filled:
            self._is_hurried = True
        self._spare = None
        self._prepare()
        return spare

    def end(self) -> None:
        """Prepare no more."""
        self._ended = True

    async def close(self) -> None:
        """Let the thread end, and let go of the file that it made ready."""
        self._ended = True
        if self._spare is not None:
            self._spare.take()
        await asyncio.to_thread(self._thread.shutdown)
        if self._spare is not None:
            os.close(self._spare.fd)
            self._spare = None

    def _prepare(self) -> None:
        if not self._ended:
            self._thread.submit(self._prepare_in_thread, self._size_max if self._is_hurried else self._size)

    # The thread's results, on the loop

    def _ready(self, spare: SpareFile) -> None:
        if self._ended:
            spare.take()  # zeros may still be on their way, and the number of a closed file is soon another file's
            os.close(spare.fd)
            return
        self._spare = spare
        if self.hindrance:
            self.hindrance = ""
            logger.warning("the next log file is ready again", extra={"directory": str(self._directory)})
        if self.is_full:
            self.is_full = False
            logger.warning("disk has room again: writes go on", extra={"directory": str(self._directory)})

    def _refused(self, error: OSError) -> None:
        if self._ended:
            return
        if not self.is_full:
            self.is_full = True
            logger.error(
                "no room for the next log file: writes will be refused until disk space is free",
                extra={"directory": str(self._directory), "error": str(error)},
            )
        self._loop.call_later(RETRY_S, self._prepare)

    def _hindered(self, error: Exception) -> None:
        if self._ended:
            return
        if not self.hindrance:
            logger.error(
                "the next log file cannot be prepared, which is tried again: this process lacks descriptors, memory or "
                "rights, the disk is not at fault",
                extra={"directory": str(self._directory), "error": str(error) or repr(error)},
            )
        self.hindrance = str(error) or repr(error)
        self._loop.call_later(RETRY_S, self._prepare)

    # The thread

    def _first_in_thread(self) -> SpareFile:
        sweep_spares(self._directory)
        spare = allocate_spare(self._directory, self._size)
        if self._fills:
            spare.fill()
        make_ballast(self._directory)
        return spare

    def _allocate_in_thread(self, size: int) -> SpareFile:
        """A spare of this size; a small one if the disk has no room for that."""
        try:
            return allocate_spare(self._directory, size)
        except OSError as error:
            if size == self._size or error.errno not in DISK_FULL:
                raise
            return allocate_spare(self._directory, self._size)

    def _prepare_in_thread(self, size: int) -> None:
        report = self._loop.call_soon_threadsafe
        try:
            spare = self._allocate_in_thread(size)
        except (OSError, MemoryError) as error:
            if is_shortage(error) or is_forbidden(error):
                report(self._hindered, error)
            elif isinstance(error, OSError) and error.errno in DISK_FULL:
                with contextlib.suppress(OSError):  # the loop has to hear of the full disk all the same
                    drop_ballast(self._directory)
                report(self._refused, error)
            else:
                report(self._failed, log_failure(self._directory, error))
            return
        report(self._ready, spare)
        try:
            make_ballast(self._directory)
            if self._fills:
                spare.fill(FILL_BYTES_S)
        except (OSError, MemoryError) as error:
            if is_shortage(error) or is_forbidden(error) or (isinstance(error, OSError) and error.errno in DISK_FULL):
                # Some file systems want room for every write. Zeros only make later syncs cheaper.
                logger.warning("spare log file not filled: %s", error)
                return
            report(self._failed, log_failure(self._directory, error))
