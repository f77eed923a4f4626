"""A slot that compaction has been at moves to another container, with all that is left of it and nothing else."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest

from core import histories
from core.clock import SystemClock
from core.container.container import Container
from core.errors import CannotMove, NotMovedYet, SlotMoves, StorageFull
from core.hosted import HostedContainer
from core.moving import Mover
from core.store import Store
from core.streams.live import Slot, Stream
from core.tiering.catalog import Catalog
from core.tiering.context import LongTermStorage
from core.tiering.rewriting import copies
from core.tiering.rewriting.cleaned import CLEANED_TABLE, cleaned_key, decode_cleaned, key_of
from core.tiering.rewriting.copies import Copies
from core.tiering.rewriting.requests import Rewrite, Rewritten
from core.tiering.rewriting.rewriter import Rewriter
from core.tiering.rewriting.worker import Worker, WorkerFailed
from core.tiering.rows import RunRow, chunk_key
from core.tiering.snapshots.recover import recover_store
from tests.core.cluster.several import check_copies
from tests.core.support import DEADLINE_S, KIB, append, before_syncs, copy_files, policy_from, run, until
from tests.core.tiering.rewriting.support import REWRITING, FirstByte, rewriting_store
from tests.core.tiering.support import CLUSTER, object_keys, runs_of, storage_in, without_gaps
from tests.faults.settings import SEED, scaled
from tests.tier2.chunks import entry, head_of
from tier2.chunk_format import ChunkId, StreamRef
from tier2.storage import ObjectStat

pytestmark = pytest.mark.slow

TWO: Final = replace(REWRITING, container_ids=(0, 1))
KEYS: Final = 7
LIVES: Final = 3
ACTS: Final = scaled(5, 15)
"""In each life."""
COMPACTED: Final = {"compact": "1"}


@dataclass
class Keyed:
    """The entries of a compacted slot, each with a key, and the last one of each key."""

    stream: Stream
    dice: Random = field(default_factory=lambda: Random(5))
    written: dict[int, bytes] = field(default_factory=dict)
    last: dict[int, int] = field(default_factory=dict)

    @property
    def slot(self) -> Slot:
        return self.stream.slot(0)

    async def write(self, count: int) -> None:
        """Append, wherever the slot is by then."""
        for _ in range(count):
            key = self.dice.randrange(KEYS)
            while True:
                slot = self.slot
                payload = bytes(entry(slot.end, 1, 1000 + slot.end, bytes([key]) * 300).payload)
                with suppress(SlotMoves, StorageFull):  # the next file of the log may not be ready
                    offset = await append(slot, payload, timestamp=1000 + slot.end)
                    break
                await asyncio.sleep(0)
            self.written[offset] = payload
            self.last[key] = offset

    async def compacted(self, store: Store) -> None:
        """All but the last entry of each key is gone, and no round is due."""
        if self.left_from(self.slot.start):
            await until(lambda: self.slot.end == self.slot.compacted_end == cleaned_end(store, self.slot))
        assert await contents(store, self.slot) == self.left_from(self.slot.start)

    def left_from(self, start: int) -> dict[int, bytes]:
        """The last entry of each key from an offset on."""
        return {offset: self.written[offset] for offset in sorted(self.last.values()) if offset >= start}

    async def check(self, store: Store) -> dict[int, bytes]:
        """What can be read was written so, is in order, and has the last entry of each key; returns it."""
        slot = self.slot
        found = await contents(store, slot)
        assert list(found) == sorted(found)
        assert found.items() <= self.written.items()
        assert self.left_from(slot.start).items() <= found.items()
        return found


async def contents(store: Store, slot: Slot) -> dict[int, bytes]:
    """All entries that can be read, by their offsets."""
    found: dict[int, bytes] = {}
    offset = slot.start
    while offset < slot.durable_end:
        read = await store.hosted(slot).reader.read(slot, offset, slot.durable_end, 16 * KIB, True)
        data, at = b"".join(map(bytes, read.parts)), 0
        while at < len(data):
            first, _, _, size = head_of(memoryview(data), at)
            found[first] = data[at : at + size]
            at += size
        assert read.end > offset
        offset = read.end
    return found


async def keyed_in(store: Store) -> Keyed:
    return Keyed(await store.create_stream("s", slots=1, config=COMPACTED))


def other(slot: Slot) -> int:
    return 1 - slot.container_id


def rewriter_in(hosted: HostedContainer) -> Rewriter:
    assert hosted.tier is not None
    assert hosted.tier.rewriter is not None
    return hosted.tier.rewriter


def cleaned_row(store: Store, slot: Slot) -> bytes | None:
    return store.hosted(slot).container.table(CLEANED_TABLE).get(cleaned_key(key_of(slot)))


def cleaned_end(store: Store, slot: Slot) -> int:
    row = cleaned_row(store, slot)
    return -1 if row is None else decode_cleaned(row).end


def shape(runs: Sequence[RunRow]) -> tuple[int, int, int, int]:
    """Of a slot's chunks as a whole: what they cover, their entries, and the bytes that were appended up to there."""
    entries, last = sum(run.entries for run in runs), runs[-1]
    return runs[0].first, last.end, entries, last.bytes_before + last.appended


def is_whole(store: Store, slot: Slot) -> bool:
    """Whether its runs follow one another up to the tiered end, in chunks of its own container."""
    runs = runs_of(store, slot)
    is_ours = {run.chunk.container for run in runs} == {slot.container_id}
    return is_ours and without_gaps(runs) and runs[0].first <= slot.start and runs[-1].end == slot.tiered_end


def test_what_compaction_has_left_comes_along(tmp_path: Path) -> None:
    """Entries keep their offsets, holes stay holes, and compaction goes on where it was; there, back, and over starts.
    Nothing is left behind."""

    async def scenario() -> None:
        async with rewriting_store(tmp_path, TWO, FirstByte, clean=False) as store:
            keyed = await keyed_in(store)
            await keyed.write(90)
            await keyed.compacted(store)
            slot, before = keyed.slot, await keyed.check(store)
            source, cleaned, had = store.hosted(slot), cleaned_row(store, slot), shape(runs_of(store, slot))
            assert len(before) == KEYS
            moved = await store.move_slot(keyed.stream, 0, other(slot))
            assert slot.has_moved
            slot = keyed.slot
            assert moved.copied_bytes == sum(map(len, before.values()))
            assert await contents(store, slot) == before
            assert is_whole(store, slot)
            assert shape(runs_of(store, slot)) == had
            assert cleaned_row(store, slot) == cleaned
            assert slot.size_bytes == sum(map(len, before.values()))
            await until(lambda: not list(source.catalog.iter_runs(keyed.stream.id, 0, -1)))
            await until(lambda: not source.container.table(CLEANED_TABLE).entries)

            await keyed.write(40)
            await keyed.compacted(store)
            assert len(await keyed.check(store)) == KEYS
        async with rewriting_store(tmp_path, TWO, FirstByte) as store:
            stream = store.streams.get("s")
            assert stream is not None
            keyed.stream = stream
            check_copies(store)
            assert len(await keyed.check(store)) == KEYS
            assert keyed.slot.size_bytes == sum(map(len, keyed.left_from(0).values()))
            await keyed.write(5)
            await store.move_slot(stream, 0, other(keyed.slot))
            await keyed.check(store)
            await keyed.write(5)
            await keyed.compacted(store)
            assert len(await keyed.check(store)) == KEYS
            assert is_whole(store, keyed.slot)

    run(scenario())


def test_what_lies_behind_the_compacted_chunks(tmp_path: Path) -> None:
    """It comes through the log, and what is written meanwhile, too."""

    async def scenario() -> None:
        async with rewriting_store(tmp_path, TWO, FirstByte) as store:
            keyed = await keyed_in(store)
            await keyed.write(60)
            await keyed.compacted(store)
            is_over, between = False, asyncio.Lock()

            async def write() -> None:
                while not is_over:
                    async with between:
                        await keyed.write(1)

            writing = asyncio.create_task(write())
            for _ in range(2):
                await store.move_slot(keyed.stream, 0, other(keyed.slot))
                async with between:
                    await keyed.check(store)
            is_over = True
            await writing
            await keyed.check(store)
            await keyed.compacted(store)
            assert len(await keyed.check(store)) == KEYS

    run(scenario())


class Halted:
    """Copies of chunks that wait before one of them is made, by its number, until they are let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int = 1) -> None:
        self.arrived, self.goes_on = asyncio.Event(), asyncio.Event()
        self.runs: Sequence[RunRow] = ()  # all that are copied
        self._left = number
        make = Copies._make

        async def halted(made: Copies, stream: StreamRef, left: Sequence[RunRow], *arguments: Any) -> int:
            self.runs = self.runs or left
            self._left -= 1
            if not self._left:
                self.arrived.set()
                await self.goes_on.wait()
            return await make(made, stream, left, *arguments)

        monkeypatch.setattr(Copies, "_make", halted)


def test_nothing_is_rewritten_while_it_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compaction becomes due again while chunks are copied: it comes after the move, in the target."""

    async def scenario() -> None:
        async with rewriting_store(tmp_path, TWO, FirstByte) as store:
            keyed, halted = await keyed_in(store), Halted(monkeypatch)
            await keyed.write(60)
            await keyed.compacted(store)
            slot = keyed.slot
            rewriter, looks = rewriter_in(store.hosted(slot)), 0
            plan = rewriter._compactions.plan
            moving = asyncio.create_task(store.move_slot(keyed.stream, 0, other(slot)))
            await halted.arrived.wait()
            before = rewriter.counters.rewrites

            async def looked(*arguments):  # type: ignore[no-untyped-def]
                nonlocal looks
                looks += 1
                return await plan(*arguments)

            monkeypatch.setattr(rewriter._compactions, "plan", looked)
            await keyed.write(40)
            await until(lambda: slot.tiered_end == slot.end)
            looks = 0
            await until(lambda: looks > 5)
            assert rewriter.counters.rewrites == before
            halted.goes_on.set()
            await moving
            await keyed.check(store)
            await keyed.compacted(store)
            assert len(await keyed.check(store)) == KEYS

    run(scenario())


def test_a_compaction_under_way_ends_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its outputs wait for their second look when the move begins: their rows are looked up once that is over."""
    slow = replace(TWO, tier2_verify_delay_ms=300)

    async def scenario() -> None:
        async with rewriting_store(tmp_path, slow, FirstByte) as store:
            keyed = await keyed_in(store)
            await keyed.write(60)
            rewriter = rewriter_in(store.hosted(keyed.slot))
            await until(lambda: len(rewriter._outputs))
            assert rewriter.is_at(keyed.slot)
            looked_up: list[bool] = []
            verified = histories._verified

            def seen(*arguments):  # type: ignore[no-untyped-def]
                looked_up.append(rewriter.is_at(slot))
                return verified(*arguments)

            monkeypatch.setattr(histories, "_verified", seen)
            slot = keyed.slot
            await store.move_slot(keyed.stream, 0, other(slot))
            assert looked_up == [False]
            await keyed.check(store)
            await keyed.compacted(store)

    run(scenario())


def test_a_compaction_that_was_planned_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has read the keys, and the slot is to leave before it writes: nothing comes of it, and others go on."""

    async def scenario() -> None:
        async with rewriting_store(tmp_path, TWO, FirstByte) as store:
            keyed = await keyed_in(store)
            rewriter = rewriter_in(store.hosted(keyed.slot))
            learn, learned, goes_on = rewriter._worker.learn, asyncio.Event(), asyncio.Event()

            async def late(*arguments):  # type: ignore[no-untyped-def]
                found = await learn(*arguments)
                learned.set()
                await goes_on.wait()
                return found

            monkeypatch.setattr(rewriter._worker, "learn", late)
            await keyed.write(60)
            await learned.wait()
            slot = keyed.slot
            with rewriter.leaving(slot):
                goes_on.set()
                await until(lambda: rewriter.counters.abandoned)
                assert not rewriter.is_at(slot)
                assert not rewriter.counters.rewrites
            await keyed.compacted(store)
            assert rewriter.last_error is None
            await keyed.check(store)

    run(scenario())


def test_a_copy_that_storage_loses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store acknowledges an object and loses it: the slot stays, nothing of the try is left, and the next goes
    well."""

    async def scenario() -> None:
        async with rewriting_store(tmp_path, TWO, FirstByte) as store:
            keyed = await keyed_in(store)
            await keyed.write(90)
            await keyed.compacted(store)
            slot, target = keyed.slot, store.containers[other(keyed.slot)]
            assert target.tier is not None
            storage = target.tier.long_term.storage
            stat = storage.stat

            async def forgetful(key: str) -> ObjectStat | None:
                return None if key.startswith(f"chunks/{target.id}/") else await stat(key)

            monkeypatch.setattr(storage, "stat", forgetful)
            with pytest.raises(NotMovedYet, match="not in long-term storage"):
                await store.move_slot(keyed.stream, 0, target.id)
            monkeypatch.setattr(storage, "stat", stat)
            assert keyed.slot is slot
            await until(lambda: not list(target.catalog.iter_runs(keyed.stream.id, 0, -1)))
            await until(lambda: not target.catalog.pending)
            assert not [key for key in await object_keys(storage) if key.startswith(f"chunks/{target.id}/")]
            await store.move_slot(keyed.stream, 0, target.id)
            await keyed.check(store)
            assert is_whole(store, keyed.slot)

    run(scenario())


@pytest.mark.parametrize(("again", "error"), [(True, NotMovedYet), (False, CannotMove)])
def test_a_process_that_cannot_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: bool, error: type[Exception]
) -> None:
    """The slot stays, for now if the process died, for good if a chunk is damaged; and compaction goes on."""

    async def scenario() -> None:
        async with rewriting_store(tmp_path, TWO, FirstByte) as store:
            keyed = await keyed_in(store)
            await keyed.write(60)
            await keyed.compacted(store)
            slot = keyed.slot

            class Failing(Worker):
                async def rewrite(self, request: Rewrite) -> Rewritten:
                    raise WorkerFailed("a block fails its CRC", again=again)

            with monkeypatch.context() as patch:
                patch.setattr(copies, "Worker", Failing)
                with pytest.raises(error, match="its compacted chunks were not copied: a block fails"):
                    await store.move_slot(keyed.stream, 0, other(slot))
            assert keyed.slot is slot
            await keyed.write(20)
            await keyed.compacted(store)
            await keyed.check(store)

    run(scenario())


async def gone(hosted: HostedContainer, chunk: ChunkId) -> None:
    """Wait until long-term storage has a chunk's object no more."""
    assert hosted.tier is not None
    storage = hosted.tier.long_term.storage
    async with asyncio.timeout(DEADLINE_S):
        while await storage.stat(chunk_key(chunk)) is not None:  # noqa: ASYNC110 - a deletion has no event
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("number", [1, 2], ids=["before it is copied", "since it was copied"])
def test_records_that_go_while_it_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """DeleteRecords moves the start up, beyond the first of the copied chunks: it is there in the target, too, and
    that chunk is not. If it was about to be read, the slot moves later: chunks are copied from long-term storage."""

    async def scenario() -> None:
        async with rewriting_store(tmp_path, replace(TWO, chunk_bytes=KIB), FirstByte) as store:
            keyed, halted = await keyed_in(store), Halted(monkeypatch, number)
            await keyed.write(90)
            await keyed.compacted(store)
            slot = keyed.slot
            with rewriter_in(store.hosted(slot)).leaving(slot):  # what is written now stays in chunks of its own
                await keyed.write(30)
                await until(lambda: slot.tiered_end == slot.end)
                await until(lambda: not store.hosted(slot).catalog.pending)
                moving = asyncio.create_task(store.move_slot(keyed.stream, 0, other(slot)))
                await halted.arrived.wait()
                first, second, *_ = halted.runs
                start = min(offset for offset in await contents(store, slot) if offset >= first.end)
                assert start < second.end
                await store.hosted(slot).truncate(slot, start)
                await gone(store.hosted(slot), first.chunk)
                halted.goes_on.set()
                if number == 1:
                    with pytest.raises(NotMovedYet, match="does not exist"):
                        await moving
                else:
                    await moving
            if number == 1:
                await store.move_slot(keyed.stream, 0, other(slot))
            slot = keyed.slot
            assert slot.start == start
            await keyed.check(store)
            await until(lambda: (runs := runs_of(store, slot)) and runs[0].end > start)
            await keyed.compacted(store)
            await keyed.check(store)

    run(scenario())


def test_all_records_go_while_chunks_are_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DeleteRecords up to the end, just before the rows are read: there is no history, and the slot moves without."""

    async def scenario() -> None:
        async with rewriting_store(tmp_path, TWO, FirstByte) as store:
            keyed, loop = await keyed_in(store), asyncio.get_running_loop()
            await keyed.write(60)
            await keyed.compacted(store)
            slot, verified = keyed.slot, histories._verified

            def late(catalog: Catalog, slot: Slot) -> tuple[list[RunRow], dict[ChunkId, int]]:
                trimmed = store.hosted(slot).truncate(slot, slot.durable_end)
                asyncio.run_coroutine_threadsafe(trimmed, loop).result(DEADLINE_S)
                return verified(catalog, slot)

            monkeypatch.setattr(histories, "_verified", late)
            await store.move_slot(keyed.stream, 0, other(slot))
            await keyed.write(3)
            assert keyed.slot.start == 60
            assert list(await contents(store, keyed.slot)) == [60, 61, 62]

    run(scenario())


def test_a_lost_disk_after_a_move(tmp_path: Path) -> None:
    """Long-term storage alone gives the compacted slot back, in its new container."""

    async def scenario() -> None:
        async with rewriting_store(tmp_path, TWO, FirstByte, clean=False) as store:
            keyed = await keyed_in(store)
            await keyed.write(90)
            await keyed.compacted(store)
            target = other(keyed.slot)
            await store.move_slot(keyed.stream, 0, target)
            before, hosted = await keyed.check(store), store.containers[target]
            assert hosted.tier is not None
            await hosted.tier.snapshots.take()
        storage = await storage_in(tmp_path / "tier2")
        await recover_store(
            tmp_path / "again", TWO, storage, CLUSTER, head_of, lambda tables, bounds: tables, lambda *_: None
        )
        long_term = LongTermStorage(storage=storage, cluster_id=CLUSTER, head_of=head_of)
        store = await Store.open(tmp_path / "again", TWO, policy_from, SystemClock(), long_term)
        (keyed.stream,) = store.streams
        assert keyed.slot.container_id == target
        assert await keyed.check(store) == before
        await store.close()
        await storage.close()

    run(scenario())


# Kills


@dataclass
class Kills:
    """Copies of a store, and of its long-term storage, as kills leave them, each with what was acknowledged before."""

    home: Path
    tier2: Path
    keyed: Keyed
    copies: list[tuple[Path, dict[int, int]]] = field(default_factory=list)
    _copying: threading.Lock = field(default_factory=threading.Lock)

    def take(self, store: Store) -> None:
        with self._copying:
            target, last = self.home / str(len(self.copies)), dict(self.keyed.last)
            try:
                copy_files(store, target / "store")
                shutil.copytree(self.tier2, target / "tier2", copy_function=os.link)
            except (FileNotFoundError, shutil.Error):  # a file went while it was copied: another kill comes soon
                shutil.rmtree(target)
            else:
                self.copies.append((target, last))


@asynccontextmanager
async def opened_again(directory: Path, *, clean: bool) -> AsyncIterator[Store]:
    """What a kill has left, with nobody who compacts."""
    async with rewriting_store(directory, TWO, clean=clean) as store:
        yield store


async def check_kill(directory: Path, last: dict[int, int], written: dict[int, bytes]) -> None:
    for clean in (False, True):  # also a start after the start that settles
        async with opened_again(directory, clean=clean) as store:
            check_copies(store)
            stream = store.streams.get("s")
            assert stream is not None
            slot = stream.slot(0)
            owners = [id for id, one in store.containers.items() if one.container.slot_at(stream.id, 0) is not None]
            assert owners == [slot.container_id]
            assert all(not one.container.arrivals for one in store.containers.values())
            found = await contents(store, slot)
            assert list(found) == sorted(found)
            assert found.items() <= written.items()
            newest = {payload[-1]: offset for offset, payload in found.items()}
            assert all(newest[key] >= offset for key, offset in last.items())
            assert without_gaps(runs_of(store, slot))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kills_while_a_compacted_slot_moves(tmp_path: Path) -> None:
    """There and back while it is written, killed before syncs of a log: it is whole in one container."""

    async def scenario() -> None:
        async with rewriting_store(tmp_path, TWO, FirstByte) as store:
            keyed = await keyed_in(store)
            await keyed.write(60)
            await keyed.compacted(store)
            kills = Kills(tmp_path / "copies", tmp_path / "tier2", keyed)
            for hosted in store.containers.values():
                await hosted.maintenance.stop()  # RocksDB does not change while it is copied
            with pytest.MonkeyPatch.context() as patch:
                before_syncs(patch, lambda fd: kills.take(store))
                for _ in range(2):
                    moving = asyncio.create_task(store.move_slot(keyed.stream, 0, other(keyed.slot)))
                    await keyed.write(3)
                    await moving
                    await keyed.write(2)
            written = dict(keyed.written)
        assert len(kills.copies) > 20
        for directory, last in Random(SEED).sample(kills.copies, scaled(10, len(kills.copies))):
            await check_kill(directory, last, written)
            shutil.rmtree(directory)

    async def bounded() -> None:
        async with asyncio.timeout(280):
            await scenario()

    asyncio.run(bounded())


def test_a_kill_before_the_first_chunk_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next start finds a slot whose log begins behind all of its history. Nobody looks for chunks of what is not
    there: each chunk that it was packed into would be given up, and made again, with the entries of other slots."""
    found: list[Slot] = []
    settle_in = Mover.settle_in

    async def looked_at(mover: Mover, container: Container, streams: Callable[[int], Stream | None]) -> None:
        found.extend(container.outcomes.beside.values())
        assert not [slot for slot in container.untiered if slot in found]
        await settle_in(mover, container, streams)

    async def scenario() -> None:
        async with rewriting_store(tmp_path, TWO, FirstByte) as store:
            keyed = await keyed_in(store)
            await keyed.write(60)
            await keyed.compacted(store)
            kills = Kills(tmp_path / "copies", tmp_path / "tier2", keyed)
            for hosted in store.containers.values():
                await hosted.maintenance.stop()  # RocksDB does not change while it is copied
            make = Copies.make

            async def killed(*arguments: Any) -> None:
                kills.take(store)
                await make(*arguments)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Copies, "make", killed)
                await store.move_slot(keyed.stream, 0, other(keyed.slot))
        ((directory, last),) = kills.copies
        monkeypatch.setattr(Mover, "settle_in", looked_at)
        await check_kill(directory, last, keyed.written)
        assert len(found) == 1, "the start after that finds none"

    run(scenario())


# Whatever happens in whichever order


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(scaled(1, 40)))
def test_a_compacted_slot_through_whatever_happens(tmp_path: Path, seed: int) -> None:
    """Writes, compactions, moves, deletions of records and crashes in any order: what can be read was written so, and
    has the last entry of each key."""
    dice, config = Random(seed), replace(TWO, chunk_bytes=2 * KIB)

    async def life(keyed: Keyed | None) -> Keyed:
        async with rewriting_store(tmp_path, config, FirstByte, clean=dice.random() < 0.3) as store:
            if keyed is None:
                keyed = await keyed_in(store)
                keyed.dice = dice
            else:
                stream = store.streams.get("s")
                assert stream is not None
                keyed.stream = stream
            acts = acts_on(store, keyed, dice)
            for _ in range(ACTS):
                await dice.choice(acts)()
                await keyed.check(store)
            return keyed

    async def scenario() -> None:
        keyed: Keyed | None = None
        for _ in range(LIVES):
            keyed = await life(keyed)

    run(scenario())


def acts_on(store: Store, keyed: Keyed, dice: Random) -> Sequence[Callable[[], Awaitable[None]]]:
    async def write() -> None:
        await keyed.write(dice.randint(5, 30))

    async def compact() -> None:
        await keyed.compacted(store)

    async def trim() -> None:
        slot = keyed.slot
        await store.hosted(slot).truncate(slot, dice.randint(slot.start, max(slot.start, slot.durable_end - 20)))

    async def move() -> None:
        moving = asyncio.create_task(store.move_slot(keyed.stream, 0, other(keyed.slot)))
        await keyed.write(dice.randrange(5))
        await moving

    return write, write, compact, move, move, trim


def test_the_rest_of_a_stream_that_is_compacted_no_more(tmp_path: Path) -> None:
    """Its policy has changed since: what is gone is gone, and the rest comes along."""

    async def scenario() -> None:
        async with rewriting_store(tmp_path, TWO, FirstByte) as store:
            keyed = await keyed_in(store)
            await keyed.write(60)
            await keyed.compacted(store)
            await store.update_stream(keyed.stream, config={})
            before = await keyed.check(store)
            await store.move_slot(keyed.stream, 0, other(keyed.slot))
            assert await contents(store, keyed.slot) == before

    run(scenario())
