"""The rows of a group: their keys, and what is stored in them.

Keeps: what a row says is settled when it is taken from its group, so that it may be encoded in a thread.

    key   u16 length (little-endian), group id, UTF-8; u8 kind; the rest: a name, UTF-8
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Generic, NamedTuple, TypeVar

from gateway.groups.persistence import UnreadableRecord

STORING_TARGETS: Final = -1
"""The target epoch of a head that is stored before all of its targets are."""


class Row(NamedTuple):
    """`encode` makes the value of `size` topics, names or tasks."""

    size: int
    encode: Callable[[], bytes]


KindT = TypeVar("KindT", bound=enum.IntEnum)

_KEY_LENGTH: Final = struct.Struct("<H")


class RowKey(NamedTuple, Generic[KindT]):
    """One row of a group: `name` is a member's id, or what else there are several of."""

    kind: KindT
    name: str = ""


def every_key(
    own: Iterable[RowKey[KindT]], member_ids: Iterable[str], rows_of_member: Callable[[str], Iterable[RowKey[KindT]]]
) -> Iterator[RowKey[KindT]]:
    """The keys of a group's own rows and those of its members, each once."""
    told = dict.fromkeys(own)
    yield from told
    for member_id in member_ids:
        for key in rows_of_member(member_id):
            if key not in told:
                yield key


def encode_key(group_id: str, key: RowKey[KindT]) -> bytes:
    group = group_id.encode()
    return _KEY_LENGTH.pack(len(group)) + group + bytes([key.kind]) + key.name.encode()


def decode_key(data: bytes, kinds: type[KindT]) -> tuple[str, RowKey[KindT]]:
    """Raises UnreadableRecord."""
    try:
        (length,) = _KEY_LENGTH.unpack_from(data)
        group, rest = data[2 : 2 + length], data[2 + length :]
        return group.decode(), RowKey(kinds(rest[0]), rest[1:].decode())
    except (struct.error, ValueError, IndexError) as exc:
        raise UnreadableRecord(f"key of a group's row: {data.hex()}") from exc
