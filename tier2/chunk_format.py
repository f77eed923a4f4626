"""The format of a chunk. No I/O here; see `tier2.chunk` for that.

A chunk is one immutable object: a header, *runs* back to back, the index, a footer. A run is a stretch of one slot's
entries, as they go on the wire, nothing between them. All numbers are little-endian.

Header, 40 bytes:

    ======  ====  =====================================================
    offset  type  field
    ======  ====  =====================================================
    0       8s    magic ``PSTKCHK\\n``
    8       u16   format version (1)
    10      u16   zero
    12      u32   container id   \\
    16      u32   epoch           > the chunk's id, unique for ever
    20      u64   sequence       /
    28      u64   creation time, ms since the epoch
    36      u32   CRC-32C of bytes 0-35
    ======  ====  =====================================================

Index: a head, three tables, then for each run its block CRCs, points and aborted transactions, in the order of runs.

    head, 52 bytes
        0   u32  container   4  u32  epoch   8  u64  sequence   16  u64  creation time: as in the header
        24  u32  block size, bytes           28  u32  count of streams      32  u32  count of segments
        36  u32  count of runs               40  u64  position of the first byte after the last run
        48  u16  length of the cluster id    50  u16  zero
    cluster id, UTF-8
    streams, for each
        0   u32  stream id    4   16s  UUID    20  u16  length of the name    22  u16  zero    24  name, UTF-8
    segments, for each, 16 bytes
        0   u64  segment id   8   u32  number of its stream in the table above   12  u32  generation
    runs, sorted by (stream id, segment id, slot), 80 bytes for each
        0   u32  number of its segment in the table above    4   u32  slot
        8   i64  first sequence number that the run covers   16  i64  sequence number after the last one covered
        24  i64  smallest timestamp of an entry, ms          32  i64  largest (-1 = none)
        40  u64  position                                    48  u64  length, bytes
        56  u32  entries                                     60  u32  blocks
        64  u32  points                                      68  u32  aborted transactions
        72  u32  largest leader epoch                        76  u32  zero
    for each run
        u32 × blocks  CRC-32C of each block: the run cut every `block size` bytes from its beginning
        28 × points   the first entry that begins in a block (blocks without one have no point):
            0   i64  first sequence number     8  u64  position in the run
            16  i64  largest timestamp of the entries from here to the next point
            24  u32  zero
        32 × aborted  transactions that overlap the run, wherever they began or ended, in the order of their ends:
            0   i64  writer id   8  i64  first   16  i64  last sequence number   24  i64  stable end when it ended

Footer, 40 bytes, at the end of the object:

    ======  ====  =====================================================
    0       u64   position of the index
    8       u32   length of the index, bytes
    12      u32   CRC-32C of the index
    16      u64   size of the object, bytes
    24      u16   format version (1)
    26      u16   zero
    28      u32   CRC-32C of bytes 0-27
    32      8s    magic ``PSTKEND\\n``
    ======  ====  =====================================================

A run covers its whole range: compaction has removed the entries of the range that it lacks.

Every byte lies under one CRC, because an entry's own does not cover its sequence numbers.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from crc32c import crc32c

from tier2.storage import Buffer

HEADER_MAGIC: Final = b"PSTKCHK\n"
FOOTER_MAGIC: Final = b"PSTKEND\n"
FORMAT_VERSION: Final = 1
BLOCK_BYTES: Final = 64 << 10
INDEX_BYTES_MAX: Final = 256 << 20
"""Longest index that is read, bytes: a run of 16 GiB has one of 8 MiB, so a longer one is damage."""

_HEADER: Final = struct.Struct("<8sHHIIQQ")
_CRC: Final = struct.Struct("<I")
INDEX_HEAD: Final = struct.Struct("<IIQQIIIIQHH")
STREAM_ROW: Final = struct.Struct("<I16sHH")
SEGMENT_ROW: Final = struct.Struct("<QII")
RUN_ROW: Final = struct.Struct("<IIqqqqQQIIIIII")
POINT_ROW: Final = struct.Struct("<qQqI")
ABORTED_ROW: Final = struct.Struct("<qqqq")
_FOOTER: Final = struct.Struct("<QIIQHH")
HEADER_SIZE: Final = 40
FOOTER_SIZE: Final = 40
assert _HEADER.size + _CRC.size == HEADER_SIZE
assert _FOOTER.size + _CRC.size + len(FOOTER_MAGIC) == FOOTER_SIZE
assert (INDEX_HEAD.size, STREAM_ROW.size, SEGMENT_ROW.size, RUN_ROW.size) == (52, 24, 16, 80)
assert (POINT_ROW.size, ABORTED_ROW.size) == (28, 32)


class BadChunk(Exception):
    """The bytes at `position` of the object are not those of a whole, undamaged chunk."""

    def __init__(self, position: int, why: str) -> None:
        super().__init__(f"at byte {position}: {why}")
        self.position, self.why = position, why


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class ChunkId:
    """The chunk's maker, and its number: never used twice."""

    container: int
    epoch: int
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRef:
    """The facts about a stream that reading its entries needs, without any other metadata."""

    id: int
    uuid: UUID
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentRef:
    """A segment of a stream; the generation rises when its entries are rewritten."""

    id: int
    stream: StreamRef
    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AbortedTransaction:
    """A transaction whose entries committed readers skip."""

    writer_id: int
    first: int
    last: int
    stable_end: int


@dataclass(frozen=True, slots=True)
class Point:
    """The first entry that begins in a block."""

    first: int
    position: int  # in the run
    max_timestamp: int  # of the entries from here to the next point


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A stretch of one slot's entries, with the points for look-ups in it."""

    segment: SegmentRef
    slot: int
    first: int
    end: int
    min_timestamp: int
    max_timestamp: int
    position: int  # in the object
    length: int
    entries: int
    leader_epoch: int
    block_crcs: Sequence[int]
    points: Sequence[Point]
    aborted: Sequence[AbortedTransaction]

    def point_of(self, offset: int) -> int:
        """The number of the last point at or before `offset`, 0 if all come after it."""
        return max(0, bisect_right(self.points, offset, key=lambda point: point.first) - 1)

    def point_end(self, number: int) -> int:
        """The end of a point's entries, as a position in the run."""
        return self.points[number + 1].position if number + 1 < len(self.points) else self.length

    def point_at_time(self, timestamp_ms: int, number: int) -> int | None:
        """The first point, from `number` on, with an entry of at least that time."""
        for later in range(number, len(self.points)):
            if self.points[later].max_timestamp >= timestamp_ms:
                return later
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkIndex:
    """A chunk's index, decoded."""

    id: ChunkId
    cluster_id: str
    created_ms: int
    block_bytes: int
    runs: Sequence[Run]

    def run_of(self, stream_id: int, segment_id: int, slot: int) -> Run | None:
        wanted = (stream_id, segment_id, slot)
        found = bisect_right(self.runs, wanted, key=_place_of) - 1
        return self.runs[found] if found >= 0 and _place_of(self.runs[found]) == wanted else None


def _place_of(run: Run) -> tuple[int, int, int]:
    return run.segment.stream.id, run.segment.id, run.slot


@dataclass(frozen=True, slots=True)
class Footer:
    """The place of the index."""

    index_position: int
    index_length: int
    index_crc: int


def encode_header(chunk_id: ChunkId, created_ms: int) -> bytes:
    fixed = _HEADER.pack(
        HEADER_MAGIC, FORMAT_VERSION, 0, chunk_id.container, chunk_id.epoch, chunk_id.sequence, created_ms
    )
    return fixed + _CRC.pack(crc32c(fixed))


def decode_header(data: bytes) -> tuple[ChunkId, int]:
    """The chunk's id and creation time. Raises BadChunk."""
    if len(data) < HEADER_SIZE:
        raise BadChunk(0, f"header is cut off after {len(data)} bytes")
    magic, version, _, container, epoch, sequence, created = _HEADER.unpack_from(data)
    if magic != HEADER_MAGIC:
        raise BadChunk(0, "no chunk: the magic is missing")
    if version != FORMAT_VERSION:
        raise BadChunk(8, f"chunk format version {version}, this release reads {FORMAT_VERSION}")
    if _CRC.unpack_from(data, _HEADER.size)[0] != crc32c(data[: _HEADER.size]):
        raise BadChunk(0, "header fails its CRC")
    return ChunkId(container=container, epoch=epoch, sequence=sequence), created


def encode_footer(footer: Footer) -> bytes:
    fixed = _FOOTER.pack(
        footer.index_position,
        footer.index_length,
        footer.index_crc,
        footer.index_position + footer.index_length + FOOTER_SIZE,
        FORMAT_VERSION,
        0,
    )
    return b"".join((fixed, _CRC.pack(crc32c(fixed)), FOOTER_MAGIC))


def decode_footer(data: bytes, size: int) -> Footer:
    """Read the footer, the last bytes of an object of `size` bytes. Raises BadChunk."""
    start = size - FOOTER_SIZE
    if start < HEADER_SIZE or len(data) != FOOTER_SIZE:
        raise BadChunk(size, "too short for a chunk")
    if not data.endswith(FOOTER_MAGIC):
        raise BadChunk(size - len(FOOTER_MAGIC), "no chunk, or cut off: the magic at the end is missing")
    position, length, index_crc, own_size, version, _ = _FOOTER.unpack_from(data)
    if version != FORMAT_VERSION:
        raise BadChunk(start + 24, f"chunk format version {version}, this release reads {FORMAT_VERSION}")
    if _CRC.unpack_from(data, _FOOTER.size)[0] != crc32c(data[: _FOOTER.size]):
        raise BadChunk(start, "footer fails its CRC")
    if own_size != size:
        raise BadChunk(start, f"the object has {size} bytes, and was put with {own_size}")
    if position < HEADER_SIZE or position + length != start or length > INDEX_BYTES_MAX:
        raise BadChunk(start, "footer points outside of the object")
    return Footer(position, length, index_crc)


def encode_index(index: ChunkIndex) -> bytes:
    """The index's bytes; runs are sorted, and lie one after the other from the header on."""
    segments = list(dict.fromkeys(run.segment for run in index.runs))
    streams = list(dict.fromkeys(segment.stream for segment in segments))
    number_of_segment = {segment: number for number, segment in enumerate(segments)}
    number_of_stream = {stream: number for number, stream in enumerate(streams)}
    end = index.runs[-1].position + index.runs[-1].length if index.runs else HEADER_SIZE
    cluster = index.cluster_id.encode()
    parts = [
        INDEX_HEAD.pack(
            index.id.container,
            index.id.epoch,
            index.id.sequence,
            index.created_ms,
            index.block_bytes,
            len(streams),
            len(segments),
            len(index.runs),
            end,
            len(cluster),
            0,
        ),
        cluster,
    ]
    for stream in streams:
        name = stream.name.encode()
        parts += (STREAM_ROW.pack(stream.id, stream.uuid.bytes, len(name), 0), name)
    parts += (SEGMENT_ROW.pack(s.id, number_of_stream[s.stream], s.generation) for s in segments)
    parts += (_encode_run(run, number_of_segment[run.segment]) for run in index.runs)
    for run in index.runs:
        parts.append(struct.pack(f"<{len(run.block_crcs)}I", *run.block_crcs))
        parts += (POINT_ROW.pack(point.first, point.position, point.max_timestamp, 0) for point in run.points)
        parts += (ABORTED_ROW.pack(a.writer_id, a.first, a.last, a.stable_end) for a in run.aborted)
    return b"".join(parts)


def _encode_run(run: Run, segment: int) -> bytes:
    return RUN_ROW.pack(
        segment,
        run.slot,
        run.first,
        run.end,
        run.min_timestamp,
        run.max_timestamp,
        run.position,
        run.length,
        run.entries,
        len(run.block_crcs),
        len(run.points),
        len(run.aborted),
        run.leader_epoch,
        0,
    )


def decode_index(data: bytes, footer: Footer) -> ChunkIndex:
    """Read an index. Raises BadChunk."""
    base = footer.index_position
    if len(data) != footer.index_length or crc32c(data) != footer.index_crc:
        raise BadChunk(base, "index fails its CRC")
    try:
        return _decode_index(data, base)
    except (struct.error, IndexError, UnicodeDecodeError, ValueError) as error:
        raise BadChunk(base, f"index contradicts itself ({error})") from error


def _decode_index(data: bytes, base: int) -> ChunkIndex:
    container, epoch, sequence, created, block_bytes, streams_count, segments_count, runs_count, end, name_length, _ = (
        INDEX_HEAD.unpack_from(data)
    )
    if end != base or not 0 < block_bytes <= BLOCK_BYTES:
        raise ValueError("runs do not end where it begins, or blocks are too large")
    position = INDEX_HEAD.size + name_length
    cluster_id = data[INDEX_HEAD.size : position].decode()
    streams: list[StreamRef] = []
    for _ in range(streams_count):
        number, uuid, length, _ = STREAM_ROW.unpack_from(data, position)
        position += STREAM_ROW.size + length
        streams.append(StreamRef(id=number, uuid=UUID(bytes=uuid), name=data[position - length : position].decode()))
    segments: list[SegmentRef] = []
    for _ in range(segments_count):
        number, stream, generation = SEGMENT_ROW.unpack_from(data, position)
        position += SEGMENT_ROW.size
        segments.append(SegmentRef(id=number, stream=streams[stream], generation=generation))
    details = position + runs_count * RUN_ROW.size
    runs: list[Run] = []
    expected = HEADER_SIZE
    for row in RUN_ROW.iter_unpack(data[position:details]):
        run, details = _decode_run(row, segments, data, details)
        if run.position != expected or len(run.block_crcs) != -(-run.length // block_bytes):
            raise ValueError("runs do not follow one another")
        expected += run.length
        runs.append(run)
    if len(runs) != runs_count or expected != end or details != len(data):
        raise ValueError("lengths do not add up")
    chunk_id = ChunkId(container=container, epoch=epoch, sequence=sequence)
    return ChunkIndex(id=chunk_id, cluster_id=cluster_id, created_ms=created, block_bytes=block_bytes, runs=tuple(runs))


def _decode_run(row: tuple[int, ...], segments: list[SegmentRef], data: bytes, at: int) -> tuple[Run, int]:
    segment, slot, first, end, oldest, newest, position, length, entries, blocks, points, aborted, leader, _ = row
    points_at = at + blocks * 4
    aborted_at = points_at + points * POINT_ROW.size
    stop = aborted_at + aborted * ABORTED_ROW.size
    if stop > len(data) or not points or first >= end:
        raise ValueError(f"run of slot {slot} is cut off or empty")
    run = Run(
        segment=segments[segment],
        slot=slot,
        first=first,
        end=end,
        min_timestamp=oldest,
        max_timestamp=newest,
        position=position,
        length=length,
        entries=entries,
        leader_epoch=leader,
        block_crcs=struct.unpack_from(f"<{blocks}I", data, at),
        points=tuple(Point(*row[:3]) for row in POINT_ROW.iter_unpack(data[points_at:aborted_at])),
        aborted=tuple(_decode_aborted(data[aborted_at:stop])),
    )
    return run, stop


def _decode_aborted(data: bytes) -> Iterator[AbortedTransaction]:
    for writer_id, first, last, stable_end in ABORTED_ROW.iter_unpack(data):
        yield AbortedTransaction(writer_id=writer_id, first=first, last=last, stable_end=stable_end)


def check_blocks(run: Run, block_bytes: int, start: int, data: Buffer) -> None:
    """Check whole blocks of a run that begin at `start` bytes into it. Raises BadChunk with the block's position."""
    view = memoryview(data)
    assert start % block_bytes == 0, "not the beginning of a block"
    for at in range(0, len(view), block_bytes):
        if crc32c(view[at : at + block_bytes]) != run.block_crcs[(start + at) // block_bytes]:
            raise BadChunk(run.position + start + at, f"block of slot {run.slot} fails its CRC")
