"""Kafka's primitive types, read with every bound checked and written as Kafka writes them.

Readers take (bytes, position, end, …, path) and return the value and the position behind it; a bad
value raises MalformedRequest with the path. `end` never lies past the bytes, so no read does.
"""

import struct as _struct
import uuid
from collections.abc import Sequence
from typing import Any, Final

from gateway.wire.errors import MalformedRequest

__all__ = [
    "Struct",
    "malformed",
    "pack",
    "read_bytes",
    "read_compact_bytes",
    "read_compact_count",
    "read_compact_records",
    "read_compact_string",
    "read_count",
    "read_presence",
    "read_records",
    "read_string",
    "read_tag",
    "read_tag_count",
    "read_uuid",
    "read_uvarint",
    "skip_tags",
    "too_short",
    "unpack_from",
    "write_bytes",
    "write_compact_bytes",
    "write_compact_count",
    "write_compact_records",
    "write_compact_string",
    "write_count",
    "write_datetime",
    "write_records",
    "write_string",
    "write_uuid",
    "write_uvarint",
]

Struct = _struct.Struct
pack = _struct.pack
unpack_from = _struct.unpack_from

STRING_BYTES_MAX: Final = 2**15 - 1
UVARINT_MAX: Final = 2**32 - 1
TAG_BYTES_MIN: Final = 2  # a tag and its size
ZERO_UUID: Final = bytes(16)

_I16: Final = Struct(">h")
_I32: Final = Struct(">i")


def malformed(path: str, position: int, reason: str) -> MalformedRequest:
    return MalformedRequest(path, position, reason)


def too_short(path: str, position: int, wanted: int, end: int) -> MalformedRequest:
    return MalformedRequest(path, position, f"needs {wanted} bytes, {end - position} are left")


# --- Reading ------------------------------------------------------------------------------------


def read_uvarint(b: memoryview, p: int, e: int, path: str) -> tuple[int, int]:
    if p < e and (byte := b[p]) < 128:
        return byte, p + 1
    if e - p > 1 and (second := b[p + 1]) < 128:
        return byte & 127 | second << 7, p + 2
    value = 0
    for index in range(5):
        if p + index >= e:
            raise too_short(path, p, index + 1, e)
        byte = b[p + index]
        value |= (byte & 127) << (7 * index)
        if byte < 128:
            if value > UVARINT_MAX:
                break
            return value, p + index + 1
    raise MalformedRequest(path, p, "a varint of more than 32 bits")


def read_uuid(raw: bytes) -> uuid.UUID | None:
    return None if raw == ZERO_UUID else uuid.UUID(bytes=raw)


def read_presence(b: memoryview, p: int, e: int, path: str) -> tuple[bool, int]:
    """The marker in front of a nullable structure (KIP-893): negative is null."""
    if p >= e:
        raise too_short(path, p, 1, e)
    return b[p] < 128, p + 1


def _short_length(b: memoryview, p: int, e: int, path: str) -> tuple[int, int]:
    if e - p < 2:
        raise too_short(path, p, 2, e)
    return _I16.unpack_from(b, p)[0], p + 2


def _long_length(b: memoryview, p: int, e: int, path: str) -> tuple[int, int]:
    if e - p < 4:
        raise too_short(path, p, 4, e)
    return _I32.unpack_from(b, p)[0], p + 4


def _compact_length(b: memoryview, p: int, e: int, path: str) -> tuple[int, int]:
    length, p = read_uvarint(b, p, e, path)
    return length - 1, p


def _check_length(length: int, nullable: bool, p: int, e: int, path: str) -> None:
    """A length is the bytes that follow, or -1 for null where null is allowed."""
    if length > e - p:
        raise MalformedRequest(path, p, f"length {length}, {e - p} bytes are left")
    if length < 0 and not (nullable and length == -1):
        raise MalformedRequest(path, p, "null" if length == -1 else f"length {length}")


def _text(b: memoryview, p: int, length: int, path: str) -> str:
    try:
        return str(b[p : p + length], "utf-8")
    except UnicodeDecodeError as error:
        raise MalformedRequest(path, p + error.start, "invalid UTF-8") from None


def read_string(b: memoryview, p: int, e: int, nullable: bool, path: str) -> tuple[str | None, int]:
    length, p = _short_length(b, p, e, path)
    _check_length(length, nullable, p, e, path)
    return (None, p) if length < 0 else (_text(b, p, length, path), p + length)


def read_compact_string(b: memoryview, p: int, e: int, nullable: bool, path: str) -> tuple[str | None, int]:
    length, p = _compact_length(b, p, e, path)
    _check_length(length, nullable, p, e, path)
    if length > STRING_BYTES_MAX:
        raise MalformedRequest(path, p, f"a string of {length} bytes")
    return (None, p) if length < 0 else (_text(b, p, length, path), p + length)


def read_bytes(b: memoryview, p: int, e: int, nullable: bool, path: str) -> tuple[bytes | None, int]:
    length, p = _long_length(b, p, e, path)
    _check_length(length, nullable, p, e, path)
    return (None, p) if length < 0 else (bytes(b[p : p + length]), p + length)


def read_compact_bytes(b: memoryview, p: int, e: int, nullable: bool, path: str) -> tuple[bytes | None, int]:
    length, p = _compact_length(b, p, e, path)
    _check_length(length, nullable, p, e, path)
    return (None, p) if length < 0 else (bytes(b[p : p + length]), p + length)


def read_records(b: memoryview, p: int, e: int, nullable: bool, path: str) -> tuple[memoryview | None, int]:
    """Like bytes, but a view: records are never copied."""
    length, p = _long_length(b, p, e, path)
    _check_length(length, nullable, p, e, path)
    return (None, p) if length < 0 else (b[p : p + length], p + length)


def read_compact_records(b: memoryview, p: int, e: int, nullable: bool, path: str) -> tuple[memoryview | None, int]:
    length, p = _compact_length(b, p, e, path)
    _check_length(length, nullable, p, e, path)
    return (None, p) if length < 0 else (b[p : p + length], p + length)


def _check_count(count: int, smallest: int, nullable: bool, budget: list[int], p: int, e: int, path: str) -> None:
    if count * smallest > e - p:
        raise MalformedRequest(path, p, f"{count} elements declared, {e - p} bytes are left")
    if count < 0:
        if not (nullable and count == -1):
            raise MalformedRequest(path, p, "null" if count == -1 else f"count {count}")
        return
    budget[0] -= count
    if budget[0] < 0:
        raise MalformedRequest(path, p, "too many elements in one message")


def read_count(
    b: memoryview, p: int, e: int, smallest: int, nullable: bool, budget: list[int], path: str
) -> tuple[int, int]:
    count, p = _long_length(b, p, e, path)
    _check_count(count, smallest, nullable, budget, p, e, path)
    return count, p


def read_compact_count(
    b: memoryview, p: int, e: int, smallest: int, nullable: bool, budget: list[int], path: str
) -> tuple[int, int]:
    count, p = _compact_length(b, p, e, path)
    _check_count(count, smallest, nullable, budget, p, e, path)
    return count, p


def read_tag_count(b: memoryview, p: int, e: int, budget: list[int], path: str) -> tuple[int, int]:
    count, p = read_uvarint(b, p, e, path)
    if count:
        _check_count(count, TAG_BYTES_MIN, False, budget, p, e, path)
    return count, p


def read_tag(b: memoryview, p: int, e: int, path: str) -> tuple[int, int, int]:
    """A tag, the end of its value, and the value's first position."""
    tag, p = read_uvarint(b, p, e, path)
    size, p = read_uvarint(b, p, e, path)
    if size > e - p:
        raise MalformedRequest(path, p, f"tag {tag} has {size} bytes, {e - p} are left")
    return tag, p + size, p


def skip_tags(b: memoryview, p: int, e: int, budget: list[int], path: str) -> int:
    count, p = read_tag_count(b, p, e, budget, path)
    for _ in range(count):
        _, p, _ = read_tag(b, p, e, path)
    return p


# --- Writing ------------------------------------------------------------------------------------


def write_uvarint(out: bytearray, value: int) -> None:
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)


def write_uuid(value: uuid.UUID | None) -> bytes:
    return ZERO_UUID if value is None else value.bytes


def write_datetime(value: int | None) -> int:
    return -1 if value is None else value


def _refuse_null(nullable: bool) -> None:
    if not nullable:
        raise TypeError("None for a field that cannot be null")


def write_string(out: bytearray, value: str | None, nullable: bool) -> None:
    if value is None:
        _refuse_null(nullable)
        out += b"\xff\xff"
        return
    raw = value.encode()
    out += _I16.pack(len(raw))
    out += raw


def write_compact_string(out: bytearray, value: str | None, nullable: bool) -> None:
    if value is None:
        _refuse_null(nullable)
        out.append(0)
        return
    raw = value.encode()
    write_uvarint(out, len(raw) + 1)
    out += raw


def write_bytes(out: bytearray, value: Any, nullable: bool) -> None:
    if value is None:
        _refuse_null(nullable)
        out += b"\xff\xff\xff\xff"
        return
    out += _I32.pack(len(value))
    out += value


def write_compact_bytes(out: bytearray, value: Any, nullable: bool) -> None:
    if value is None:
        _refuse_null(nullable)
        out.append(0)
        return
    write_uvarint(out, len(value) + 1)
    out += value


class Parts:
    """Records as parts that stay the caller's own: an answer made by `Codec.encode_parts` has them as they are."""

    __slots__ = ("parts", "size")

    def __init__(self, parts: Sequence[bytes | bytearray | memoryview]) -> None:
        self.parts = parts
        self.size = sum(map(len, parts))

    def __repr__(self) -> str:
        return f"<Parts {self.size} bytes in {len(self.parts)}>"

    def __len__(self) -> int:
        return self.size

    def copied(self) -> "Parts":
        """The same bytes, which are nobody else's."""
        return Parts([b"".join(self.parts)])


class Spliced(bytearray):
    """A message that is being written, and what of it is not copied: where that belongs, and its parts."""

    def __init__(self) -> None:
        super().__init__()
        self.splices: list[tuple[int, Parts]] = []

    def cut(self) -> list[bytes | bytearray | memoryview]:
        """The whole message, in parts."""
        if not self.splices:
            return [self]
        found: list[bytes | bytearray | memoryview] = []
        position = 0
        for place, spliced in self.splices:
            found.append(bytes(self[position:place]))
            found += spliced.parts
            position = place
        found.append(bytes(self[position:]))
        return found


def write_records(out: bytearray, value: Any, nullable: bool) -> None:
    if isinstance(value, Parts):
        out += _I32.pack(value.size)
        _splice(out, value)
    else:
        write_bytes(out, value, nullable)


def write_compact_records(out: bytearray, value: Any, nullable: bool) -> None:
    if isinstance(value, Parts):
        write_uvarint(out, value.size + 1)
        _splice(out, value)
    else:
        write_compact_bytes(out, value, nullable)


def _splice(out: bytearray, value: Parts) -> None:
    if isinstance(out, Spliced):
        out.splices.append((len(out), value))
    else:
        for part in value.parts:
            out += part


class EncodedItems:
    """An array's elements, encoded once for many responses (by `Codec.encode_item`)."""

    __slots__ = ("count", "data")

    def __init__(self, count: int, data: bytes) -> None:
        self.count = count
        self.data = data


def write_count(out: bytearray, items: Sequence[Any] | EncodedItems | None, nullable: bool) -> Sequence[Any]:
    """Write an array's count; returns the items that are still to be written."""
    if items is None:
        _refuse_null(nullable)
        out += b"\xff\xff\xff\xff"
        return ()
    if isinstance(items, EncodedItems):
        out += _I32.pack(items.count)
        out += items.data
        return ()
    out += _I32.pack(len(items))
    return items


def write_compact_count(out: bytearray, items: Sequence[Any] | EncodedItems | None, nullable: bool) -> Sequence[Any]:
    if items is None:
        _refuse_null(nullable)
        out.append(0)
        return ()
    if isinstance(items, EncodedItems):
        write_uvarint(out, items.count + 1)
        out += items.data
        return ()
    write_uvarint(out, len(items) + 1)
    return items
