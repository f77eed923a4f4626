"""A store's knowledge of its long-term storage, as records: one JSON object a line.

    {"topic": name, "partitions": [{"id", "start", "end", "gaps": [[first, end], …]}, …]}
        `end`: the end of its part in long-term storage; `gaps`: the ranges before it that are in no chunk. At most
        `SLOTS_MAX` partitions a record, so a topic may have several.
    {"chunk": key, "state", "bytes", "created_ms", "runs": [{"topic", "partition", "first", "end", "stream", "segment",
        "position", "length", "entries"}, …]}
        `runs`: the runs for which the store refers to the chunk.

Keeps: the event loop is not held up; memory does not grow with the stored data. Records are made while the store
works, so a reader that finds a fault asks for that chunk again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final, TypeAlias

from core.hosted import HostedContainer
from core.streams.live import Slot
from core.tiering.rows import ChunkRow, ChunkState, RunRow, chunk_key, parse_chunk_key

Record: TypeAlias = dict[str, Any]

SLOTS_MAX: Final = 200
CHUNKS_AT_ONCE: Final = 50
"""Chunks that are looked up in one go of a pool's thread."""
TRIES: Final = 3
"""Looks at a slot whose runs are being rewritten."""


async def tier2_records(containers: Iterable[HostedContainer]) -> AsyncIterator[Record]:
    """All records: partitions first, then chunks."""
    for hosted in containers:
        for stream in list(hosted.container.streams.values()):
            slots = sorted(stream.slots_in(hosted.id), key=lambda slot: slot.number)
            for start in range(0, len(slots), SLOTS_MAX):
                some = slots[start : start + SLOTS_MAX]
                partitions = await hosted.catalog.in_thread(_partitions, hosted, some)
                yield {"topic": stream.name, "partitions": partitions}
        for row in hosted.catalog.pending:
            yield await hosted.catalog.in_thread(_chunk, hosted, row)
        verified = hosted.catalog.iter_verified()
        while rows := await hosted.catalog.in_thread(lambda: list(islice(verified, CHUNKS_AT_ONCE))):  # noqa: B023
            for record in await hosted.catalog.in_thread(_chunks, hosted, rows):
                yield record


async def tier2_chunk(containers: Iterable[HostedContainer], key: str) -> Record | None:
    """One chunk; None if the store does not know it."""
    chunk_id = parse_chunk_key(key)
    hosted = next((one for one in containers if chunk_id is not None and one.id == chunk_id.container), None)
    if chunk_id is None or hosted is None:
        return None
    row = await hosted.catalog.chunk(chunk_id)
    return None if row is None else await hosted.catalog.in_thread(_chunk, hosted, row)


def _partitions(hosted: HostedContainer, slots: Sequence[Slot]) -> list[Record]:
    return [
        {
            "id": slot.number,
            "start": slot.start,
            "end": max(slot.start, slot.tiered_end),
            "gaps": _gaps(hosted, slot),
        }
        for slot in slots
    ]


def _gaps(hosted: HostedContainer, slot: Slot) -> list[tuple[int, int]]:
    """The ranges of the slot that should be in chunks, and are in no chunk that the store knows."""
    gaps: list[tuple[int, int]] = []
    for _ in range(TRIES):
        start, end = slot.start, slot.tiered_end
        if start >= end or slot.stream.deleted:
            return []
        runs = hosted.catalog.iter_runs(slot.stream.id, slot.number, start)
        gaps = list(_between(runs, start, end))
        if not gaps:
            break
    return gaps


def _between(runs: Iterator[RunRow], start: int, end: int) -> Iterator[tuple[int, int]]:
    position = start
    for run in runs:
        if run.first > position:
            yield position, run.first
        position = max(position, run.end)
    if position < end:
        yield position, end


def _chunks(hosted: HostedContainer, rows: Sequence[ChunkRow]) -> list[Record]:
    return [_chunk(hosted, row) for row in rows]


def _chunk(hosted: HostedContainer, row: ChunkRow) -> Record:
    return {
        "chunk": chunk_key(row.id),
        "state": row.state.name.lower(),
        "bytes": row.size,
        "created_ms": row.created_ms,
        "runs": list(_runs(hosted, row)) if row.state in (ChunkState.COMMITTED, ChunkState.VERIFIED) else [],
    }


def _runs(hosted: HostedContainer, row: ChunkRow) -> Iterator[Record]:
    for listed in row.runs:
        stream = hosted.container.streams.get(listed.stream_id)
        run = hosted.catalog.find_run(listed.stream_id, listed.slot, listed.first)
        if stream is None or run is None or run.chunk != row.id:
            continue
        yield {
            "topic": stream.name,
            "partition": run.slot,
            "first": run.first,
            "end": run.end,
            "stream": run.stream_id,
            "segment": run.segment_id,
            "position": run.position,
            "length": run.length,
            "entries": run.entries,
        }
