"""The CRC-32C of many blocks from that of each, so that they are checked with one call.

A call for each block would give up the interpreter and take it again as often, while the event loop waits for it.

A CRC goes through zeros linearly: its result is the exclusive or of its bits' results. So the result is looked up byte
by byte. The CRC of two stretches is the exclusive or of two values: that of the first after as many zeros as the second
has bytes, and that of the second.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from crc32c import crc32c


def joined(crcs: Sequence[int], block_bytes: int, size: int) -> int:
    """The CRC of `size` bytes, given those of its blocks; the last one may be shorter."""
    last = size % block_bytes
    whole, rest = (crcs[:-1], crcs[-1:]) if last else (crcs, ())
    crc = 0
    one, two, three, four = _through(block_bytes)
    for block in whole:
        crc = one[crc & 255] ^ two[crc >> 8 & 255] ^ three[crc >> 16 & 255] ^ four[crc >> 24] ^ block
    for block in rest:
        one, two, three, four = _through(last)
        crc = one[crc & 255] ^ two[crc >> 8 & 255] ^ three[crc >> 16 & 255] ^ four[crc >> 24] ^ block
    return crc


@lru_cache(64)
def _through(zeros: int) -> tuple[list[int], list[int], list[int], list[int]]:
    """The results of all values of a CRC's bytes after that many zeros, the lowest byte first."""
    nothing = bytes(zeros)
    alone = crc32c(nothing)
    bits = [crc32c(nothing, 1 << bit) ^ alone for bit in range(32)]
    tables: list[list[int]] = []
    for first in range(0, 32, 8):
        table = [0]
        for bit in bits[first : first + 8]:
            table += [value ^ bit for value in table]
        tables.append(table)
    one, two, three, four = tables
    return one, two, three, four
