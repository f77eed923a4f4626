"""Reads from one storage ("below") and writes to another ("above"): the storage of a drill.

Invariants: no object below is ever put or deleted. An object above is read from there; one that is not above, or was
deleted there, is read from below.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from tier2.storage import Buffer, Came, Data, ObjectInfo, ObjectNotFound, ObjectStat, Storage


class OverlayStorage:
    """A Storage over two others; a listing shows only objects above."""

    def __init__(self, below: Storage, above: Storage) -> None:
        self._below = below
        self._above = above

    def __repr__(self) -> str:
        return f"<OverlayStorage {self._above!r} over {self._below!r}>"

    async def put(self, key: str, data: Data, *, token: str = "") -> ObjectStat:
        return await self._above.put(key, data, token=token)

    async def put_new(self, key: str, data: Buffer, *, token: str = "") -> ObjectStat:
        return await self._above.put_new(key, data, token=token)

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        try:
            return await self._above.get_range(key, start, length)
        except ObjectNotFound:
            return await self._below.get_range(key, start, length)

    async def get_pieces(self, key: str, start: int, length: int, piece_bytes: int, came: Came) -> None:
        try:
            await self._above.get_pieces(key, start, length, piece_bytes, came)
        except ObjectNotFound:
            await self._below.get_pieces(key, start, length, piece_bytes, came)

    async def list(self, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        async for info in self._above.list(prefix, after=after):
            yield info

    async def delete(self, key: str) -> None:
        await self._above.delete(key)

    async def delete_many(self, keys: Sequence[str]) -> None:
        await self._above.delete_many(keys)

    async def stat(self, key: str) -> ObjectStat | None:
        return await self._above.stat(key) or await self._below.stat(key)

    async def sweep_uploads(self, older_than_s: float) -> int:
        return await self._above.sweep_uploads(older_than_s)

    async def close(self) -> None:
        await self._above.close()
        await self._below.close()
