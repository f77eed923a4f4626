"""Memory for large buffers, without two costs that would exceed those of their use:

- `bytearray(n)` writes zeros first: for 1 MB that takes longer than to receive it (180 of 230 µs).
- The allocator returns large blocks to the kernel as soon as they are free, and the kernel fills each page with zeros
  when it is touched again: half a millisecond for each MB, five times as long as copying it.
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
"""Free bytes at the top of the heap that stay with the process."""
OWN_MAPPING_BYTES: Final = 16 << 20
"""Blocks from this size on are still mapped by themselves, and returned when they are free."""
ARENAS: Final = 2
"""Few heaps, as threads take turns at the interpreter: memory that one has freed serves another."""

# A bytearray with arbitrary bytes. Only bytes that were written to it may be read.
uninitialized: Final = ctypes.pythonapi.PyByteArray_FromStringAndSize
uninitialized.argtypes = (ctypes.c_char_p, ctypes.c_ssize_t)
uninitialized.restype = ctypes.py_object

_address_of: Final = ctypes.addressof


def aligned(size: int) -> memoryview:
    """`size` bytes of memory that begin at a page's address; their content is arbitrary."""
    memory = uninitialized(None, size + mmap.PAGESIZE)
    skipped = -_address_of(ctypes.c_char.from_buffer(memory)) % mmap.PAGESIZE
    return memoryview(memory)[skipped : skipped + size]


def keep_freed() -> None:
    """Make the allocator of this process use freed memory again. Does nothing without glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, OWN_MAPPING_BYTES)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES_MAX)
        mallopt(M_ARENA_MAX, ARENAS)
