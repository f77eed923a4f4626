"""A log file from its image: frames are copied into it once, and go to the disk from there, in whole blocks.

**Invariants**

- The file has exactly the bytes that were given, then zeros up to the end of the last block.
- A block that was written in part is written again as a whole, with the same bytes first: every sector has its content
  from before or from after that write, and both agree on all bytes that were given before.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import partial
from typing import Final

from core.log.format import Buffer
from core.log.slabs import FileImage
from tier2.direct_io import BLOCK_BYTES, up_to_block
from tier2.shortage import patiently

WRITE_BYTES_MAX: Final = 1 << 20
"""Of one write: the next request in the disk's queue waits no longer than for these."""

_ZEROS: Final = bytes(BLOCK_BYTES)


class ImageWriter:
    """Appends to one file after the other. For the writer's thread."""

    def __init__(self) -> None:
        self._fd = -1
        self._image: FileImage | None = None
        self._end = 0  # position behind all that was given

    def begin(self, fd: int, image: FileImage, position: int) -> None:
        """Go on in this file, at the beginning of a block."""
        if position % BLOCK_BYTES:
            raise ValueError(f"no block begins at {position}")
        self._fd, self._image, self._end = fd, image, position

    def write(self, parts: Iterable[Buffer]) -> None:
        """Append all parts. Raises OSError."""
        image, end = self._image, self._end
        assert image is not None
        position = end - end % BLOCK_BYTES
        for part in parts:
            end = image.fill(end, part)
        stop = up_to_block(end)
        if stop != end:
            image.fill(end, _ZEROS[: stop - end])
        while position < stop:
            piece = image.stretch(position, stop, WRITE_BYTES_MAX)
            written = patiently(partial(os.pwrite, self._fd, piece, position))
            if written != len(piece):
                raise OSError(0, f"short write: {written} of {len(piece)} bytes")
            position += written
        self._end = end
