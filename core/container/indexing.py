"""Sidecars of complete log files: each is written once its file is complete, and made again if it is damaged.

**Invariants**

- A file counts as indexed once its sidecar is written and the applied state names its rows.
- Files are indexed in the order of the log.
- Only the rows of indexed files leave memory: until then nothing else leads to their entries.
- No rows are registered of a slot that has left the container, even if it left while its sidecar was written. It has
  left once the container's own log says so, durably: a decision that is on its way may come to nothing.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from core.container.metadata_thread import MetadataThread
from core.container.reindex import reindex
from core.errors import Corrupt
from core.index.rows import sidecar_path, write_sidecar

if TYPE_CHECKING:
    from core.container.container import Container

logger = logging.getLogger(__name__)

FAILURE_PAUSE_S: Final = 1.0
"""The pause after a sidecar could not be written: a full disk stays full for a while."""


class Indexing:
    """The indexing of one container. For the event loop; `thread` does what blocks."""

    def __init__(self, container: Container, thread: MetadataThread) -> None:
        self._container = container
        self._thread = thread

    async def write_due(self) -> None:
        """Write the sidecars that are due; rows of older files leave memory. A failure is logged and tried again later.

        Raises StorageFailure when the applied state cannot be opened.
        """
        files = self._container.files
        files.rolled.clear()
        if not await self._thread.is_writable():
            return
        for file in list(files.unindexed):
            columns = [
                (slot.stream.id, slot.number, rows)
                for slot, rows in files.columns_of(file)
                if not slot.stream.deleted and self._container.is_here(slot)
            ]
            try:
                refs = await self._thread.run(write_sidecar, file, columns)
            except OSError as error:
                logger.error("index sidecar not written, will be tried again", extra={"error": str(error)})
                await asyncio.sleep(FAILURE_PAUSE_S)
                return
            try:
                await self._thread.register([ref for ref in refs if self._container.slot_of(ref) is not None])
            except Exception as error:
                logger.error("index rows not written, will be tried again", extra={"error": str(error)})
                return
            files.indexed(file)
        files.forget()

    async def mend(self) -> None:
        """Make again the sidecars that could not be read."""
        container = self._container
        paths, container.unreadable_indices = container.unreadable_indices, set()
        for file in [file for file in container.files.complete if sidecar_path(file.path) in paths]:
            try:
                await self._thread.run(reindex, container, file)
            except (Corrupt, OSError) as error:
                logger.error("the index of a log file could not be made again", extra={"error": str(error)})
            else:
                logger.warning("the index of a log file was damaged and made again", extra={"file": file.path.name})
