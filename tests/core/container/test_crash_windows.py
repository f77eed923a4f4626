"""The disk's content between any two steps brings back every acknowledged entry...."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from core.applied.metadata import _FIRST_KEY, Metadata
from core.config import SyncMode
from core.streams.saving import encode_slot
from tests.core.crash_disk import CrashDisk, build
from tests.core.log.test_replay import logs
from tests.core.support import (
    SMALL,
    append,
    container_of,
    copy_settled,
    crash_copy,
    hosted_of,
    maintenance_of,
    make,
    open_store,
    read_all,
    roll,
    run,
)
from tests.core.transaction_script import aborted, play

pytestmark = pytest.mark.slow

HOUR_MS: Final = 3_600_000


class NothingUnsynced(random.Random):
    """The dice of the worst power cut."""

    def choice(self, seq: Sequence[Any]) -> Any:
        return min(seq)


def lose_what_is_not_flushed(metadata: Metadata) -> None:
    """RocksDB as a crash leaves it; closing it would flush."""
    kept = metadata._path.with_name("kept")
    copy_settled(metadata._path, kept)
    metadata._close()
    shutil.rmtree(metadata._path)
    kept.rename(metadata._path)
    metadata._db = metadata._open()


def test_index_rows_lost_after_checkpoint(tmp_path: Path) -> None:
    """A file that was indexed after the checkpoint that covers it can be read after a crash."""

    async def scenario() -> None:
        store = await open_store(tmp_path / "a")
        maintenance = maintenance_of(store)
        await maintenance.stop()
        stream = await make(store)
        entries = await roll(store, stream.slot(0))
        await maintenance.checkpoint()
        await maintenance.index_files()

        again = await open_store(await crash_copy(store, tmp_path / "b"))
        recovered = again.streams.get("s")
        assert recovered is not None
        assert entries == await read_all(again, recovered.slot(0))

        await again.close()
        await store.close()

    run(scenario())


def test_power_cut_after_a_file_went(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log file goes only when it is synced why: a start that moved later than the last sync keeps what it gave up."""

    async def scenario(disk: CrashDisk) -> None:
        store = await open_store(tmp_path / "a", replace(SMALL, sync_mode=SyncMode.INTERVAL, sync_interval_ms=HOUR_MS))
        slot = (await make(store)).slot(0)
        for _ in range(3):
            await roll(store, slot)
        maintenance = maintenance_of(store)
        await maintenance.index_files()
        await maintenance.checkpoint()
        left = logs(tmp_path / "a")
        before = slot.durable_end - 1
        await store.hosted(slot).truncate(slot, before)
        assert container_of(store).log.synced_lsn < container_of(store).applied_lsn
        assert await maintenance.truncate() > 0
        assert len(logs(tmp_path / "a")) < len(left)

        disk._take_picture("power cut")
        build(disk.pictures[-1], tmp_path / "b" / "container-0" / "log", NothingUnsynced())
        copy_settled(tmp_path / "a" / "container-0" / "metadata", tmp_path / "b" / "container-0" / "metadata")
        await store.close(clean=False)
        again = await open_store(tmp_path / "b")
        recovered = again.streams.get("s")
        assert recovered is not None
        assert recovered.slot(0).start == before
        assert len(await read_all(again, recovered.slot(0))) == recovered.slot(0).durable_end - before
        await again.close()

    disk = CrashDisk(tmp_path / "a" / "container-0" / "log", lambda: None)
    with monkeypatch.context() as patch:
        disk.install(patch)
        run(scenario(disk))


def test_rows_of_a_file_that_went_come_back(tmp_path: Path) -> None:
    """RocksDB reopened after a failed write has forgotten deletions, not files: they are deleted again."""

    async def scenario() -> None:
        store = await open_store(tmp_path)
        stream = await make(store, slots=3)
        container, maintenance = container_of(store), maintenance_of(store)
        for number in range(3):
            await roll(store, stream.slot(number))
        await maintenance.index_files()
        await maintenance.checkpoint()
        metadata = container.metadata
        rows = {number: list(metadata.blocks_from(stream.id, number, 0)) for number in range(3)}
        await store.hosted(stream.slot(0)).truncate(stream.slot(0), stream.slot(0).durable_end)
        assert await maintenance.truncate() == 1
        gone = rows[0][0]
        assert gone not in metadata.blocks_from(stream.id, 0, 0)

        lose_what_is_not_flushed(metadata)
        assert gone in metadata.blocks_from(stream.id, 0, 0)
        maintenance.thread.write_failed()
        await maintenance.index_files()
        kept = {number: [ref for ref in refs if ref.file_lsn != gone.file_lsn] for number, refs in rows.items()}
        assert kept == {number: list(metadata.blocks_from(stream.id, number, 0)) for number in range(3)}
        await store.close()

    run(scenario())


@pytest.mark.parametrize("is_old", [False, True], ids=["this release", "an older one"])
@pytest.mark.parametrize("leaves", ["some", "nothing", "no stream"])
def test_kill_after_files_went(tmp_path: Path, leaves: str, is_old: bool) -> None:
    """A start forgets rows of files and streams that are gone, and rows that an older release left."""

    async def scenario() -> None:
        store = await open_store(tmp_path / "a")
        maintenance, metadata = maintenance_of(store), container_of(store).metadata
        streams = [await make(store, name, slots=2) for name in ("s", "t")]
        for _ in range(2):
            for stream in streams:
                await append(stream.slot(1), b"beside")
                await roll(store, stream.slot(0))
        if is_old:
            metadata.write((), [_FIRST_KEY])
        await maintenance.index_files()
        await maintenance.checkpoint()
        for stream in streams if leaves == "nothing" else streams[:1]:
            for slot in stream.written_slots():
                await store.hosted(slot).truncate(slot, slot.durable_end)
        if leaves == "no stream":
            for stream in streams:
                await store.delete_stream(stream)
        gone = await maintenance.truncate()
        assert gone == (1 if leaves == "some" else 4)
        if is_old:
            metadata.write((), [_FIRST_KEY])

        again = await open_store(await crash_copy(store, tmp_path / "b"))
        there = {file.first_lsn for file in container_of(again).files.complete}
        metadata = container_of(again).metadata
        rows = [ref for s in streams for n in range(2) for ref in metadata.blocks_from(s.id, n, 0)]
        assert {ref.file_lsn for ref in rows} <= there
        assert bool(rows) == (leaves == "some")
        for stream in again.streams:
            for slot in stream.written_slots():
                assert len(await read_all(again, slot)) == (0 if slot.start == slot.durable_end else slot.durable_end)
                assert await again.hosted(slot).reader.entry_at_time(slot, 1, 0) is None
        await again.close()
        await store.close()

    run(scenario())


def test_stop_during_checkpoint(tmp_path: Path) -> None:
    """A clean stop that interrupts a checkpoint saves what that one had taken on."""

    async def scenario() -> None:
        store = await open_store(tmp_path)
        stream = await make(store, slots=500)
        for number in range(500):
            await append(stream.slot(number), b"x") if number % 50 == 0 else stream.slot(number)
        task = asyncio.create_task(maintenance_of(store).checkpoint())
        maintenance_of(store)._background._task = task
        await asyncio.sleep(0)
        await store.close()

        store = await open_store(tmp_path)
        recovered = store.streams.get("s")
        assert recovered is not None
        assert [recovered.slot(number).end for number in range(0, 500, 50)] == [1] * 10
        await store.close()

    run(scenario())


def test_damaged_sidecar_in_the_middle(tmp_path: Path) -> None:
    """A sidecar that was deleted or damaged is built again; every way of reading finds what later files hold."""

    async def scenario() -> None:
        store = await open_store(tmp_path)
        slot = (await make(store)).slot(0)
        entries: list[bytes] = []
        for _ in range(4):
            entries += await roll(store, slot)
        size = slot.size_bytes
        await store.close()
        first = sorted((tmp_path / "container-0" / "log").glob("*.idx"))[0]
        first.unlink()

        store = await open_store(tmp_path)
        stream = store.streams.get("s")
        assert stream is not None
        slot = stream.slot(0)
        await maintenance_of(store).index_files()
        assert entries == await read_all(store, slot)
        assert await hosted_of(store).reader.bytes_before(slot, 3) == sum(map(len, entries[:3]))
        assert [size] == [slot.size_bytes]
        last = await store.hosted(slot).reader.entry_with_max_timestamp(slot)
        assert last is not None
        await store.close()

    run(scenario())


def test_stream_deleted_in_half_a_checkpoint(tmp_path: Path) -> None:
    """A checkpoint that was cut short after a stream's deletion leaves a log that can be replayed."""

    async def scenario() -> None:
        store = await open_store(tmp_path / "a")
        maintenance = maintenance_of(store)
        await maintenance.stop()
        stream = await make(store)
        await append(stream.slot(0), b"before")
        await maintenance.checkpoint()
        await store.update_stream(stream, config={"retention_ms": "5"})
        await append(stream.slot(0), b"after")
        await store.delete_stream(stream)
        metadata = container_of(store).metadata
        commit = metadata.commit
        metadata.commit = lambda *args, **kwargs: metadata._db.flush(True)  # type: ignore[method-assign]
        await maintenance.checkpoint()
        metadata.commit = commit  # type: ignore[method-assign]

        again = await open_store(await crash_copy(store, tmp_path / "b"))
        assert again.streams.get("s") is None
        await again.close()
        await store.close(clean=False)

    run(scenario())


def test_transactions_in_half_a_checkpoint(tmp_path: Path) -> None:
    """Slots were saved beyond P: the log adds only the transactions behind their saved ends."""

    async def scenario() -> None:
        store = await open_store(tmp_path / "a")
        slot = (await make(store)).slot(0)
        await play(slot, "a b .")
        await maintenance_of(store).checkpoint()
        await play(slot, "a- a c")
        metadata = container_of(store).metadata
        commit = metadata.commit
        metadata.commit = lambda *args, **kwargs: metadata._db.flush(True)  # type: ignore[method-assign]
        await maintenance_of(store).checkpoint()
        metadata.commit = commit  # type: ignore[method-assign]
        await play(slot, "c- b+ .")
        expected = slot.stable_end, slot.stable_bytes, aborted(slot), encode_slot(slot)
        assert expected[:3] == (4, 4, [(0, 3, 1), (5, 6, 3)])

        again = await open_store(await crash_copy(store, tmp_path / "b"), clock=store.clock)
        recovered = again.streams.get("s").slot(0)  # type: ignore[union-attr]
        assert expected == (recovered.stable_end, recovered.stable_bytes, aborted(recovered), encode_slot(recovered))
        await again.close()
        await store.close(clean=False)

    run(scenario())


def test_concurrent_changes_of_one_stream(tmp_path: Path) -> None:
    """Growth and configuration that are asked for at once both happen; a stream deleted meanwhile stays deleted."""

    async def scenario() -> None:
        store = await open_store(tmp_path)
        stream = await make(store, slots=2)
        await asyncio.gather(store.grow_stream(stream, 4), store.update_stream(stream, config={"retention_ms": "1"}))
        assert (stream.slot_count, dict(stream.config)) == (4, {"retention_ms": "1"})

        results = await asyncio.gather(
            store.delete_stream(stream), store.update_stream(stream, config={}), return_exceptions=True
        )
        assert results[0] is None
        assert store.streams.get("s") is None
        await store.close()

    run(scenario())
