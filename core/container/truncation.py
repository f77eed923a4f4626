"""Truncation: the log gives up its oldest files, one after the other, up to the first that is needed.

**Invariants**

- A log file goes only when it lies wholly before P, its rows are indexed, and none of its entries is needed: each lies
  before its slot's start, is in a verified chunk, or is kept (`core.container.keeper`).
- The records that say so are synced before the file goes, whatever the sync mode.
- Its rows go before it, its sidecar after it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from core.container.keeper import Keeper, slot_of
from core.container.metadata_thread import MetadataThread
from core.container.ports import Chunks
from core.errors import Corrupt
from core.index.rows import BlockRef, read_directory, sidecar_path
from core.log.files import give_up
from core.log.log_file import LogFile, LogPosition

if TYPE_CHECKING:
    from core.container.container import Container

logger = logging.getLogger(__name__)


class Truncation:
    """The truncation of one container's log. For the event loop; `thread` does what blocks."""

    def __init__(self, container: Container, chunks: Chunks, thread: MetadataThread) -> None:
        self._container = container
        self._thread = thread
        self._keeper = Keeper(container, chunks, thread.run)
        self._blocker: BlockRef | None = None  # rows that need the oldest file

    async def release_kept(self) -> None:
        """Let go of kept entries that are not needed any more."""
        await self._keeper.release()

    async def truncate(self, settled: LogPosition) -> int:
        """Give up the oldest files up to the first that is needed; returns their number. `settled` is P."""
        container, keeper = self._container, self._keeper
        given_up = 0
        while container.files.complete:
            file = container.files.complete[0]
            tiered: list[BlockRef] | None = await self._thread.run(self._tiered_refs, file, settled)
            if tiered is None or not self._is_released(file, tiered):
                if not is_settled(file, settled) or not await keeper.keep(file, self._blocker):
                    break
                continue
            await container.synced()  # a power cut must not take the reason and leave the file gone
            await keeper.release()  # kept entries of a slot must not lie before those that go now
            self._thread.forget(file)
            container.files.gave_up(file)
            keeper.moves(file)
            await self._thread.run(self._give_up, file)
            for ref in tiered:
                if (tiered_slot := slot_of(container, ref)) is not None:
                    tiered_slot.forget_transactions_before(ref.end)
            logger.info("log file truncated", extra={"file": file.path.name, "bytes": file.size})
            given_up += 1
        if container.tier is not None:
            container.log_changed()
        return given_up

    def _tiered_refs(self, file: LogFile, settled: LogPosition) -> list[BlockRef] | None:
        """The rows of a file whose entries are in chunks as well; None if any other entry of the file is needed."""
        if not is_settled(file, settled):
            return None
        if self._blocker is not None and self._blocker.file_lsn == file.first_lsn and self._is_needed(self._blocker):
            return None
        self._blocker = None
        try:
            refs = read_directory(file)
        except (Corrupt, OSError) as error:
            logger.error("log file kept, its index cannot be read", extra={"error": str(error)})
            self._container.unreadable_indices.add(sidecar_path(file.path))
            return None
        self._blocker = next(filter(self._is_needed, refs), None)
        if self._blocker is not None:
            return None
        return [ref for ref in refs if slot_of(self._container, ref) is not None and not self._keeper.holds(ref)]

    def _is_needed(self, ref: BlockRef) -> bool:
        """Whether nothing but this file holds the entries of these rows."""
        slot = slot_of(self._container, ref)
        return slot is not None and ref.end > slot.tiered_end and not self._keeper.holds(ref)

    def _is_released(self, file: LogFile, tiered: list[BlockRef]) -> bool:
        tier = self._container.tier
        return tier.releases(file, tiered) if tier is not None else not tiered

    def _give_up(self, file: LogFile) -> None:
        gone = [ref for ref in read_directory(file) if not self._keeper.holds(ref) and not self._is_of_former_stay(ref)]
        self._container.metadata.forget_blocks(gone, file.end_lsn)
        # The sidecar goes last: the next start sweeps one without its file, but would read a file without its sidecar.
        give_up(file.path, self._container.directory)
        sidecar_path(file.path).unlink(missing_ok=True)

    def _is_of_former_stay(self, ref: BlockRef) -> bool:
        """Whether the slot has left and come back since: its rows have the same keys, and lead to other files."""
        slot = self._container.slot_at(ref.stream_id, ref.slot)
        return slot is not None and ref.file_lsn < slot.since_lsn


def is_settled(file: LogFile, settled: LogPosition) -> bool:
    """Whether a start that replays from there would not read the file."""
    return file.indexed and file.end_lsn <= settled.lsn + 1
