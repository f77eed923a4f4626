"""A log file from its image: frames are copied into it once, and go to the disk from there, in whole blocks.

**Invariants**

- The file has exactly the bytes that were given, then zeros up to the end of the last block.
- A block that was written in part is written again as a whole, with the same bytes first: every sector has its content
  from before or from after that write. Both agree on all bytes that were given before.
- When `flush_synced` returns, all bytes that were given since `begin` are synced. Each sync covers only bytes that were
  written after the last failed one.
"""

from __future__ import annotations

import os
from typing import Final

from core.log.format import Buffer
from core.log.slabs import FileImage
from tier2.direct_io import BLOCK_BYTES, up_to_block
from tier2.shortage import patiently

WRITE_BYTES_MAX: Final = 1 << 20
"""The most bytes of one write: the next request in the disk's queue waits no longer than for these."""

_ZEROS: Final = bytes(BLOCK_BYTES)


class ImageWriter:
    """Appends to one file after the other. For the writer's thread."""

    def __init__(self, *, syncs_with_writes: bool) -> None:
        """`syncs_with_writes`: what `can_sync_with_writes` says of the files."""
        self._syncs_with_writes = syncs_with_writes
        self._fd = -1
        self._image: FileImage | None = None
        self._written = 0  # position up to which the file was written
        self._end = 0  # position behind all that was given
        self._unsynced = False  # bytes were written that no sync has covered

    def begin(self, fd: int, image: FileImage, position: int) -> None:
        """Go on in this file, at the beginning of a block."""
        if position % BLOCK_BYTES:
            raise ValueError(f"no block begins at {position}")
        self._fd, self._image, self._written, self._end, self._unsynced = fd, image, position, position, False

    def stage(self, data: Buffer) -> None:
        """Take bytes, for which the image has slabs."""
        assert self._image is not None
        self._end = self._image.fill(self._end, data)

    def flush(self) -> None:
        """Write all staged bytes. Raises OSError."""
        self._flush(0)

    def flush_synced(self) -> None:
        """Write all staged bytes and sync, in one call if one write has all unsynced bytes. Raises OSError."""
        position = self._written - self._written % BLOCK_BYTES
        # A sync with a write covers that write alone, not the writes before it.
        alone = self._syncs_with_writes and not self._unsynced and self._end - position <= WRITE_BYTES_MAX
        if alone and self._end > self._written:
            self._flush(os.RWF_DSYNC)
        else:
            self._flush(0)
            os.fdatasync(self._fd)
        self._unsynced = False

    def _flush(self, flags: int) -> None:
        image, end = self._image, self._end
        if image is None or end == self._written:
            return
        stop = up_to_block(end)
        if stop != end:
            image.fill(end, _ZEROS[: stop - end])
        position = self._written - self._written % BLOCK_BYTES
        while position < stop:
            size = min(WRITE_BYTES_MAX, stop - position)
            self._write(image.stretch(position, size), position, size, flags)
            position += size
        self._written = end

    def _write(self, pieces: list[memoryview], position: int, size: int, flags: int) -> None:
        # A repeated call writes all of its bytes again, so no failed sync is trusted about any of them.
        written = patiently(lambda: os.pwritev(self._fd, pieces, position, flags))
        if written != size:
            raise OSError(0, f"short write: {written} of {size} bytes")
        self._unsynced = True
