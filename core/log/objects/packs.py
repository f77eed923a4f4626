"""Packs: copies of many small groups of the log in one object each, so that a taker reads few objects in place of many.

A pack is a cache and nothing more. Its owner makes it of groups that it has acknowledged, so each lies in the store as
well, under its own name and with the same bytes; a taker that finds no pack, or a damaged one, reads those.

All numbers are little-endian.

    ======  ====  =====================================================
    offset  type  field
    ======  ====  =====================================================
    0       8s    magic ``PSTKPAK\\n``
    8       u16   format version (1)
    10      u16   zero
    12      u32   container id
    16      u64   epoch of all groups
    24      u64   first LSN of the first group, as in the name
    32      u64   last LSN of the last group, as in the name
    40      u32   number of groups
    44      u32   CRC-32C of all behind the header
    48      u64   number of bytes behind the header
    56      u32   CRC-32C of offsets 0-55
    60      u32   zero
    64      ...   u64 first LSN and u32 size of each group's object, in their order
    ...     ...   the objects (`core.log.objects.format`), one behind the other
    ======  ====  =====================================================

**Invariants**

- Only acknowledged groups are packed, and no fences: they were stored while the owner's claim stood, and nothing else
  ever lies at their places.
- A pack keeps nobody waiting who appends, and who closes for `CLOSE_S` at most. One that cannot be put is given up.
- What waits for a pack has at most `WAITING_BYTES_MAX`; beyond that it is left to be read one by one.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

from crc32c import crc32c

from core.log.format import Buffer
from core.log.objects.format import HEADER_SIZE as OBJECT_HEADER_SIZE
from core.log.objects.format import BadLogObject
from core.log.objects.protocol import Place
from tier2.storage import Storage, StorageError

logger = logging.getLogger(__name__)

MAGIC: Final = b"PSTKPAK\n"
VERSION: Final = 1
OBJECT_BYTES_MAX: Final = 64 << 10
"""Larger objects are not packed: a taker reads each in one piece, and few make many bytes."""
PACK_BYTES: Final = 1 << 20
PACK_OBJECTS: Final = 128
"""A pack is put when one of the two is reached. So a taker reads fewer single objects than that at the log's end."""
WAITING_BYTES_MAX: Final = 4 << 20
LAST_OBJECTS: Final = 16
"""Fewer are not worth a pack when an owner ends: so many are read at a time."""
CLOSE_S: Final = 1.0
_FIXED: Final = struct.Struct("<8sHHIQQQIIQ")
_CRC: Final = struct.Struct("<II")
_ENTRY: Final = struct.Struct("<QI")
HEADER_SIZE: Final = _FIXED.size + _CRC.size
assert HEADER_SIZE == 64


class Packed(NamedTuple):
    """A group's object in a pack: where its bytes lie."""

    place: Place
    position: int
    size: int


class _Small(NamedTuple):
    lsn: int
    last_lsn: int
    data: bytes


def packs_prefix(container: int) -> str:
    """What the keys of all packs of a container begin with."""
    return f"packs/{container}/"


def pack_key(container: int, epoch: int, first_lsn: int, last_lsn: int) -> str:
    """The key of a pack."""
    return f"{packs_prefix(container)}{epoch:020d}/{first_lsn:020d}-{last_lsn:020d}"


def ends_of(key: str) -> tuple[int, int]:
    """The first and the last LSN of a pack, by its key."""
    first, _, last = key.rpartition("/")[2].partition("-")
    return int(first), int(last)


def encode_pack(container: int, epoch: int, objects: Sequence[tuple[int, int, bytes]]) -> bytes:
    """A whole pack of group objects: (first LSN, last LSN, bytes) each, in their order."""
    entries = b"".join(_ENTRY.pack(lsn, len(data)) for lsn, _, data in objects)
    body = b"".join((entries, *(data for _, _, data in objects)))
    fixed = _FIXED.pack(
        *(MAGIC, VERSION, 0, container, epoch, objects[0][0], objects[-1][1], len(objects), crc32c(body), len(body))
    )
    return b"".join((fixed, _CRC.pack(crc32c(fixed), 0), body))


def decode_pack(container: int, key: str, data: Buffer) -> Sequence[Packed]:
    """The groups of a pack under this key. Raises BadLogObject with the reason."""
    if len(data) < HEADER_SIZE:
        raise BadLogObject(f"its header is cut off after {len(data)} bytes")
    fixed = bytes(data[: _FIXED.size])
    header_crc, _ = _CRC.unpack_from(data, _FIXED.size)
    magic, version, _, own, epoch, first, last, count, body_crc, size = _FIXED.unpack(fixed)
    if magic != MAGIC:
        raise BadLogObject("it is no pack: the magic is missing")
    if version != VERSION:
        raise BadLogObject(f"its format version is {version}, this release reads {VERSION}")
    if header_crc != crc32c(fixed):
        raise BadLogObject("its header fails its CRC")
    if pack_key(own, epoch, first, last) != key or own != container:
        raise BadLogObject(f"it says that it is LSN {first} to {last} of epoch {epoch} of container {own}")
    if len(data) != HEADER_SIZE + size or size < count * _ENTRY.size:
        raise BadLogObject(f"it has {len(data)} bytes, its header says {HEADER_SIZE + size}")
    if body_crc != crc32c(memoryview(data)[HEADER_SIZE:]):
        raise BadLogObject("its bytes fail their CRC")
    position, found = HEADER_SIZE + count * _ENTRY.size, []
    for at in range(HEADER_SIZE, position, _ENTRY.size):
        lsn, length = _ENTRY.unpack_from(data, at)
        if length <= OBJECT_HEADER_SIZE:  # a fence: those are asked of the store
            raise BadLogObject(f"its object of LSN {lsn} has {length} bytes: it is no group")
        found.append(Packed(Place(epoch, lsn), position, length))
        position += length
    if position != len(data):
        raise BadLogObject(f"its objects have {position - HEADER_SIZE} bytes, and it has {size}")
    return found


class Packing:
    """Packs the small groups of one owner as they are acknowledged. For the event loop; end it with `close`."""

    def __init__(self, storage: Storage, container: int, epoch: int) -> None:
        self._storage = storage
        self._container = container
        self._epoch = epoch
        self._stored: deque[_Small] = deque()  # in the order in which puts were answered
        self._stored_bytes = 0
        self._ready: list[_Small] = []  # acknowledged
        self._ready_bytes = 0
        self._putting: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Packing {self._container} {len(self._stored)} stored, {len(self._ready)} acknowledged>"

    def stored(self, lsn: int, last_lsn: int, data: bytes) -> None:
        """This object lies in the store."""
        if len(data) <= OBJECT_BYTES_MAX and self._stored_bytes < WAITING_BYTES_MAX:
            self._stored.append(_Small(lsn, last_lsn, data))
            self._stored_bytes += len(data)

    def acknowledged(self, lsn: int) -> None:
        """All up to this LSN is acknowledged."""
        for _ in range(len(self._stored)):
            one = self._stored.popleft()
            if one.last_lsn > lsn:
                self._stored.append(one)
                continue
            self._stored_bytes -= len(one.data)
            if self._ready_bytes < WAITING_BYTES_MAX:
                self._ready.append(one)
                self._ready_bytes += len(one.data)
        is_due = len(self._ready) >= PACK_OBJECTS or self._ready_bytes >= PACK_BYTES
        if is_due and self._putting is None:
            self._begin()

    async def _put(self, taken: list[_Small]) -> None:
        taken.sort()
        key = pack_key(self._container, self._epoch, taken[0].lsn, taken[-1].last_lsn)
        try:
            data = await asyncio.to_thread(encode_pack, self._container, self._epoch, taken)
            await self._storage.put(key, data)
        except StorageError as error:
            logger.info("small objects of the log stay unpacked", extra={"pack": key, "reason": str(error)[:300]})
        finally:
            self._putting = None

    async def close(self) -> None:
        """End, with a last pack, if that is worth it, and the store takes it within `CLOSE_S`."""
        if self._putting is None and len(self._ready) >= LAST_OBJECTS:
            self._begin()
        putting = self._putting
        if putting is not None:
            await asyncio.wait({putting}, timeout=CLOSE_S)
            putting.cancel()
            await asyncio.gather(putting, return_exceptions=True)

    def _begin(self) -> None:
        taken, self._ready, self._ready_bytes = self._ready, [], 0
        self._putting = asyncio.create_task(self._put(taken), name=f"pack-{self._container}")
