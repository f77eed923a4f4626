"""Records of TLS as they come on the wire (RFC 8446, section 5.1), told apart by their heads alone. Pure.

    0  u8 type   1  u16 version   3  u16 length   5  content

Keeps: what cannot be TLS counts as whole, as OpenSSL knows what to say of it: a length says nothing there, and in text
in the clear it is one of eight thousand bytes.
"""

from __future__ import annotations

from typing import Final

RECORD_BYTES: Final = 16 * 1024
"""Content of the largest record."""
RECORD_HEAD_BYTES: Final = 5
VERSION_MAJOR: Final = 3
"""Of every version of TLS."""
RECORD_BYTES_MAX: Final = RECORD_HEAD_BYTES + RECORD_BYTES + 2_048
"""The largest record on the wire (RFC 5246, section 6.2.3)."""
IDLE_RECORD_BYTES: Final = RECORD_HEAD_BYTES + 22
"""A record that changes keys (RFC 8446, section 4.6.3): those without data have about that size, on the wire."""
HANDSHAKE: Final = 0x16
"""The type of a client's first record, and of all of a handshake that are in the clear."""


def whole_records(wire: memoryview, start: int, size_max: int) -> int:
    """The size of the whole records from `start` on: at least one, as many as `size_max` bytes hold; 0 if there is
    none."""
    at, end = start, len(wire)
    while end - at >= RECORD_HEAD_BYTES:
        size = _size(wire, at)
        if wire[at + 1] != VERSION_MAJOR or size > RECORD_BYTES_MAX:
            return end - start
        if size > end - at or (at > start and at + size - start > size_max):
            break
        at += size
    return at - start


def first_records(wire: memoryview, most: int, size_max: int) -> tuple[int, int]:
    """The size and the number of the first whole records: no more than `most`, and none behind so many bytes."""
    size = count = 0
    while count < most and size < size_max and (one := whole_records(wire, size, 0)):
        size += one
        count += 1
    return size, count


def are_sealed(records: memoryview) -> bool:
    """Is none of these whole records of a handshake in the clear? Only such a one can ask a server for a signature, or
    for an exchange of keys."""
    at = 0
    while len(records) - at >= RECORD_HEAD_BYTES:
        if records[at] == HANDSHAKE:
            return False
        at += _size(records, at)
    return True


def _size(wire: memoryview, at: int) -> int:
    return RECORD_HEAD_BYTES + (wire[at + 3] << 8) + wire[at + 4]
