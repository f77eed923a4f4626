"""The bytes of a metadata snapshot in long-term storage. Pure; `core.tiering.snapshots.snapshots` puts them there.

An object ``meta/<container>/<epoch, 8 hex>-<LSN, 16 hex>``: a header, then a body. All numbers are little-endian.

Header, 64 bytes:

    ======  ====  =====================================================
    offset  type  field
    ======  ====  =====================================================
    0       8s    magic ``PSTKMET\\n``
    8       u16   format version: 2 if a slot has writers, else 1
    10      u16   how the body is stored: 0 as it is, 1 zstd
    12      u32   container id
    16      u32   epoch of the container
    20      u32   CRC-32C of the body as it is stored
    24      u64   LSN: everything up to it is in here
    32      u64   creation time, ms since the epoch
    40      u64   length of the body as it is stored, bytes
    48      u64   length of the body, bytes
    56      u32   zero
    60      u32   CRC-32C of bytes 0-59
    ======  ====  =====================================================

Body:

    u16  length of the cluster id, the cluster id in UTF-8
    u32  count of tables, then for each
        u8   length of the name, u32 count of entries, the name in UTF-8, then for each entry
            u16 length of the key, u32 length of the value, key, value
    u32  count of slots, then for each
        u32  stream id     4  u32  slot      8  i64  start     16  u64  bytes of the slot before its start
        24  i64  durable end                 32  i64  tiered end           40  u64  bytes of the slot before that
        48  u16  count of epochs, then for each: i32 leader epoch, i64 its first sequence number
    from version 2 on: u32 count of slots with writers, then for each
        u32  number of the slot in the list above, u32 count of writers, then for each
            0   i64  writer id     8  i16  epoch     10  i64  last use, ms since the epoch     18  u8  count of batches
            19  oldest first, 30 bytes each: i16 epoch, i32 first sequence, i32 last sequence, i64 base, u32 count of
                sequence numbers, i64 timestamp

A release that knows only version 1 says "snapshot format version 2, this release reads 1", and takes an older snapshot
or none. So a snapshot without writers is written as version 1, byte for byte, which that release can read.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Final, NamedTuple

import cramjam
from crc32c import crc32c

from core.streams.writers import BATCHES_KEPT, WriterBatch
from tier2.storage import Buffer

MAGIC: Final = b"PSTKMET\n"
FORMAT_VERSION: Final = 2
WRITERS_SINCE: Final = 2
PLAIN: Final = 0
ZSTD: Final = 1
ZSTD_LEVEL: Final = 3
PARTS_JOINED: Final = 4096
BODY_BYTES_MAX: Final = 2 << 30
"""The longest body that is read; a million slots, as many group offsets and as many writers have less than 400 MB."""

_HEADER: Final = struct.Struct("<8sHHIIIQQQQI")
_CRC: Final = struct.Struct("<I")
HEADER_SIZE: Final = 64
_SHORT: Final = struct.Struct("<H")
_COUNT: Final = struct.Struct("<I")
_TABLE: Final = struct.Struct("<BI")
_ENTRY: Final = struct.Struct("<HI")
_SLOT: Final = struct.Struct("<IIqQqqQH")
_EPOCH: Final = struct.Struct("<iq")
_WRITERS: Final = struct.Struct("<II")
_WRITER: Final = struct.Struct("<qhqB")
_BATCH: Final = struct.Struct("<hiiqIq")
_WITH_BATCHES: Final = tuple(
    struct.Struct(_WRITER.format + _BATCH.format[1:] * count) for count in range(BATCHES_KEPT + 1)
)
"""A writer with this many batches."""
assert _HEADER.size + _CRC.size == HEADER_SIZE
assert (_SLOT.size, _WRITER.size, _BATCH.size) == (50, 19, 30)

_OBJECT: Final = re.compile(r"meta/([0-9]+)/([0-9a-f]{8})-([0-9a-f]{16})")


class BadSnapshot(Exception):
    """The bytes are not those of a whole, undamaged snapshot."""


class WriterSnapshot(NamedTuple):
    """A slot's memory of an idempotent writer: its durable batches, oldest first."""

    writer_id: int
    epoch: int
    last_use_ms: int
    batches: tuple[WriterBatch, ...]


class SlotSnapshot(NamedTuple):
    """The facts about a slot that recovery needs and its chunks lack."""

    stream_id: int
    slot: int
    start: int
    start_bytes: int
    durable_end: int
    tiered_end: int
    tiered_bytes: int
    epochs: tuple[tuple[int, int], ...]  # (leader epoch, its first sequence number), oldest first


class SnapshotId(NamedTuple):
    """Snapshots of a container sort by this: the largest is the newest."""

    epoch: int
    lsn: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A container's metadata."""

    container: int
    id: SnapshotId
    created_ms: int
    cluster_id: str
    tables: Mapping[str, Mapping[bytes, bytes]]
    slots: Sequence[SlotSnapshot]
    writers: Mapping[int, Sequence[WriterSnapshot]] = field(default_factory=dict)  # by the slot's number in `slots`

    @property
    def key(self) -> str:
        return snapshot_key(self.container, self.id)


def snapshot_prefix(container: int) -> str:
    return f"meta/{container}/"


def snapshot_key(container: int, snapshot: SnapshotId) -> str:
    return f"{snapshot_prefix(container)}{snapshot.epoch:08x}-{snapshot.lsn:016x}"


def parse_snapshot_key(key: str) -> tuple[int, SnapshotId] | None:
    """Container and id; None when it is no snapshot's key."""
    match = _OBJECT.fullmatch(key)
    if match is None:
        return None
    container, epoch, lsn = match.groups()
    return int(container), SnapshotId(int(epoch, 16), int(lsn, 16))


def encode_snapshot(snapshot: Snapshot) -> list[Buffer]:
    """The object's bytes: header and body."""
    body = _encode_body(snapshot)
    stored = bytes(cramjam.zstd.compress(body, ZSTD_LEVEL))
    head = _HEADER.pack(
        MAGIC,
        FORMAT_VERSION if snapshot.writers else WRITERS_SINCE - 1,
        ZSTD,
        snapshot.container,
        snapshot.id.epoch,
        crc32c(stored),
        snapshot.id.lsn,
        snapshot.created_ms,
        len(stored),
        len(body),
        0,
    )
    return [head + _CRC.pack(crc32c(head)), stored]


def _encode_body(snapshot: Snapshot) -> bytes:
    """The parts, joined bit by bit: joining a million at once would hold up the event loop, in any thread."""
    parts = _parts(snapshot)
    pieces: list[bytes] = []
    while some := list(islice(parts, PARTS_JOINED)):
        pieces.append(b"".join(some))
    return b"".join(pieces)


def _parts(snapshot: Snapshot) -> Iterator[bytes]:
    cluster = snapshot.cluster_id.encode()
    yield _SHORT.pack(len(cluster))
    yield cluster
    yield _COUNT.pack(len(snapshot.tables))
    for name, entries in snapshot.tables.items():
        encoded = name.encode()
        yield _TABLE.pack(len(encoded), len(entries))
        yield encoded
        for key, value in entries.items():
            yield _ENTRY.pack(len(key), len(value))
            yield key
            yield value
    yield _COUNT.pack(len(snapshot.slots))
    for slot in snapshot.slots:
        yield _SLOT.pack(*slot[:7], len(slot.epochs))
        for leader_epoch in slot.epochs:
            yield _EPOCH.pack(*leader_epoch)
    if not snapshot.writers:
        return
    yield _COUNT.pack(len(snapshot.writers))
    for number, writers in snapshot.writers.items():
        yield _WRITERS.pack(number, len(writers))
        for writer_id, epoch, last_use_ms, batches in writers:
            packed = _WITH_BATCHES[len(batches)].pack
            yield packed(writer_id, epoch, last_use_ms, len(batches), *chain.from_iterable(batches))


def decode_snapshot(data: bytes) -> Snapshot:
    """Read a whole object. Raises BadSnapshot."""
    if len(data) < HEADER_SIZE or not data.startswith(MAGIC):
        raise BadSnapshot("no snapshot: the magic is missing")
    _, version, stored_as, container, epoch, crc, lsn, created, stored, length, _ = _HEADER.unpack_from(data)
    if not 1 <= version <= FORMAT_VERSION:
        raise BadSnapshot(f"snapshot format version {version}, this release reads up to {FORMAT_VERSION}")
    if _CRC.unpack_from(data, _HEADER.size)[0] != crc32c(data[: _HEADER.size]):
        raise BadSnapshot("header fails its CRC")
    body = memoryview(data)[HEADER_SIZE:]
    if len(body) != stored or crc32c(body) != crc:
        raise BadSnapshot("body is cut off or fails its CRC")
    if stored_as not in (PLAIN, ZSTD) or length > BODY_BYTES_MAX:
        raise BadSnapshot(f"body of {length} bytes is stored in way {stored_as}, which this release does not read")
    try:
        plain = _unpacked(body, length) if stored_as == ZSTD else bytes(body)
        cluster_id, tables, slots, writers = _decode_body(plain, version)
    except (struct.error, UnicodeDecodeError, ValueError, cramjam.DecompressionError) as error:
        raise BadSnapshot(f"body contradicts itself ({error})") from error
    return Snapshot(
        container=container,
        id=SnapshotId(epoch, lsn),
        created_ms=created,
        cluster_id=cluster_id,
        tables=tables,
        slots=slots,
        writers=writers,
    )


def _unpacked(body: memoryview, length: int) -> bytes:
    out = bytearray(length)
    written = cramjam.zstd.decompress_into(body, out)
    if written != length:
        raise ValueError(f"{written} bytes came out of it, {length} were promised")
    return bytes(out)


def _decode_body(
    body: bytes, version: int
) -> tuple[str, dict[str, dict[bytes, bytes]], list[SlotSnapshot], dict[int, list[WriterSnapshot]]]:
    (size,) = _SHORT.unpack_from(body)
    position = _SHORT.size + size
    cluster_id = _cut(body, _SHORT.size, size).decode()
    (count,) = _COUNT.unpack_from(body, position)
    position += _COUNT.size
    tables: dict[str, dict[bytes, bytes]] = {}
    for _ in range(count):
        size, entries = _TABLE.unpack_from(body, position)
        name = _cut(body, position + _TABLE.size, size).decode()
        position += _TABLE.size + size
        table = tables[name] = {}
        for _ in range(entries):
            key_size, value_size = _ENTRY.unpack_from(body, position)
            position += _ENTRY.size
            key = _cut(body, position, key_size)
            table[key] = _cut(body, position + key_size, value_size)
            position += key_size + value_size
    (count,) = _COUNT.unpack_from(body, position)
    position += _COUNT.size
    slots: list[SlotSnapshot] = []
    for _ in range(count):
        row = _SLOT.unpack_from(body, position)
        position += _SLOT.size
        epochs = _cut(body, position, row[-1] * _EPOCH.size)
        slots.append(SlotSnapshot._make((*row[:-1], tuple(_EPOCH.iter_unpack(epochs)))))
        position += len(epochs)
    writers: dict[int, list[WriterSnapshot]] = {}
    if version >= WRITERS_SINCE:
        writers, position = _decode_writers(body, position, len(slots))
    if position != len(body):
        raise ValueError(f"{len(body) - position} bytes are left over")
    return cluster_id, tables, slots, writers


def _decode_writers(body: bytes, position: int, slots: int) -> tuple[dict[int, list[WriterSnapshot]], int]:
    """The writers by the slot's number, and the position behind them."""
    found: dict[int, list[WriterSnapshot]] = {}
    (count,) = _COUNT.unpack_from(body, position)
    position += _COUNT.size
    for _ in range(count):
        number, writers_count = _WRITERS.unpack_from(body, position)
        position += _WRITERS.size
        if number >= slots:
            raise ValueError(f"writers of slot number {number} of {slots}")
        writers = found[number] = []
        for _ in range(writers_count):
            writer_id, epoch, last_use_ms, batches = _WRITER.unpack_from(body, position)
            position += _WRITER.size
            rows = _cut(body, position, batches * _BATCH.size)
            position += len(rows)
            read = tuple(map(WriterBatch._make, _BATCH.iter_unpack(rows)))
            writers.append(WriterSnapshot(writer_id, epoch, last_use_ms, read))
    return found, position


def _cut(body: bytes, position: int, size: int) -> bytes:
    if position + size > len(body):
        raise ValueError("it is cut off")
    return body[position : position + size]
