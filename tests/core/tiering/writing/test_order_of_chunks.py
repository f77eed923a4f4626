"""The order of chunks: whatever becomes of the uploads on their way, runs leave no gap and take no other's place."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from core.errors import CorruptState
from core.log.records import Delete
from core.store import Store
from core.streams.live import Slot
from core.tiering.rows import RUNS_TABLE
from core.tiering.writing import storage_writer
from core.tiering.writing.backlog import Backlog, Piece, adjoining, all_entries, cut_segment, pack
from core.tiering.writing.storage_writer import StorageWriter
from tests.core.support import KIB, container_of, hosted_of, owner_of, read_all, run, until
from tests.core.tiering.reading.test_reading_across import left_the_log
from tests.core.tiering.support import (
    AGEING,
    TIERING,
    chunk_entries,
    fill,
    runs_of,
    storage_in,
    tiered_store,
    without_gaps,
)
from tests.core.tiering.writing.test_storage_writer import Unreliable
from tier2.filesystem import FilesystemStorage
from tier2.storage import Data, ObjectStat, Unavailable

pytestmark = pytest.mark.slow

HANG_S: Final = 60.0
SEEDS: Final = range(12)


class Directed(Unreliable):
    """Storage in which each put waits until the test says how it ends."""

    def __init__(self, inner: FilesystemStorage) -> None:
        super().__init__(inner)
        self.waiting: list[asyncio.Future[None]] = []
        self.is_open = False
        self.chunks_put = 0

    async def put(self, key: str, data: Data, *, token: str = "") -> ObjectStat:
        if not key.startswith("chunks/"):
            return await super().put(key, data, token=token)
        if not self.is_open:
            waiting = asyncio.get_running_loop().create_future()
            self.waiting.append(waiting)
            await waiting
        stat = await super().put(key, data, token=token)
        self.chunks_put += 1
        return stat

    def fail(self, number: int) -> None:
        self.waiting[number].set_exception(RuntimeError("broken"))

    def open(self) -> None:
        """All puts go through, those that wait and those to come."""
        self.is_open = True
        for waiting in self.waiting:
            if not waiting.done():
                waiting.set_result(None)


def writer_of(store: Store) -> StorageWriter:
    tier = hosted_of(store).tier
    assert tier is not None
    return tier.writer


async def all_tiered(store: Store, storage: Unreliable, slot: Slot, written: Sequence[bytes]) -> None:
    await until(lambda: slot.tiered_end == slot.end and not writer_of(store).uploading)
    assert without_gaps(runs_of(store, slot))
    assert await chunk_entries(storage, store, slot) == written


def test_a_chunk_is_given_up_while_the_next_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one, which was cut to go on behind it, is not begun: entries before it would be in no chunk."""

    async def scenario() -> None:
        storage = Directed(await storage_in(tmp_path / "tier2"))
        async with tiered_store(tmp_path, AGEING, storage) as store:
            slot = (await store.create_stream("s", slots=1)).slot(0)
            loop, cuts = asyncio.get_running_loop(), 0

            def slow_pack(backlogs: Sequence[Backlog], chunk_bytes: int) -> list[list[Piece]]:
                nonlocal cuts
                cuts += 1
                if cuts == 2:
                    deadline = time.monotonic() + HANG_S
                    while not storage.waiting and time.monotonic() < deadline:
                        threading.Event().wait(0.001)
                    loop.call_soon_threadsafe(storage.fail, 0)
                    while writer_of(store).uploading and time.monotonic() < deadline:
                        threading.Event().wait(0.001)
                    loop.call_soon_threadsafe(storage.open)
                return pack(backlogs, chunk_bytes)

            monkeypatch.setattr(storage_writer, "pack", slow_pack)
            written = await fill(slot, 4 * KIB)
            await until(lambda: bool(storage.waiting))
            written += await fill(slot, 4 * KIB)
            await all_tiered(store, storage, slot, written)
            assert cuts > 2

    run(scenario())


def test_a_later_chunk_is_given_up_first(tmp_path: Path) -> None:
    """What is cut again goes on behind the chunks that are still on their way, and not behind what is committed."""

    async def scenario() -> None:
        storage = Directed(await storage_in(tmp_path / "tier2"))
        async with tiered_store(tmp_path, AGEING, storage) as store:
            slot = (await store.create_stream("s", slots=1)).slot(0)
            written = await fill(slot, 4 * KIB)
            await until(lambda: bool(storage.waiting))
            written += await fill(slot, 4 * KIB)
            await until(lambda: len(storage.waiting) > 1)
            last = len(storage.waiting) - 1
            storage.fail(last)
            written += await fill(slot, 4 * KIB)
            await until(lambda: len(storage.waiting) > last + 1)
            storage.waiting[last + 1].set_result(None)
            await until(lambda: storage.chunks_put == 1)
            storage.open()
            await all_tiered(store, storage, slot, written)

    run(scenario())


@pytest.mark.parametrize("seed", SEEDS)
def test_any_outcomes(tmp_path: Path, seed: int) -> None:
    """Uploads end in any order, well or not, while entries come and go: chunks hold each once, in order."""

    async def scenario() -> None:
        chance = random.Random(seed)
        storage = Directed(await storage_in(tmp_path / "tier2"))
        async with tiered_store(tmp_path, AGEING, storage) as store:
            slot = (await store.create_stream("s", slots=1)).slot(0)
            written = await fill(slot, KIB)
            await until(lambda: bool(storage.waiting))
            written += await fill(slot, KIB)
            await until(lambda: len(storage.waiting) > 1)
            for _ in range(30):
                written += await fill(slot, chance.randint(1, 8) * KIB)
                await asyncio.sleep(chance.choice((0.0, 0.03, 0.06)))
                waiting = [one for one in storage.waiting if not one.done()]
                if waiting and chance.random() < 0.6:
                    ended, failure = chance.choice(waiting), chance.random()
                    if failure < 0.4:
                        ended.set_exception(RuntimeError("broken"))
                    elif failure < 0.6:
                        ended.set_exception(Unavailable("away"))
                    else:
                        ended.set_result(None)
                if chance.random() < 0.1:
                    await store.hosted(slot).truncate(slot, chance.randint(slot.start, slot.end))
                assert without_gaps(runs_of(store, slot))
            storage.open()
            await until(lambda: slot.tiered_end == slot.end and not writer_of(store).uploading)
            await until(lambda: without_gaps(runs_of(store, slot)))
            assert b"".join(await read_all(store, slot)) == b"".join(written[slot.start :])

    run(scenario())


def test_a_gap_in_the_index_of_the_log(tmp_path: Path) -> None:
    """No chunk is made of entries with some missing in between."""

    async def scenario() -> None:
        async with tiered_store(tmp_path, TIERING) as store:
            slot = (await store.create_stream("s", slots=1)).slot(0)
            storage_held = writer_of(store)
            storage_held.hold(slot)
            written = await fill(slot, 300 * KIB)
            container = container_of(store)
            refs = lambda: list(container.metadata.blocks_from(slot.stream.id, slot.number, 0))  # noqa: E731
            await until(lambda: len(refs()) >= 3 and refs()[2].first < slot.columns[0].base[0])
            piece = Piece(slot, slot.segment_id, 0, slot.end, 0, slot.total_bytes)
            reader = hosted_of(store).reader
            assert [bytes(one.payload) for one in all_entries(reader, piece)] == written

            lost = refs()[1]
            container.metadata.replace_blocks((), [lost])
            with pytest.raises(CorruptState, match=f"the index of the log lacks offset {lost.first} of s-0"):
                list(all_entries(reader, piece))
            with pytest.raises(CorruptState, match=f"lacks offset {lost.first} of s-0"):
                list(all_entries(reader, Piece(slot, slot.segment_id, 0, lost.end, 0, lost.bytes_before + lost.bytes)))
            container.metadata.replace_blocks([lost])
            storage_held.let_go(slot)

    run(scenario())


def test_a_gap_between_runs_is_refused(tmp_path: Path) -> None:
    """A reader is told that entries are lost, where it would else go on behind them as if they had been compacted."""

    async def scenario() -> None:
        async with tiered_store(tmp_path, TIERING) as store:
            slot = (await store.create_stream("s", slots=1)).slot(0)
            written = await fill(slot, 300 * KIB)
            await until(lambda: len(runs_of(store, slot)) > 4)
            before, lost, behind = runs_of(store, slot)[:3]
            await left_the_log(store, slot, lost.end)
            await owner_of(slot).update(Delete(RUNS_TABLE, lost.key))

            hosted = hosted_of(store)
            assert b"".join(await read_all(store, slot, behind.first)) == b"".join(written[behind.first :])
            found = await hosted.reader.read(slot, before.first, slot.end, 1 << 30, True)
            assert found.end <= lost.first
            with pytest.raises(CorruptState, match=f"neither the log nor a chunk holds offset {lost.first} of s-0"):
                await hosted.reader.read(slot, lost.first, slot.end, 1 << 20, True)

    run(scenario())


def test_pieces_that_go_on() -> None:
    """Each begins where its slot's chunks end, or behind another one; the order of the others stays."""

    class Place:
        tiered_end = 10

    slot, other = Place(), Place()

    def piece(of: Place, segment_id: int, first: int, end: int) -> Piece:
        return Piece(of, segment_id, first, end, 0, 1)  # type: ignore[arg-type]

    def kept(*pieces: Piece, reached: int = 10) -> list[Piece]:
        return adjoining(pieces, lambda slot: reached)

    later, one, another = piece(slot, 1, 20, 30), piece(slot, 2, 10, 20), piece(other, 2, 10, 15)
    assert kept(later, one, another) == [later, one, another]
    assert kept(later, another) == [another]
    assert kept(piece(slot, 1, 5, 20)) == []
    assert kept(piece(slot, 1, 15, 20), reached=18) == [piece(slot, 1, 15, 20)]
    assert kept(one, piece(slot, 3, 15, 25)) == [one]


@pytest.mark.parametrize("written", range(4))
def test_a_backlog_is_cut_while_the_next_entry_is_appended(tmp_path: Path, written: int) -> None:
    """Its row comes column by column, and the thread that cuts may see a part of it: that is none of the backlog."""

    async def scenario() -> None:
        async with tiered_store(tmp_path, clean=False) as store:
            slot = (await store.create_stream("s", slots=1)).slot(0)
            await fill(slot, 4 * KIB)
            rows = slot.columns[-1]
            columns = ((rows.base, slot.end), (rows.position, 1 << 20), (rows.length, 100), (rows.timestamp, 1))
            for column, value in columns[: written + 1]:
                column.append(value)
            backlog = Backlog(slot, slot.segment_id, 0, slot.stable_end, 0, slot.total_bytes)
            chunks = cut_segment(hosted_of(store).reader, [backlog], 1 << 20, [], whole=True)
            for column, _ in columns[: written + 1]:
                column.pop()
            assert chunks == [[Piece(slot, slot.segment_id, 0, slot.end, 0, slot.total_bytes)]]

    run(scenario())
