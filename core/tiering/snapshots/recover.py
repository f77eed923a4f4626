"""A store is rebuilt from long-term storage alone: the newest metadata snapshot, and every chunk's own index.

This is the only place that takes a listing for the truth, because nothing else is left. It works in five passes through
RocksDB, so that memory does not grow with what is stored, beyond a chunk's name:

1. Chunks, the newest first: their runs become rows, as far as no newer chunk has spoken for the same stretch.
2. Each slot's rows in order: what was refused or lost is told, the rest is made a whole
   (`core.tiering.snapshots.adoption`).
3. Each chunk's rows: what it is still needed for.
4. Tables and streams (`core.tiering.snapshots.found_streams`), and what no new store may ever do again: use an id, a
   producer id or a leader epoch twice.
5. The last entries of each slot: which writers are known again, and which transactions are torn
   (`core.tiering.snapshots.tails`).

**Invariants**

- Nothing in long-term storage is changed.
- All rows reflect LSN 0: the new store's log begins after them. Its epoch lies `EPOCHS_APART` above any that was
  seen, so whatever a store that is believed dead still puts there has an older id than all that comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Final

from core.applied.metadata import BATCH_OPERATIONS, Metadata, slot_item, table_item, table_key
from core.applied.tables import STORED_TABLES
from core.config import StoreConfig
from core.container.container import CONTAINER_TABLE, EPOCH_KEY
from core.errors import CorruptState
from core.log.files import make_directory
from core.log.format import FILE_HEADER_SIZE
from core.log.log_file import LogPosition
from core.streams.slot_format import encode_head, encode_tiered_rest
from core.tiering.rows import (
    CHUNKS_TABLE,
    PENDING_TABLE,
    RUNS_TABLE,
    ChunkRow,
    ChunkState,
    RunKey,
    RunRow,
    chunk_key,
    chunk_row_key,
    decode_chunk_row,
    decode_run,
    parse_chunk_key,
)
from core.tiering.snapshots.adoption import Claims, SettledSlot, settle, share
from core.tiering.snapshots.bucket import Bucket
from core.tiering.snapshots.format import SlotSnapshot, Snapshot, WriterSnapshot, parse_snapshot_key
from core.tiering.snapshots.found_streams import FoundStreams, agree
from core.tiering.snapshots.lives import LIVES_KEY, OtherLife, decode_lives, encode_lives
from core.tiering.snapshots.recovered import RecoveredSlot, RecoveredStream, Report, SlotLoss
from core.tiering.snapshots.tail_reader import Ending, TailReader, last_rows
from core.tiering.snapshots.tails import Ends, EntryWriterOf
from tier2.chunk import EntryHeadOf
from tier2.chunk_format import ChunkId, ChunkIndex, Run
from tier2.storage import Storage

EPOCHS_APART: Final = 1000
"""More starts than a store that is believed dead will make after its last sign of life."""
SCRATCH_TABLE: Final = "recovered"
"""Runs by chunk, while pass 2 goes through them by slot. Gone when the store is complete."""

Progress = Callable[[str, int, int], None]
TablesOf = Callable[[Mapping[str, Mapping[bytes, bytes]], Mapping[tuple[str, int], tuple[int, int]]], "Tables"]
"""Makes the tables of the new store from the snapshot's, and from the bounds of all slots by stream's name."""
Tables = Mapping[str, Mapping[bytes, bytes]]


async def recover_store(
    directory: Path,
    config: StoreConfig,
    storage: Storage,
    cluster_id: str,
    head_of: EntryHeadOf,
    tables_of: TablesOf,
    progress: Progress,
    writer_of: EntryWriterOf = lambda payload: None,
) -> Report:
    """Make a store in an empty directory. Raises StorageError, CorruptState, OSError."""
    report = Report()
    recoveries: list[_Recovery] = []
    ids = list(config.container_ids)
    try:
        for container_id in ids:  # which grows, once the home knows of more
            path = directory / f"container-{container_id}" / "metadata"
            await asyncio.to_thread(_make_directories, directory, path)
            metadata = await asyncio.to_thread(Metadata, path, config)
            home = recoveries[0].streams if recoveries else None
            recoveries.append(_Recovery(container_id, metadata, storage, cluster_id, head_of, report, progress, home))
            await recoveries[-1].find()
            ids += range(len(ids), 1 + max((max(one.containers) for one in recoveries[-1].streams), default=0))
        agree([recovery.streams for recovery in recoveries])
        known = {place: slot for recovery in recoveries for place, slot in recovery.known.items()}
        for recovery in recoveries:
            await asyncio.to_thread(recovery.settle, known)
        bounds = _reported(recoveries, report)
        for recovery in recoveries:
            await asyncio.to_thread(recovery.write_tables, tables_of, bounds)
        await _look_at_ends(recoveries, report, writer_of)
        for recovery in recoveries:
            await asyncio.to_thread(recovery.commit)
    finally:
        for recovery in recoveries:
            await asyncio.to_thread(recovery.metadata.close)
    report.streams.sort(key=lambda stream: stream.name)
    return report


async def containers_in(storage: Storage) -> int:
    """The number of containers of which long-term storage has anything. Raises StorageError."""
    highest = -1
    async for info in storage.list("meta/"):
        if (snapshot := parse_snapshot_key(info.key)) is not None:
            highest = max(highest, snapshot[0])
    async for info in storage.list("chunks/"):
        if (chunk := parse_chunk_key(info.key)) is not None:
            highest = max(highest, chunk.container)
    return highest + 1


def _reported(recoveries: Sequence[_Recovery], report: Report) -> dict[tuple[str, int], tuple[int, int]]:
    """Report all streams; returns the bounds of all slots by stream's name and number."""
    settled: dict[tuple[int, int], RecoveredSlot] = {}
    losses: dict[int, dict[int, SlotLoss]] = {}
    for recovery in recoveries:
        settled |= recovery.settled
        for stream_id, own in recovery.losses.items():
            losses.setdefault(stream_id, {}).update(own)
    report.containers = len(recoveries)
    bounds: dict[tuple[str, int], tuple[int, int]] = {}
    for stream in recoveries[0].streams:
        slots = [settled.get((stream.id, number), RecoveredSlot(number, 0, 0)) for number in range(stream.slots)]
        bounds |= {(stream.name, slot.slot): (slot.start, slot.end) for slot in slots}
        of_stream = losses.get(stream.id, {})
        untiered = sum(loss.untiered for loss in of_stream.values())
        report.streams.append(RecoveredStream(stream.name, slots, untiered, of_stream))
        report.stream_names[stream.id] = stream.name
    return bounds


async def _look_at_ends(recoveries: Sequence[_Recovery], report: Report, writer_of: EntryWriterOf) -> None:
    """After all containers: a transaction may have slots in several."""
    bounds: dict[tuple[int, int], tuple[int, int]] = {}
    for recovery in recoveries:
        bounds |= recovery.bounds
    ends = Ends(report.stream_names, bounds)
    for recovery in recoveries:
        await recovery.look_at_ends(ends, writer_of)
    report.transactions, report.transactions_more = ends.torn(), ends.more


def _make_directories(directory: Path, path: Path) -> None:
    for needed in (directory, path.parent, path):
        make_directory(needed)


class _Recovery:
    """One container."""

    def __init__(
        self,
        container_id: int,
        metadata: Metadata,
        storage: Storage,
        cluster_id: str,
        head_of: EntryHeadOf,
        report: Report,
        progress: Progress,
        home: FoundStreams | None,
    ) -> None:
        self._container_id = container_id
        self.metadata = metadata
        self.bounds: dict[tuple[int, int], tuple[int, int]] = {}  # of slots, by stream and number
        self._storage = storage
        self._head_of = head_of
        self._bucket = Bucket(container_id, storage, cluster_id, head_of, report.findings.append)
        self._report = report
        self._progress = progress
        self._known: dict[tuple[int, int], SlotSnapshot] = {}
        self._known_elsewhere: Mapping[tuple[int, int], SlotSnapshot] = {}
        self._writers: dict[tuple[int, int], Sequence[WriterSnapshot]] = {}
        self._has_snapshot = False
        self._sizes: dict[ChunkId, int] = {}
        self._endings: list[Ending] = []
        self.streams = FoundStreams(container_id, report.findings.append, home)
        self.settled: dict[tuple[int, int], RecoveredSlot] = {}
        self.losses: dict[int, dict[int, SlotLoss]] = {}
        self._tables: dict[str, dict[bytes, bytes]] = {}  # of the snapshot
        self._dead: dict[ChunkId, ChunkRow] = {}
        self._claims: dict[tuple[int, int], Claims] = {}
        self._epoch = 0  # the highest that was seen
        self._other_lives: list[OtherLife] = []

    async def find(self) -> None:
        """Pass 1: what the snapshot and the chunks tell of streams."""
        snapshot = await self._bucket.newest_snapshot()
        if snapshot is not None:
            self._tables = {
                name: dict(entries) for name, entries in snapshot.tables.items() if name not in STORED_TABLES
            }
            self._use_snapshot(snapshot)
        self._dead = self._dead_chunks(self._tables.get(PENDING_TABLE, {}))
        self._epoch = max(self._epoch, self._bucket.newest_epoch)
        await self._adopt_chunks(self._dead)

    @property
    def known(self) -> Mapping[tuple[int, int], SlotSnapshot]:
        """The slots that the snapshot lists, by stream and number."""
        return self._known

    def settle(self, known: Mapping[tuple[int, int], SlotSnapshot]) -> None:
        """Passes 2 and 3, once all containers agree about streams. Blocks.

        `known`: the slots that the snapshots of all containers list. One that has moved since may be in another's.
        """
        self._known_elsewhere = known
        self._settle_slots()
        self._settle_chunks()

    def write_tables(self, tables_of: TablesOf, bounds: Mapping[tuple[str, int], tuple[int, int]]) -> None:
        """Pass 4, with the bounds of all slots. Blocks."""
        tables = {name: dict(entries) for name, entries in tables_of(self._tables, bounds).items()}
        self._settle_tables(tables, self._dead)
        self._write_tables(tables)

    def _tell(self, finding: str) -> None:
        self._report.findings.append(finding)

    # The snapshot

    def _use_snapshot(self, snapshot: Snapshot) -> None:
        self._has_snapshot = True
        self._report.snapshots[self._container_id] = snapshot.created_ms
        self._known = {(slot.stream_id, slot.slot): slot for slot in snapshot.slots}
        self._writers = {snapshot.slots[number][:2]: writers for number, writers in snapshot.writers.items()}
        self.streams.use_snapshot(snapshot.tables)
        container = snapshot.tables.get(CONTAINER_TABLE, {})
        self._other_lives = decode_lives(container.get(LIVES_KEY, b""))
        epoch = container.get(EPOCH_KEY, b"")
        self._epoch = max(self._epoch, int.from_bytes(epoch, "big"))

    def _dead_chunks(self, pending: Mapping[bytes, bytes]) -> dict[ChunkId, ChunkRow]:
        """Chunks that nothing may ever refer to again, whatever has happened since the snapshot."""
        rows = (decode_chunk_row(key, value) for key, value in pending.items())
        return {row.id: row for row in rows if row.state in (ChunkState.DELETING, ChunkState.ABANDONED)}

    # Pass 1: chunks

    async def _adopt_chunks(self, dead: Mapping[ChunkId, ChunkRow]) -> None:
        sizes = self._sizes = await self._bucket.chunks()
        self._epoch = max(self._epoch, max((chunk_id.epoch for chunk_id in sizes), default=0))
        others = {chunk_id for chunk_id in sizes if any(life.has(chunk_id) for life in self._other_lives)}
        wanted = sorted(
            (chunk_id for chunk_id in sizes if chunk_id not in dead and chunk_id not in others), reverse=True
        )
        self._report.unused += len(sizes) - len(wanted)
        done = 0
        async for chunk_id, index in self._bucket.indexes(wanted, sizes):
            done += 1
            self._progress("chunks", done, len(wanted))
            if index is not None:
                await asyncio.to_thread(self._adopt_chunk, chunk_id, sizes[chunk_id], index)

    def _adopt_chunk(self, chunk_id: ChunkId, size: int, index: ChunkIndex) -> None:
        self._report.newest_chunk_ms = max(self._report.newest_chunk_ms, index.created_ms)
        puts: list[tuple[bytes, bytes]] = []
        for run in index.runs:
            self._epoch = max(self._epoch, run.leader_epoch)
            if not self.streams.admit(run, index):
                continue
            claims = self._claims.setdefault((run.segment.stream.id, run.slot), Claims())
            for first, end in claims.claim(run.first, run.end):
                row = _row(chunk_id, run, first, end)
                puts.append(table_item(RUNS_TABLE, row.key, 0, row.encode()))
        created_ms = index.created_ms
        chunk = ChunkRow(
            id=chunk_id, state=ChunkState.VERIFIED, created_ms=created_ms, changed_ms=created_ms, size=size
        )
        puts.append(table_item(CHUNKS_TABLE, chunk.key, 0, chunk.encode()))
        self._write(puts)

    # Pass 2: slots

    def _settle_slots(self) -> None:
        settled, losses = self.settled, self.losses
        for place, rows in groupby(self._rows(), key=lambda row: (row.stream_id, row.slot)):
            self._settle_slot(place, list(rows), settled, losses)
        for place in self._known.keys() - settled.keys():
            self._settle_slot(place, [], settled, losses)
        self.bounds = {place: (slot.start, slot.end) for place, slot in settled.items()}

    def _rows(self) -> Iterator[RunRow]:
        return (decode_run(key, value) for key, value in self.metadata.table_items(RUNS_TABLE, b""))

    def _settle_slot(
        self,
        place: tuple[int, int],
        rows: list[RunRow],
        settled: dict[tuple[int, int], RecoveredSlot],
        losses: dict[int, dict[int, SlotLoss]],
    ) -> None:
        stream_id, number = place
        stream = self.streams.get(stream_id)
        if stream is None or number >= stream.slots or stream.container_of_slot(number) != self._container_id:
            # Gone, or moved to another container, which has had all of it in chunks before that was decided.
            self._write([], [table_key(RUNS_TABLE, row.key) for row in rows])
            return
        known = self._known.get(place)
        # What a snapshot does not know began after it, with nothing tiered.
        begun = self._begun(place, rows) if known is None and self._has_snapshot else known
        slot = settle(begun, rows)
        settled[place] = RecoveredSlot(number, slot.start, slot.end)
        losses.setdefault(stream_id, {})[number] = SlotLoss(
            known_end=-1 if known is None else known.durable_end,
            untiered=slot.untiered,
            lost=sum(end - first for first, end in slot.lost),
            left_out=sum(row.end - row.first for row in slot.behind),
        )
        name = f"{stream.name}-{number}"
        self._tell_of_slot(name, slot)
        kept = {row.key for row in slot.rows}
        puts = [table_item(RUNS_TABLE, row.key, 0, row.encode()) for row in slot.rows]
        puts += (table_item(SCRATCH_TABLE, chunk_row_key(row.chunk) + row.key, 0, row.encode()) for row in slot.rows)
        head = encode_head(
            start=slot.start,
            end=slot.end,
            total_bytes=slot.total_bytes,
            start_bytes=slot.start_bytes,
            tiered_end=slot.end,
            tiered_bytes=slot.total_bytes,
            leader_epochs=slot.epochs,
        )
        puts.append(slot_item(stream_id, number, 0, head + encode_tiered_rest(())))
        writers = self._writers.get(place, ())
        if slot.rows or writers:
            known_end = 0 if known is None else known.durable_end
            last = last_rows(slot.rows, known_end)
            left_out = last[0].first if len(last) < len(slot.rows) else 0
            self._endings.append(Ending(name, place, slot.end, slot.lost, head, last, left_out, known_end, writers))
        self._write(puts, [table_key(RUNS_TABLE, row.key) for row in rows if row.key not in kept])

    def _begun(self, place: tuple[int, int], rows: Sequence[RunRow]) -> SlotSnapshot:
        """A slot that began after the snapshot, with nothing tiered: at 0, or where it did in the container that it has
        moved from."""
        before = self._known_elsewhere.get(place)
        start = 0 if before is None else max(before.start, rows[0].first if rows else 0)
        return SlotSnapshot(*place, start, 0, start, start, 0, () if before is None else before.epochs)

    def _tell_of_slot(self, name: str, slot: SettledSlot) -> None:
        for first, end in slot.lost:
            self._tell(f"{name}: offsets {first} to {end - 1} were in long-term storage, and are not there")
        for row in slot.refused:
            self._tell(
                f"{name}: offsets {row.first} to {row.end - 1} of chunk {chunk_key(row.chunk)} are refused: a store "
                f"that had been replaced already put them there (leader epoch {row.leader_epoch})"
            )
        for row in slot.behind:
            self._tell(
                f"{name}: offsets {row.first} to {row.end - 1} of chunk {chunk_key(row.chunk)} are left out: what lies "
                f"before them, from {slot.end} on, had not arrived. The object stays where it is"
            )

    # Pass 3: chunks

    def _settle_chunks(self) -> None:
        """The needs for each chunk. A chunk without any is known no more."""
        scratch = self.metadata.table_items(SCRATCH_TABLE, b"")
        rows_of = groupby(((key, decode_run(key[16:], value)) for key, value in scratch), key=lambda item: item[0][:16])
        for row_key, items in rows_of:
            runs: list[RunKey] = []
            keys: list[bytes] = []
            for key, run in items:
                runs.append(run.listed)
                keys.append(table_key(SCRATCH_TABLE, key))
            value = self.metadata.table_value(CHUNKS_TABLE, row_key)
            if value is None:
                raise CorruptState("a run was adopted from a chunk that was not")
            chunk = replace(
                decode_chunk_row(row_key, value), runs=tuple(runs), live_bytes=sum(run.length for run in runs)
            )
            self._report.chunks += 1
            self._report.bytes += chunk.size
            self._write([table_item(CHUNKS_TABLE, chunk.key, 0, chunk.encode())], keys)
        for key, value in self.metadata.table_items(CHUNKS_TABLE, b""):
            if not decode_chunk_row(key, value).runs:
                self._report.unused += 1
                self._write([], [table_key(CHUNKS_TABLE, key)])

    # Tables

    def _settle_tables(self, tables: dict[str, dict[bytes, bytes]], dead: Mapping[ChunkId, ChunkRow]) -> None:
        tables[PENDING_TABLE] = {row.key: row.encode() for row in dead.values()}
        tables |= self.streams.tables()
        tables[CONTAINER_TABLE] = {EPOCH_KEY: (self._epoch + EPOCHS_APART).to_bytes(4, "big")}
        if self._other_lives:
            tables[CONTAINER_TABLE][LIVES_KEY] = encode_lives(self._other_lives)

    def _write_tables(self, tables: Tables) -> None:
        for name, entries in tables.items():
            self._write([table_item(name, key, 0, value) for key, value in entries.items()])

    # Pass 5: ends

    async def look_at_ends(self, ends: Ends, writer_of: EntryWriterOf) -> None:
        """Give slots their writers, and `ends` what markers say. Raises StorageError."""
        reader = TailReader(self._storage, self._sizes.get, self._head_of, writer_of, self._tell)
        done = 0

        def found(ending: Ending, writers: list[bytes]) -> None:
            nonlocal done
            done += 1
            self._progress("ends", done, len(self._endings))
            if writers:
                self._write([slot_item(*ending.place, 0, ending.head + encode_tiered_rest(writers))])

        await reader.look(self._endings, ends, found)

    def commit(self) -> None:
        """The store is whole."""
        self.metadata.commit(LogPosition(0, 1, FILE_HEADER_SIZE))

    def _write(self, puts: Sequence[tuple[bytes, bytes]], deletes: Sequence[bytes] = ()) -> None:
        for start in range(0, len(puts), BATCH_OPERATIONS):
            self.metadata.write(puts[start : start + BATCH_OPERATIONS])
        for start in range(0, len(deletes), BATCH_OPERATIONS):
            self.metadata.write((), deletes[start : start + BATCH_OPERATIONS])


def _row(chunk_id: ChunkId, run: Run, first: int, end: int) -> RunRow:
    """The row of a run, or of the part of it that is still right."""
    size = share(run.length, run.first, run.end, end) - share(run.length, run.first, run.end, first)
    return RunRow(
        stream_id=run.segment.stream.id,
        slot=run.slot,
        first=first,
        end=end,
        chunk=chunk_id,
        segment_id=run.segment.id,
        generation=run.segment.generation,
        min_timestamp=run.min_timestamp,
        max_timestamp=run.max_timestamp,
        position=run.position,
        length=run.length,
        entries=run.entries,
        leader_epoch=run.leader_epoch,
        bytes_before=0,
        appended=size,
    )
