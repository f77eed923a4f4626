"""The objects below a prefix of long-term storage, read for a recovery: the newest snapshot, the indexes of chunks.

**Invariant**: an object that cannot be used is reported and left out; a storage that is away raises. Some indexes are
read ahead, in order, so that memory holds a few of them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Final

from core.tiering.rows import chunk_key, parse_chunk_key
from core.tiering.snapshots.format import (
    BODY_BYTES_MAX,
    HEADER_SIZE,
    BadSnapshot,
    Snapshot,
    SnapshotId,
    decode_snapshot,
    parse_snapshot_key,
    snapshot_key,
    snapshot_prefix,
)
from tier2.chunk import ChunkReader, EntryHeadOf
from tier2.chunk_format import ChunkId, ChunkIndex
from tier2.storage import Corrupt, ObjectNotFound, Storage

INDEXES_AT_ONCE: Final = 8
READ_BYTES: Final = 8 << 20


class Bucket:
    """The objects of one container."""

    def __init__(
        self,
        container_id: int,
        storage: Storage,
        cluster_id: str,
        head_of: EntryHeadOf,
        tell: Callable[[str], None],
    ) -> None:
        self._container_id = container_id
        self._storage = storage
        self._cluster_id = cluster_id
        self._head_of = head_of
        self._tell = tell
        self.newest_epoch = 0
        """The ids of all snapshots, also of those that cannot be read."""

    async def chunks(self) -> dict[ChunkId, int]:
        """All chunks and their sizes."""
        sizes: dict[ChunkId, int] = {}
        async for info in self._storage.list(f"chunks/{self._container_id}/"):
            chunk_id = parse_chunk_key(info.key)
            if chunk_id is not None:
                sizes[chunk_id] = info.size
        return sizes

    async def newest_snapshot(self) -> Snapshot | None:
        """The newest whole snapshot. An older one lacks later changes, so a damaged newer one is reported."""
        prefix = snapshot_prefix(self._container_id)
        found: list[tuple[SnapshotId, int]] = []
        async for info in self._storage.list(prefix):
            parsed = parse_snapshot_key(info.key)
            if parsed is not None:
                found.append((parsed[1], info.size))
        for snapshot_id, size in sorted(found, reverse=True):
            key = snapshot_key(self._container_id, snapshot_id)
            self.newest_epoch = max(self.newest_epoch, snapshot_id.epoch)
            try:
                snapshot = await asyncio.to_thread(decode_snapshot, await self._read(key, size))
                if snapshot.cluster_id != self._cluster_id:
                    raise BadSnapshot(f"it is of cluster {snapshot.cluster_id}")
            except (BadSnapshot, Corrupt, ObjectNotFound) as error:
                self._tell(f"metadata snapshot {key} cannot be used, an older one is: {error}")
                continue
            return snapshot
        self._tell("there is no metadata snapshot: topic configurations, groups and their offsets are lost")
        return None

    async def _read(self, key: str, size: int) -> bytes:
        if not HEADER_SIZE <= size <= HEADER_SIZE + BODY_BYTES_MAX:
            raise BadSnapshot(f"it has {size} bytes")
        parts = [
            await self._storage.get_range(key, start, min(READ_BYTES, size - start))
            for start in range(0, size, READ_BYTES)
        ]
        return b"".join(parts)

    async def indexes(
        self, chunks: Sequence[ChunkId], sizes: Mapping[ChunkId, int]
    ) -> AsyncIterator[tuple[ChunkId, ChunkIndex | None]]:
        """The chunks' indexes in that order, some of them read ahead; None for one that cannot be used."""
        under_way: deque[tuple[ChunkId, asyncio.Task[ChunkIndex | None]]] = deque()
        remaining = iter(chunks)
        try:
            while True:
                while len(under_way) < INDEXES_AT_ONCE and (chunk_id := next(remaining, None)) is not None:
                    under_way.append((chunk_id, asyncio.create_task(self._index(chunk_id, sizes[chunk_id]))))
                if not under_way:
                    return
                chunk_id, task = under_way.popleft()
                yield chunk_id, await task
        finally:
            for _, task in under_way:
                task.cancel()
            await asyncio.gather(*(task for _, task in under_way), return_exceptions=True)

    async def _index(self, chunk_id: ChunkId, size: int) -> ChunkIndex | None:
        key = chunk_key(chunk_id)
        try:
            index = (await ChunkReader.open(key, size, self._storage.get_range, self._head_of)).index
        except (Corrupt, ObjectNotFound) as error:
            self._tell(f"chunk {key} cannot be read, and is left out: {error}")
            return None
        if index.cluster_id != self._cluster_id or index.id != chunk_id:
            self._tell(f"chunk {key} is left out: it was made as {chunk_key(index.id)} of cluster {index.cluster_id}")
            return None
        return index
