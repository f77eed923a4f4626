"""Fields of stored rows of groups: texts, blobs and numbers, with writer and reader side by side.

    text   u32 length, UTF-8        text?   the same, length 0xFFFFFFFF for null
    blob   u32 length, bytes

All numbers are little-endian. Keeps: a reader takes no byte beyond the value; what is left over is refused.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final, TypeVar

from gateway.groups.persistence import UnreadableRecord

U32: Final = struct.Struct("<I")
I32: Final = struct.Struct("<i")
_NULL: Final = 0xFFFF_FFFF

_R = TypeVar("_R", bound="Reader")
_T = TypeVar("_T")


class Reader:
    """Reads a value field by field; struct.error or ValueError if it is not as it should be."""

    def __init__(self, data: bytes, position: int = 0) -> None:
        self._data = data
        self.position = position

    def take(self, form: struct.Struct) -> tuple[Any, ...]:
        values = form.unpack_from(self._data, self.position)
        self.position += form.size
        return values

    def count(self) -> int:
        count: int = self.take(U32)[0]
        return count

    def number(self) -> int:
        number: int = self.take(I32)[0]
        return number

    def blob(self) -> bytes:
        return self.raw(self.count())

    def text(self) -> str:
        return self.blob().decode()

    def optional_text(self) -> str | None:
        length = self.count()
        return None if length == _NULL else self.raw(length).decode()

    def names(self) -> tuple[str, ...]:
        return tuple(self.text() for _ in range(self.count()))

    def raw(self, length: int) -> bytes:
        value = self._data[self.position : self.position + length]
        if len(value) != length:
            raise struct.error(f"{length} bytes wanted, {len(value)} left")
        self.position += length
        return value


def text(value: str | None) -> bytes:
    return U32.pack(_NULL) if value is None else blob(value.encode())


def blob(value: bytes) -> bytes:
    return U32.pack(len(value)) + value


def whole(what: str, data: bytes, version: int, reader: Callable[[bytes, int], _R], read: Callable[[_R], _T]) -> _T:
    """Read a value behind its version, which is checked before anything else, to its last byte.

    Raises UnreadableRecord.
    """
    if not data or data[0] != version:
        told = f"version {data[0]}" if data else "no bytes"
        raise UnreadableRecord(f"{what} has {told}, this release reads {version}")
    fields = reader(data, 1)
    try:
        record = read(fields)
    except (struct.error, ValueError) as exc:
        raise UnreadableRecord(f"{what}, {len(data)} bytes: {exc}") from exc
    if fields.position != len(data):
        raise UnreadableRecord(f"{what}: {len(data) - fields.position} bytes too many")
    return record
