"""The bytes of the log's objects, and their names.

A *group* holds bytes of one local log file, exactly as they lie there: all groups of a file are the file.
A *fence* ends an epoch: it takes the name that the epoch's next group would have, and tells where the log goes on.

**Invariant**: the name says epoch and first LSN, the object repeats both, and its token tells who put it. So an object
under the wrong name, or with a byte changed, is refused, and a writer that got no answer recognises its own put.

All numbers are little-endian.

    ======  ====  =====================================================
    offset  type  field
    ======  ====  =====================================================
    0       8s    magic ``PSTKLOB\\n``
    8       u16   format version (1)
    10      u16   kind: 1 group, 2 fence
    12      u32   container id
    16      u64   epoch, as in the name
    24      u64   first LSN, as in the name
    32      u64   group: last LSN; fence: the epoch in which the log goes on, with the same first LSN
    40      16s   token, random: one for each put
    56      u64   first LSN of the log file (0 in a fence, as all that follows)
    64      u64   position of the bytes in the log file; 0: they begin with its header
    72      u32   file id
    76      u32   CRC-32C of the bytes
    80      u64   number of bytes
    88      u32   CRC-32C of offsets 0-87
    92      u32   zero
    96      ...   the bytes
    ======  ====  =====================================================
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from crc32c import crc32c

from core.log.format import Buffer
from core.log.objects.protocol import Fence, Group, Place

MAGIC: Final = b"PSTKLOB\n"
VERSION: Final = 1
HEADER_SIZE: Final = 96
TOKEN_BYTES: Final = 16
PARTS_MAX: Final = 64
"""Parts of a group whose CRCs are computed one by one: for many small ones, that costs more than a copy."""
_FIXED: Final = struct.Struct("<8sHHIQQQ16sQQIIQ")
_CRC: Final = struct.Struct("<II")
assert _FIXED.size + _CRC.size == HEADER_SIZE

_GROUP: Final = 1
_FENCE: Final = 2


class BadLogObject(Exception):
    """These bytes are no whole, undamaged object of this log under this name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """The place of a group's bytes in a local log file."""

    file_lsn: int
    file_id: int
    position: int
    size: int
    crc: int


Decoded: TypeAlias = tuple[Group, Stretch] | tuple[Fence, None]


def log_prefix(container: int) -> str:
    """What the keys of all log objects of a container begin with."""
    return f"log/{container}/"


def log_key(container: int, place: Place) -> str:
    """The key of the object at a place. Keys of an epoch are in the order of their LSNs."""
    return f"{log_prefix(container)}{place.epoch:020d}/{place.lsn:020d}"


def encode_group(
    container: int, group: Group, file_lsn: int, file_id: int, position: int, parts: Sequence[Buffer]
) -> bytes:
    """A whole group object around the bytes of its frames, which come in parts. Copies large parts once."""
    if len(parts) > PARTS_MAX:
        parts = (b"".join(parts),)
    place, token = group.place, bytes.fromhex(group.token)
    crc = size = 0
    for part in parts:
        crc, size = crc32c(part, crc), size + len(part)
    fixed = _FIXED.pack(
        *(MAGIC, VERSION, _GROUP, container, place.epoch, place.lsn, group.last_lsn, token),
        *(file_lsn, position, file_id, crc, size),
    )
    return b"".join((fixed, _CRC.pack(crc32c(fixed), 0), *parts))


def encode_fence(container: int, fence: Fence) -> bytes:
    """A whole fence object."""
    place, token = fence.place, bytes.fromhex(fence.token)
    fixed = _FIXED.pack(
        *(MAGIC, VERSION, _FENCE, container, place.epoch, place.lsn, fence.next_epoch, token), *(0, 0, 0, 0, 0)
    )
    return fixed + _CRC.pack(crc32c(fixed), 0)


def decode_header(container: int, place: Place, block: Buffer) -> Decoded:
    """Read an object's header, which must be that of this place. Raises BadLogObject with the reason."""
    if len(block) < HEADER_SIZE:
        raise BadLogObject(f"its header is cut off after {len(block)} bytes")
    fixed = bytes(block[: _FIXED.size])
    crc, _ = _CRC.unpack_from(block, _FIXED.size)
    magic, version, kind, own, epoch, lsn, last, token, file_lsn, position, file_id, data_crc, size = _FIXED.unpack(
        fixed
    )
    if magic != MAGIC:
        raise BadLogObject("it is no log object: the magic is missing")
    if version != VERSION:
        raise BadLogObject(f"its format version is {version}, this release reads {VERSION}")
    if crc != crc32c(fixed):
        raise BadLogObject("its header fails its CRC")
    if (own, epoch, lsn) != (container, place.epoch, place.lsn):
        raise BadLogObject(f"it says that it is LSN {lsn} of epoch {epoch} of container {own}")
    if kind == _FENCE and last > epoch:
        return Fence(place, last, token.hex()), None
    if kind == _GROUP and last >= lsn and size:
        stretch = Stretch(file_lsn=file_lsn, file_id=file_id, position=position, size=size, crc=data_crc)
        return Group(place, last, token.hex()), stretch
    raise BadLogObject(f"its kind is {kind} with {last} and {size} bytes")


def check_data(stretch: Stretch, data: Buffer) -> None:
    """Raise BadLogObject unless these are the bytes that the header describes."""
    if len(data) != stretch.size:
        raise BadLogObject(f"it has {len(data)} bytes of the log, its header says {stretch.size}")
    if crc32c(data) != stretch.crc:
        raise BadLogObject("its bytes fail their CRC")
