"""When entries of the log are kept apart, and when the kept files go: the policy around `core.container.kept`.

**Invariants**

- Only the oldest log file is looked at, only if it lies before P, and only while the log is pressed.
- All entries that still need the file are kept; the others leave the log as always.
- A file is copied only if its entries cannot be tiered as things stand. If any of them merely waits its turn, nothing
  is copied.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from core.container.kept import KeptFile, copy, discard
from core.container.ports import Chunks
from core.errors import Corrupt
from core.index.rows import SIDECAR_SUFFIX, BlockRef, read_directory

if TYPE_CHECKING:
    from core.container.container import Container
    from core.log.log_file import LogFile
    from core.streams.live import Slot

logger = logging.getLogger(__name__)

COMPLAIN_EVERY_S: Final = 60.0


def slot_of(container: Container, ref: BlockRef) -> Slot | None:
    """The slot, if it still has any of these rows' entries."""
    slot = container.slot_of(ref)
    return slot if slot is not None and not slot.stream.deleted and slot.start < ref.end else None


def is_needed_by(container: Container, chunks: Chunks) -> Callable[[BlockRef], bool]:
    """Whether the log must still hold these rows' entries: no chunk does, or only one not yet looked at twice."""
    held = chunks.held()

    def is_needed(ref: BlockRef) -> bool:
        slot = slot_of(container, ref)
        return slot is not None and ref.end > min(slot.tiered_end, held.get((ref.stream_id, ref.slot), slot.tiered_end))

    return is_needed


class Keeper:
    """The keeper of one container. For the event loop; `in_thread` runs a call in the thread that changes metadata."""

    def __init__(self, container: Container, chunks: Chunks, in_thread: Callable[..., Awaitable[Any]]) -> None:
        self._container = container
        self._chunks = chunks
        self._in_thread = in_thread
        self._unnamed: KeptFile | None = None  # complete, but rows that name it may not be on disk
        self._complained_at = -COMPLAIN_EVERY_S

    def holds(self, ref: BlockRef) -> bool:
        """Whether these rows of a log file are kept. For any thread."""
        return any(kept.holds(ref) for kept in self._container.kept)

    async def keep(self, file: LogFile, blocker: BlockRef | None) -> bool:
        """Keep the entries that pin the oldest file, if any do; returns whether any were kept."""
        tier = self._container.tier
        if tier is None or not tier.is_pressed or blocker is None:  # None: a second look or a snapshot is awaited
            return False
        try:
            refs: list[BlockRef] = await self._in_thread(read_directory, file)
            is_needed = is_needed_by(self._container, self._chunks)
            needed = [ref for ref in refs if is_needed(ref) and not self.holds(ref)]
            if not needed or not self._are_pinned(needed):
                return False
            await self._keep(file, needed)
        except (Corrupt, OSError) as error:
            if isinstance(error, Corrupt) and error.path.suffix == SIDECAR_SUFFIX:
                self._container.unreadable_indices.add(error.path)
            self._complain(file, error)
            return False
        return True

    async def _keep(self, file: LogFile, needed: list[BlockRef]) -> None:
        container, kept = self._container, self._unnamed
        if kept is None or kept.source_lsn != file.first_lsn:
            kept = self._unnamed = await self._in_thread(copy, container.id, container.directory, file, needed)
        await self._in_thread(container.metadata.replace_blocks, kept.refs)
        self._unnamed = None
        container.kept.append(kept)
        logger.info(
            "entries that pin the log were moved out of its way",
            extra={"file": file.path.name, "bytes": kept.size, "of_bytes": file.size, "partitions": len(kept.refs)},
        )

    def _are_pinned(self, refs: list[BlockRef]) -> bool:
        tier = self._container.tier
        assert tier is not None
        slots = [(slot_of(self._container, ref), ref) for ref in refs]
        return all(slot is None or tier.is_pinned(slot, ref) for slot, ref in slots)

    def moves(self, file: LogFile) -> None:
        """Note that a log file goes. If something of it was kept, rows that were looked up until now are stale."""
        if any(kept.source_lsn == file.first_lsn for kept in self._container.kept):
            self._container.moved += 1

    async def release(self) -> None:
        """Let go of entries that chunks looked at twice hold as well, and of entries before their slot's start."""
        container = self._container
        for kept in list(container.kept):
            is_needed = is_needed_by(container, self._chunks)  # chunks may have come while the last one was let go of
            gone = {ref: None for ref in kept.refs if not is_needed(ref)}
            if not gone or any(file.first_lsn == kept.source_lsn for file in container.files.complete):
                continue
            await container.log.synced(container.applied_lsn)  # or a power cut leaves neither this nor its replacement
            kept.need([ref for ref in kept.refs if ref not in gone])
            await self._in_thread(container.metadata.replace_blocks, (), list(gone))
            for ref in gone:
                if (slot := slot_of(container, ref)) is not None:
                    slot.forget_transactions_before(ref.end)
            if not kept.refs:
                container.kept.remove(kept)
                await self._in_thread(discard, kept)
                logger.info("kept entries of the log are in chunks now", extra={"file": kept.file.path.name})

    def _complain(self, file: LogFile, error: Exception) -> None:
        now = self._container.clock.monotonic_s()
        if now >= self._complained_at + COMPLAIN_EVERY_S:
            self._complained_at = now
            logger.error(
                "entries that pin the log could not be moved out of its way",
                extra={"file": file.path.name, "error": str(error)},
            )
