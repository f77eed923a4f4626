"""Memory for large buffers: what the interpreter would do to each of them costs more than what is done with it.

- `bytearray(n)` writes zeros first: for 1 MB that takes longer than to receive it (180 of 230 µs).
- The allocator gives large blocks back to the kernel as soon as they are free, and the kernel fills each page with
  zeros when it is touched again: half a millisecond for each MB, five times as long as copying it.
"""

from __future__ import annotations

import ctypes
import mmap
from typing import Final

M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
M_ARENA_MAX: Final = -8
"""Numbers of glibc's mallopt(3)."""

KEPT_BYTES_MAX: Final = 64 << 20
"""Free memory at the top of the heap that stays with the process."""
OWN_MAPPING_BYTES: Final = 16 << 20
"""Blocks of this size are still mapped by themselves, and leave when they are free."""
ARENAS: Final = 2
"""Threads take turns at the interpreter; what one has freed another uses."""

# A bytearray whose bytes are whatever they are. Only what is written to it may be read.
uninitialized: Final = ctypes.pythonapi.PyByteArray_FromStringAndSize
uninitialized.argtypes = (ctypes.c_char_p, ctypes.c_ssize_t)
uninitialized.restype = ctypes.py_object

_address_of: Final = ctypes.addressof


def aligned(size: int) -> memoryview:
    """So many bytes of memory whose address is that of a page; what they are is left open."""
    memory = uninitialized(None, size + mmap.PAGESIZE)
    skipped = -_address_of(ctypes.c_char.from_buffer(memory)) % mmap.PAGESIZE
    return memoryview(memory)[skipped : skipped + size]


def keep_freed() -> None:
    """Tell the allocator of this process to use freed memory again. Does nothing where there is no glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, OWN_MAPPING_BYTES)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES_MAX)
        mallopt(M_ARENA_MAX, ARENAS)
