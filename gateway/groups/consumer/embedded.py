"""The consumers' own messages inside the classic protocol: subscriptions and assignments, versions 0 to 3.

Keeps: bytes that cannot be read raise Malformed, and a declared count allocates nothing. Layout, big-endian:

    subscription  i16 version, topics: i32 count, then texts; i32 length and user data (-1: null);
                  from v1: owned partitions; from v2: i32 generation; from v3: rack, a text (-1: null)
    assignment    i16 version, partitions, i32 length and user data (-1: null)
    partitions    i32 count, then for each topic: a text, i32 count, then i32 each
    text          i16 length, UTF-8
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_I16: Final = struct.Struct(">h")
_I32: Final = struct.Struct(">i")
OWNED_FROM: Final = 1
GENERATION_FROM: Final = 2
RACK_FROM: Final = 3
NEWEST: Final = 3
TOPICS_MAX: Final = 20_000
"""Topics of one message, which take some 10 ms to read; partitions are bounded by what a member may be assigned."""


class Malformed(Exception):
    """These bytes are no subscription, or no assignment."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a consumer of the classic protocol wants, and has."""

    version: int
    topics: tuple[str, ...]
    user_data: bytes | None = None
    owned: Mapping[str, tuple[int, ...]] | None = None
    rack_id: str | None = None


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a consumer of the classic protocol gets."""

    partitions: Mapping[str, tuple[int, ...]]
    user_data: bytes | None = None


def read_subscription(data: bytes) -> Subscription:
    """Raises Malformed."""
    reader = _Reader(data)
    version = min(reader.number(_I16), NEWEST)
    topics = tuple(reader.text() for _ in range(reader.count(TOPICS_MAX)))
    user_data = reader.blob()
    owned = reader.partitions() if version >= OWNED_FROM else None
    if version >= GENERATION_FROM:
        reader.number(_I32)
    rack_id = reader.optional_text() if version >= RACK_FROM else None
    return Subscription(version, topics, user_data, owned, rack_id)


def read_assignment(data: bytes) -> Assignment:
    """Raises Malformed."""
    reader = _Reader(data)
    reader.number(_I16)
    return Assignment(reader.partitions(), reader.blob())


def write_subscription(subscription: Subscription) -> bytes:
    version = min(subscription.version, NEWEST)
    parts = [_I16.pack(version), _I32.pack(len(subscription.topics)), *map(_text, subscription.topics)]
    parts.append(_blob(subscription.user_data))
    if version >= OWNED_FROM:
        parts.append(_partitions(subscription.owned or {}))
    if version >= GENERATION_FROM:
        parts.append(_I32.pack(-1))
    if version >= RACK_FROM:
        parts.append(_I16.pack(-1) if subscription.rack_id is None else _text(subscription.rack_id))
    return b"".join(parts)


def write_assignment(version: int, partitions: Mapping[str, tuple[int, ...]]) -> bytes:
    return _I16.pack(min(version, NEWEST)) + _partitions(partitions) + _blob(None)


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def number(self, form: struct.Struct) -> int:
        try:
            value: int = form.unpack_from(self._data, self._position)[0]
        except struct.error as exc:
            raise Malformed(str(exc)) from exc
        self._position += form.size
        return value

    def count(self, most: int = 2**31 - 1) -> int:
        count = self.number(_I32)
        if count > min(most, len(self._data)):
            raise Malformed(f"{count} items in {len(self._data)} bytes, {most} are allowed")
        return max(count, 0)

    def blob(self) -> bytes | None:
        if self._position == len(self._data):
            return None
        length = self.number(_I32)
        return None if length < 0 else self._bytes(length)

    def text(self) -> str:
        text = self.optional_text()
        if text is None:
            raise Malformed("a null text")
        return text

    def optional_text(self) -> str | None:
        length = self.number(_I16)
        try:
            return None if length < 0 else self._bytes(length).decode()
        except UnicodeDecodeError as exc:
            raise Malformed(str(exc)) from exc

    def partitions(self) -> dict[str, tuple[int, ...]]:
        return {
            self.text(): tuple(self.number(_I32) for _ in range(self.count())) for _ in range(self.count(TOPICS_MAX))
        }

    def _bytes(self, length: int) -> bytes:
        value = self._data[self._position : self._position + length]
        if len(value) != length:
            raise Malformed(f"{length} bytes wanted, {len(value)} left")
        self._position += length
        return value


def _text(text: str) -> bytes:
    data = text.encode()
    return _I16.pack(len(data)) + data


def _blob(data: bytes | None) -> bytes:
    return _I32.pack(-1) if data is None else _I32.pack(len(data)) + data


def _partitions(partitions: Mapping[str, tuple[int, ...]]) -> bytes:
    parts = [_I32.pack(len(partitions))]
    for topic, numbers in partitions.items():
        parts += (_text(topic), _I32.pack(len(numbers)), *map(_I32.pack, numbers))
    return b"".join(parts)
