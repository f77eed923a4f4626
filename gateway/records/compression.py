"""Kafka's four codecs, with a hard bound on their output.

Invariant: `decompress` never holds more than `bytes_max` of output, whatever the compressed bytes claim: the codecs
write into our memory (`gateway.records.room`) and stop at its end. Snappy's claimed length is first compared with the
most that the format can reach.
"""

import struct
from typing import Any, Final

import cramjam

from gateway.records import record_batch
from gateway.records.record_batch import GZIP, LZ4, SNAPPY, ZSTD
from gateway.records.room import give_back, take_room
from gateway.wire.error_codes import CORRUPT_MESSAGE, MESSAGE_TOO_LARGE
from gateway.wire.errors import InvalidBatch

Buffer = bytes | bytearray | memoryview

BUFFER_IS_FULL: Final = "failed to write whole buffer"
"""Cramjam's message when the output does not fit; a test checks it."""

# Java's snappy-java stream: this header, then blocks of raw snappy with their length in front.
XERIAL_MAGIC: Final = b"\x82SNAPPY\x00"
XERIAL_HEADER: Final = XERIAL_MAGIC + struct.pack(">ii", 1, 1)
XERIAL_BLOCK_BYTES: Final = 32 * 1024
SNAPPY_RATIO_MAX: Final = 22
"""A snappy block grows by no more than 64 / 3: a copy of at most 64 bytes takes 3."""

SNAPPY_TELLING_BYTES_MIN: Final = 256
"""Raw blocks up to this size are opened rather than judged by their length."""

# Java reads LZ4 frames of independent blocks only; cramjam's own writes dependent ones.
LZ4_FRAME_HEADER: Final = bytes.fromhex("04224d18604082")
"""Magic; version 1, independent blocks; blocks of 64 KiB; the checksum of these two bytes."""
LZ4_BLOCK_BYTES: Final = 64 * 1024
LZ4_STORED: Final = 1 << 31
LZ4_END: Final = bytes(4)

_U32: Final = struct.Struct(">I")
ZSTD_START: Final = 0x28B52FFD
GZIP_START: Final = 0x1F8B
(LZ4_START,) = _U32.unpack_from(LZ4_FRAME_HEADER)
(XERIAL_START,) = _U32.unpack_from(XERIAL_MAGIC)
"""The first bytes by codec, the same from every compressor. Raw snappy has none."""

_I32: Final = struct.Struct(">i")
_U32_LITTLE: Final = struct.Struct("<I")


def may_be_compressed(codec: int, data: memoryview, position: int) -> bool:
    """Whether the data at a position may begin like that codec's output: a cheap look, before anything is opened.

    False means that only opening it tells.
    """
    if len(data) - position < _U32.size:
        return False
    (start,) = _U32.unpack_from(data, position)
    if codec == ZSTD:
        return bool(start == ZSTD_START)
    if codec == LZ4:
        return bool(start == LZ4_START)
    if codec == GZIP:
        return bool(start >> 16 == GZIP_START)
    if start == XERIAL_START:
        return True
    size = len(data) - position
    try:
        claimed = cramjam.snappy.decompress_raw_len(data[position:])
    except cramjam.DecompressionError:
        return False
    # Incompressible data grows by a sixth and 32 bytes at most; data this short proves nothing.
    return size > SNAPPY_TELLING_BYTES_MIN and 6 * (size - 32) <= 7 * claimed and claimed <= SNAPPY_RATIO_MAX * size


def decompress(codec: int, data: Buffer, bytes_max: int) -> memoryview:
    """The plain bytes, in memory of this thread's that serves again once nobody has a view of them.

    Raises InvalidBatch when the data is damaged or grows over the bound, MemoryError.
    """
    room, used = take_room(bytes_max), bytes_max
    try:
        used = _decompress_into(codec, data, room.view[:bytes_max])
    except cramjam.DecompressionError as error:
        if codec != SNAPPY and BUFFER_IS_FULL in str(error):
            raise _too_large(bytes_max) from None
        raise InvalidBatch(CORRUPT_MESSAGE, f"compressed records are damaged: {error}") from None
    finally:
        give_back(room, used)
    return room.view[:used]


def _decompress_into(codec: int, data: Buffer, out: memoryview) -> int:
    if codec == SNAPPY:
        return _decompress_snappy(memoryview(data), out)
    module: Any = {GZIP: cramjam.gzip, LZ4: cramjam.lz4, ZSTD: cramjam.zstd}[codec]
    return int(module.decompress_into(data, out))


def _decompress_snappy(data: memoryview, out: memoryview) -> int:
    if bytes(data[: len(XERIAL_MAGIC)]) != XERIAL_MAGIC:
        return _decompress_snappy_block(data, out, 0)
    position, end, used = len(XERIAL_HEADER), len(data), 0
    while position < end:
        if end - position < _I32.size:
            raise InvalidBatch(CORRUPT_MESSAGE, "a snappy block's length is cut short")
        (length,) = _I32.unpack_from(data, position)
        position += _I32.size
        if not 0 < length <= end - position:
            raise InvalidBatch(CORRUPT_MESSAGE, f"a snappy block of {length} bytes, {end - position} are left")
        used = _decompress_snappy_block(data[position : position + length], out, used)
        position += length
    return used


def _decompress_snappy_block(block: memoryview, out: memoryview, used: int) -> int:
    claimed = cramjam.snappy.decompress_raw_len(block)
    if claimed > SNAPPY_RATIO_MAX * len(block):
        raise InvalidBatch(CORRUPT_MESSAGE, f"{len(block)} bytes of snappy claim to be {claimed}")
    if used + claimed > len(out):
        raise _too_large(len(out))
    return used + cramjam.snappy.decompress_raw_into(block, out[used : used + claimed])


def _too_large(bytes_max: int) -> InvalidBatch:
    return InvalidBatch(MESSAGE_TOO_LARGE, f"records grow to more than {bytes_max} bytes")


def compress(codec: int, data: Buffer, level: int | None = None) -> bytes:
    """As Kafka's own clients write it. Levels exist for gzip, lz4 (ignored here) and zstd."""
    match codec:
        case record_batch.NONE:
            return bytes(data)
        case record_batch.GZIP:
            return bytes(cramjam.gzip.compress(data, 6 if level is None else level))
        case record_batch.SNAPPY:
            return _compress_snappy(memoryview(data))
        case record_batch.LZ4:
            return _compress_lz4(memoryview(data))
        case record_batch.ZSTD:
            return bytes(cramjam.zstd.compress(data, 3 if level is None else level))
    raise ValueError(f"no codec {codec}")


def _compress_snappy(data: memoryview) -> bytes:
    pieces = [XERIAL_HEADER]
    for start in range(0, len(data), XERIAL_BLOCK_BYTES):
        block = bytes(cramjam.snappy.compress_raw(data[start : start + XERIAL_BLOCK_BYTES]))
        pieces += [_I32.pack(len(block)), block]
    return b"".join(pieces)


def _compress_lz4(data: memoryview) -> bytes:
    pieces = [LZ4_FRAME_HEADER]
    for start in range(0, len(data), LZ4_BLOCK_BYTES):
        plain = data[start : start + LZ4_BLOCK_BYTES]
        block = bytes(cramjam.lz4.compress_block(plain, store_size=False))
        if len(block) < len(plain):
            pieces += [_U32_LITTLE.pack(len(block)), block]
        else:
            pieces += [_U32_LITTLE.pack(len(plain) | LZ4_STORED), bytes(plain)]
    pieces.append(LZ4_END)
    return b"".join(pieces)
