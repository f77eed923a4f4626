"""The object store as Penstock sees it: immutable bytes under keys, and errors that say what to do next.

Invariants of every driver, which the contract tests check:
- A put is all or nothing: a reader sees the whole object or none, and once `put` has returned it is there.
- `put_new` never replaces: of several writers of one key, exactly one succeeds.
- `get_range` returns exactly the bytes asked for, or raises.
- `list` yields keys in byte order. It never decides which objects exist (metadata does); it only helps to recover.
- Each call ends by its deadline, and reads that hang take nothing from writes.
"""

from __future__ import annotations

import enum
import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Protocol

Buffer = bytes | bytearray | memoryview

KEY_BYTES_MAX: Final = 512
"""Longest key, bytes: S3 allows 1,024; the rest is left for the configured prefix."""

DELETES_MAX: Final = 250
"""The most objects that one call deletes. S3 takes 1,000; each call has one deadline."""

PART_OF_KEY_BYTES_MAX: Final = 200
"""Longest part of a key between slashes, bytes: a file name may have 255."""

KEY_ALLOWED: Final = (
    "letters, digits and . _ = - in parts between slashes, none of which begins with a dot; at most "
    f"{PART_OF_KEY_BYTES_MAX} characters in a part, {KEY_BYTES_MAX} in all"
)
"""The keys that `check_key` takes, for messages about a refused one."""

_KEY: Final = re.compile(r"[A-Za-z0-9_=-][A-Za-z0-9._=-]*(?:/[A-Za-z0-9_=-][A-Za-z0-9._=-]*)*")


class ErrorKind(enum.Enum):
    """The caller's next step, not the cause."""

    RETRY = enum.auto()  # may have happened or not; the same call may be sent again
    NOT_FOUND = enum.auto()  # no such object; sending it again changes nothing
    EXISTS = enum.auto()  # another put has created the key already
    DENIED = enum.auto()  # the credentials do not allow it; the operator must act
    CORRUPT = enum.auto()  # stored bytes differ from those put; stop serving the range
    FULL = enum.auto()  # there is no room; objects can still be read and deleted, which makes room
    CONFIG = enum.auto()  # endpoint, bucket or region are wrong; the operator must act


class StorageError(Exception):
    """Base of all errors of long-term storage; `kind` is the caller's next step."""

    kind: ClassVar[ErrorKind]


class Unavailable(StorageError):
    """The store cannot be reached, is overloaded or starting."""

    kind = ErrorKind.RETRY


class TimedOut(Unavailable):
    """The deadline passed; the request may still take effect."""


class NoRoom(StorageError):
    """The disk is full, or a quota is used up. The call may be sent again after deletions."""

    kind = ErrorKind.FULL


class ObjectNotFound(StorageError):
    """There is no object of that key."""

    kind = ErrorKind.NOT_FOUND

    def __init__(self, key: str) -> None:
        super().__init__(f"object {key!r} does not exist")
        self.key = key


class AlreadyExists(StorageError):
    """The key is taken."""

    kind = ErrorKind.EXISTS

    def __init__(self, key: str) -> None:
        super().__init__(f"object {key!r} exists already")
        self.key = key


class Denied(StorageError):
    """The credentials are wrong or may not do this."""

    kind = ErrorKind.DENIED


class Corrupt(StorageError):
    """An object's bytes differ from those put. Names the key and the position."""

    kind = ErrorKind.CORRUPT

    def __init__(self, key: str, position: int, why: str) -> None:
        super().__init__(f"object {key!r} at byte {position}: {why}")
        self.key, self.position, self.why = key, position, why


class Misconfigured(StorageError):
    """Endpoint, bucket, region or directory cannot be right."""

    kind = ErrorKind.CONFIG


class BucketNotFound(Misconfigured):
    """The bucket does not exist, or no longer exists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectInfo:
    """One line of a listing."""

    key: str
    size: int
    modified_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectStat:
    """The store's facts about one object. `token` is that of its put, if it is still known."""

    size: int
    etag: str
    modified_ms: int
    token: str


class Body(Protocol):
    """Bytes that are made while they are put, and can be made again when a put is tried again."""

    def open(self) -> Iterator[Buffer]:
        """A pass over the same bytes from the beginning. Consumed in a worker thread, and may block."""
        ...


Data = Buffer | tuple[Buffer, ...] | list[Buffer] | Body

Came = Callable[[int, Buffer], None]
"""Called with the number of a piece, and its bytes."""


class Storage(Protocol):
    """The interface of a driver. Keys are checked by `check_key`; all errors are `StorageError`."""

    async def put(self, key: str, data: Data, *, token: str = "") -> ObjectStat:
        """Store an object, in place of the key's former one. Holds a bounded part of `data` in memory."""
        ...

    async def put_new(self, key: str, data: Buffer, *, token: str = "") -> ObjectStat:
        """Store a small object if the key is free; else raise AlreadyExists."""
        ...

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        """`length` bytes from `start`. Raises ObjectNotFound; Corrupt when the object is shorter."""
        ...

    async def get_pieces(self, key: str, start: int, length: int, piece_bytes: int, came: Came) -> None:
        """The same bytes in pieces of that size, the last one shorter: each can be kept without the others.

        `came` is called with each piece as soon as it arrives, in order and in a worker thread. A repeated read begins
        with the first piece again; one that fails may have brought some.
        """
        ...

    def list(self, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        """Objects whose keys begin with `prefix` and come after `after`, in byte order, fetched page by page."""
        ...

    async def delete(self, key: str) -> None:
        """Remove an object; a missing one counts as removed."""
        ...

    async def delete_many(self, keys: Sequence[str]) -> None:
        """Remove up to `DELETES_MAX` objects, in one request where the store can; missing ones count as removed.

        After an error some may be removed, and the same call may be sent again.
        """
        ...

    async def stat(self, key: str) -> ObjectStat | None:
        """Size and identity; None when there is no such object."""
        ...

    async def sweep_uploads(self, older_than_s: float) -> int:
        """Remove unfinished puts that began that long ago; returns their number."""
        ...

    async def close(self) -> None:
        """Give up running calls, and release threads and connections."""
        ...


def check_key(key: str) -> str:
    """The key itself, if it can be an S3 key and a relative path alike. ValueError: our own mistake."""
    if len(key) > KEY_BYTES_MAX or not _KEY.fullmatch(key) or len(max(key.split("/"), key=len)) > PART_OF_KEY_BYTES_MAX:
        raise ValueError(f"not a storage key: {key!r}")
    return key


def check_deletes(keys: Sequence[str]) -> None:
    """ValueError for none, too many, or one that is no key: our own mistake."""
    if not 0 < len(keys) <= DELETES_MAX:
        raise ValueError(f"1 to {DELETES_MAX} objects are deleted at once, not {len(keys)}")
    for key in keys:
        check_key(key)


def check_range(start: int, length: int) -> None:
    """ValueError for a range that is none: our own mistake."""
    if start < 0 or length < 1:
        raise ValueError(f"not a range: {length} bytes from {start}")


def open_data(data: Data) -> Iterator[Buffer]:
    """A pass over the parts of `data`."""
    if isinstance(data, bytes | bytearray | memoryview):
        yield data
    elif isinstance(data, tuple | list):
        yield from data
    else:
        yield from data.open()
