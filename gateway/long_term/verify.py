"""Reads all objects of a store in long-term storage, and compares them with the store's knowledge.

Keeps: a reported fault is a fault now. The store may work on meanwhile, so each apparent fault is checked with the
store again: a chunk that nothing refers to any more is neither missing nor damaged. Memory holds names, and a range
for each chunk that is being read.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from core.tiering.rows import chunk_key
from core.tiering.snapshots.format import BadSnapshot, decode_snapshot, parse_snapshot_key
from gateway.long_term.view import Record
from gateway.records.record_batch import entry_head
from tier2.chunk import ChunkReader
from tier2.storage import Corrupt, ObjectNotFound, Storage

CHUNKS_AT_ONCE: Final = 4
LIVE: Final = ("committed", "verified")


class Knowledge(Protocol):
    """The store's knowledge; see `gateway.long_term.view`."""

    def records(self) -> AsyncIterator[Record]:
        """All records."""
        ...

    async def chunk(self, key: str) -> Record | None:
        """One chunk, as it is now."""
        ...


@dataclass(slots=True)
class Findings:
    """The report of `penstock tier2 verify`."""

    chunks: int = 0
    bytes: int = 0
    missing: list[str] = field(default_factory=list)
    orphaned: list[str] = field(default_factory=list)
    damaged: list[dict[str, str]] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        return not self.missing and not self.damaged

    def as_json(self) -> dict[str, Any]:
        return {
            "chunks": self.chunks,
            "bytes": self.bytes,
            "missing": sorted(self.missing),
            "orphaned": sorted(self.orphaned),
            "damaged": sorted(self.damaged, key=lambda one: one["key"]),
        }


class Verification:
    """One pass over everything."""

    def __init__(
        self, storage: Storage, knowledge: Knowledge, advance: Callable[[int, int], object] = lambda done, chunks: None
    ) -> None:
        """`advance` is told of each chunk that has been read, and how many there are, as far as is known."""
        self._storage = storage
        self._knowledge = knowledge
        self._advance = advance
        self._chunks = 0
        self._slots = asyncio.Semaphore(CHUNKS_AT_ONCE)
        self.findings = Findings()

    async def run(self) -> Findings:
        """Raises StorageError when the storage cannot be reached."""
        # Objects first: the store knows of a later upload before its object exists.
        unknown = {info.key async for info in self._storage.list("chunks/")}
        self._chunks = len(unknown)
        async with asyncio.TaskGroup() as checks:
            async for record in self._knowledge.records():
                if "topic" in record:
                    self._check_partitions(record)
                    continue
                unknown.discard(record["chunk"])
                if record["state"] in LIVE:
                    await self._slots.acquire()
                    checks.create_task(self._check(record))
        for key in sorted(unknown):
            if await self._knowledge.chunk(key) is None and await self._storage.stat(key) is not None:
                self.findings.orphaned.append(key)
        await self._check_snapshots()
        return self.findings

    def _check_partitions(self, record: Record) -> None:
        for partition in record["partitions"]:
            for first, end in partition["gaps"]:
                self._damaged(f"{record['topic']}-{partition['id']}", f"offsets {first} to {end - 1} are in no chunk")

    async def _check(self, record: Record) -> None:
        key = record["chunk"]
        try:
            self.findings.chunks += 1
            self.findings.bytes += record["bytes"]
            try:
                await self._read(record)
            except (ObjectNotFound, Corrupt) as error:
                again = await self._knowledge.chunk(key)
                if again is None or again["state"] not in LIVE:
                    return  # deleted or rewritten meanwhile
                if isinstance(error, ObjectNotFound):
                    self.findings.missing.append(key)
                else:
                    self._damaged(key, f"at byte {error.position}: {error.why}")
        finally:
            self._advance(1, self._chunks)
            self._slots.release()

    async def _read(self, record: Record) -> None:
        """Every byte of it. Raises ObjectNotFound, Corrupt."""
        key = record["chunk"]
        stat = await self._storage.stat(key)
        if stat is None:
            raise ObjectNotFound(key)
        if stat.size != record["bytes"]:
            raise Corrupt(key, min(stat.size, record["bytes"]), f"has {stat.size} bytes, {record['bytes']} were put")
        reader = await ChunkReader.open(key, record["bytes"], self._storage.get_range, entry_head)
        if chunk_key(reader.index.id) != key:
            raise Corrupt(key, 0, f"holds what was put as {chunk_key(reader.index.id)}")
        for known in record["runs"]:
            run = reader.index.run_of(known["stream"], known["segment"], known["partition"])
            what = f"offsets {known['first']} to {known['end'] - 1} of {known['topic']}-{known['partition']}"
            if run is None:
                if known["entries"]:
                    raise Corrupt(key, 0, f"{what} are not in it")
            elif (run.position, run.length, run.entries) != (known["position"], known["length"], known["entries"]):
                raise Corrupt(key, run.position, f"{what} are not what was put there")
        await reader.verify()

    async def _check_snapshots(self) -> None:
        async for info in self._storage.list("meta/"):
            if parse_snapshot_key(info.key) is None:
                continue
            try:
                await asyncio.to_thread(decode_snapshot, await self._storage.get_range(info.key, 0, max(1, info.size)))
            except ObjectNotFound:
                continue  # replaced by a newer one
            except (BadSnapshot, Corrupt) as error:
                self._damaged(info.key, str(error))

    def _damaged(self, key: str, error: str) -> None:
        self.findings.damaged.append({"key": key, "error": error})
