"""Counts requests to long-term storage: their number, time, bytes and errors.

Each try counts by itself, so this wrapper goes below `tier2.retrying`. Operations and kinds of errors are fixed lists,
so the number of series is bounded. Counting is an addition on the event loop.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from tier2.storage import Buffer, Came, Data, ErrorKind, ObjectInfo, ObjectStat, Storage, StorageError

T = TypeVar("T")

BUCKETS_S: Final[tuple[float, ...]] = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    60.0,
)
"""Upper bounds of the histogram, seconds; one more holds the rest."""
NORMAL: Final = (ErrorKind.NOT_FOUND, ErrorKind.EXISTS)
"""Errors that are answers, not failures."""


@dataclass(slots=True)
class Operation:
    """The cost of one kind of request since the start."""

    buckets: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_S) + 1))
    seconds: float = 0.0
    bytes: int = 0
    failures: dict[ErrorKind, int] = field(default_factory=dict)

    def observe(self, seconds: float) -> None:
        self.buckets[bisect_left(BUCKETS_S, seconds)] += 1
        self.seconds += seconds


class MeteredStorage:
    """A Storage over another one; see the module's docstring."""

    def __init__(self, inner: Storage) -> None:
        self._inner = inner
        self.operations: dict[str, Operation] = {name: Operation() for name in ("put", "get", "list", "delete", "stat")}

    def __repr__(self) -> str:
        return f"<MeteredStorage over {self._inner!r}>"

    async def put(self, key: str, data: Data, *, token: str = "") -> ObjectStat:
        stat = await self._measured("put", self._inner.put(key, data, token=token))
        self.operations["put"].bytes += stat.size
        return stat

    async def put_new(self, key: str, data: Buffer, *, token: str = "") -> ObjectStat:
        stat = await self._measured("put", self._inner.put_new(key, data, token=token))
        self.operations["put"].bytes += stat.size
        return stat

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        data = await self._measured("get", self._inner.get_range(key, start, length))
        self.operations["get"].bytes += length
        return data

    async def get_pieces(self, key: str, start: int, length: int, piece_bytes: int, came: Came) -> None:
        await self._measured("get", self._inner.get_pieces(key, start, length, piece_bytes, came))
        self.operations["get"].bytes += length

    async def list(self, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        began = time.monotonic()
        try:
            async for info in self._inner.list(prefix, after=after):
                yield info
        except StorageError as error:
            self._failed("list", error)
            raise
        finally:
            self.operations["list"].observe(time.monotonic() - began)

    async def delete(self, key: str) -> None:
        await self._measured("delete", self._inner.delete(key))

    async def delete_many(self, keys: Sequence[str]) -> None:
        await self._measured("delete", self._inner.delete_many(keys))

    async def stat(self, key: str) -> ObjectStat | None:
        return await self._measured("stat", self._inner.stat(key))

    async def sweep_uploads(self, older_than_s: float) -> int:
        return await self._inner.sweep_uploads(older_than_s)  # once an hour: not worth a series

    async def close(self) -> None:
        await self._inner.close()

    async def _measured(self, name: str, request: Awaitable[T]) -> T:
        began = time.monotonic()
        try:
            return await request
        except StorageError as error:
            self._failed(name, error)
            raise
        finally:
            self.operations[name].observe(time.monotonic() - began)

    def _failed(self, name: str, error: StorageError) -> None:
        if error.kind not in NORMAL:
            failures = self.operations[name].failures
            failures[error.kind] = failures.get(error.kind, 0) + 1
