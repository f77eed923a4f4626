"""Entries and chunks for tests: a simple form of entry, and an object store that is a dict."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from uuid import UUID

from tier2.chunk import ChunkReader, ChunkWriter, Entry, RunSource
from tier2.chunk_format import AbortedTransaction, ChunkId, SegmentRef, StreamRef
from tier2.storage import Corrupt

HEAD = struct.Struct(">qiqi")  # first, count, largest timestamp, size

ORDERS = StreamRef(id=7, uuid=UUID(int=0x1234), name="orders")
CLICKS = StreamRef(id=9, uuid=UUID(int=0x5678), name="clicks-é")


def head_of(data: memoryview, at: int) -> tuple[int, int, int, int]:
    first, count, timestamp, size = HEAD.unpack_from(data, at)
    return first, count, timestamp, size


def entry(first: int, count: int = 1, timestamp: int = -1, body: bytes = b"", leader_epoch: int = 0) -> Entry:
    payload = HEAD.pack(first, count, timestamp, HEAD.size + len(body)) + body
    return Entry(first, count, timestamp, leader_epoch, payload)


def source(
    segment: int,
    slot: int,
    entries: Sequence[Entry],
    stream: StreamRef = ORDERS,
    aborted: Sequence[AbortedTransaction] = (),
) -> RunSource:
    ref = SegmentRef(id=segment, stream=stream, generation=0)
    return RunSource(segment=ref, slot=slot, entries=lambda: entries, aborted=aborted)


def write(runs: Sequence[RunSource], block_bytes: int = 64 << 10) -> tuple[bytes, ChunkWriter]:
    chunk_id = ChunkId(container=1, epoch=2, sequence=3)
    writer = ChunkWriter(chunk_id, "cluster-1", 1_700_000_000_000, runs, block_bytes)
    data = b"".join(writer.open())
    assert writer.size == len(data)
    return data, writer


class Ranges:
    """Serves ranges of one object from memory, and counts them."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.requests: list[tuple[int, int]] = []

    async def get(self, key: str, start: int, length: int) -> bytes:
        self.requests.append((start, length))
        if start + length > len(self.data):
            raise Corrupt(key, len(self.data), "ends here")
        return self.data[start : start + length]

    async def reader(self, size: int | None = None) -> ChunkReader:
        return await ChunkReader.open("the-chunk", size or len(self.data), self.get, head_of)
