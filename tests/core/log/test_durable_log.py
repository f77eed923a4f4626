"""The log under load and under a bad disk: nothing is reported before it is synced, a full disk only refuses."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from core.applied.tables import Put
from core.config import SyncMode
from core.errors import StorageFailure, StorageFull
from core.log.durable_log import DurableLog
from core.log.files import BALLAST_NAME
from tests.core.support import (
    DEADLINE_S,
    KIB,
    SMALL,
    Gate,
    append,
    before_syncs,
    begin_append,
    container_of,
    hosted_of,
    is_log,
    maintenance_of,
    make,
    open_store,
    read_all,
    roll,
    run,
    until,
    writer_of,
)

pytestmark = pytest.mark.slow

MIB = KIB * KIB


def test_group_commit_reports_nothing_before_its_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries are visible only when a sync that began after they were written has returned; many share one sync."""

    async def scenario() -> None:
        store = await open_store(tmp_path)
        slot = (await make(store)).slot(0)
        gate = Gate(monkeypatch)
        first = begin_append(slot, b"first")[1]
        await until(gate.waiting.is_set)
        during = [begin_append(slot, b"during")[1] for _ in range(100)]
        await asyncio.sleep(0)
        assert (slot.durable_end, slot.end) == (0, 101)
        assert not first.future.done()
        found = hosted_of(store).reader.cached(slot, 0, slot.durable_end, KIB, True)
        assert (found.parts if found else None) == []

        gate.open.set()
        await first.future
        await asyncio.gather(*(outcome.future for outcome in during))
        assert (slot.durable_end, gate.syncs) == (101, 2)
        await store.close()

    run(scenario())


def test_group_of_a_failed_sync_was_never_visible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiters for the failing sync are answered with the failure, and a second sync is never tried."""
    calls: list[int] = []

    async def scenario() -> None:
        store = await open_store(tmp_path)
        slot = (await make(store)).slot(0)

        def fail(fd: int) -> None:
            calls.append(fd)
            raise OSError(5, "Input/output error")

        before_syncs(monkeypatch, fail)
        outcomes = [begin_append(slot, b"x")[1] for _ in range(10)]
        update = asyncio.create_task(store.update(Put("t", b"k", b"v")))
        results = await asyncio.gather(*(o.future for o in outcomes), update, return_exceptions=True)
        assert all(isinstance(result, StorageFailure) for result in results)
        await store.close()
        assert (len(calls), slot.durable_end, store.table("t").get(b"k") if store.containers else None) == (1, 0, None)

    run(scenario())


def test_frames_on_a_disk_can_be_read_once_they_are_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for that hears of each, and of a failure: then also who comes later."""

    async def scenario() -> None:
        store = await open_store(tmp_path)
        slot, log = (await make(store)).slot(0), container_of(store).log
        gate = Gate(monkeypatch)
        outcome = begin_append(slot, b"x")[1]
        waiting = asyncio.create_task(log.filled())
        await until(gate.waiting.is_set)
        assert not waiting.done()
        gate.open.set()
        await asyncio.gather(waiting, outcome.future)
        await log.filled()
        monkeypatch.undo()

        gate = Gate(monkeypatch)
        begin_append(slot, b"y")
        waiting = asyncio.create_task(log.filled())
        await until(gate.waiting.is_set)
        log.on_failed(StorageFailure("the disk is gone"))
        gate.open.set()
        for one in (waiting, log.filled()):
            with pytest.raises(StorageFailure, match="the disk is gone"):
                await one
        await store.close()

    run(scenario())


def test_short_write_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        store = await open_store(tmp_path)
        slot = (await make(store)).slot(0)
        real = os.pwritev

        def torn(fd: int, parts: list[memoryview], position: int, flags: int = 0) -> int:
            return real(fd, [parts[0][:512]] if is_log(fd) else parts, position, flags)

        monkeypatch.setattr("core.log.image_writer.os.pwritev", torn)
        with pytest.raises(StorageFailure, match="short write"):
            await append(slot, b"x" * 100)
        monkeypatch.undo()
        await store.close()

    run(scenario())


def test_close_writes_what_is_queued(tmp_path: Path) -> None:
    """Appends of the very turn in which the store is closed are in the log."""

    async def scenario() -> None:
        store = await open_store(tmp_path)
        slot = (await make(store)).slot(0)
        outcomes = [begin_append(slot, b"%d" % i)[1] for i in range(50)]
        await store.close()
        assert all(outcome.future.done() for outcome in outcomes)

        store = await open_store(tmp_path)
        stream = store.streams.get("s")
        assert stream is not None
        assert [b"%d" % i for i in range(50)] == await read_all(store, stream.slot(0))
        with contextlib.suppress(StorageFull):
            await store.close()

    run(scenario())


def test_interval_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries count as durable once written; the sync follows within the interval, and RocksDB waits for it."""

    async def scenario() -> None:
        config = replace(SMALL, sync_mode=SyncMode.INTERVAL, sync_interval_ms=20)
        store = await open_store(tmp_path, config)
        slot = (await make(store)).slot(0)
        log = container_of(store).log
        await log.synced(log.next_lsn - 1)
        gate = Gate(monkeypatch)
        await append(slot, b"written")
        assert (slot.durable_end, log.synced_lsn >= log.durable_lsn) == (1, False)
        checkpoint = asyncio.create_task(maintenance_of(store).checkpoint())
        await until(gate.waiting.is_set)
        assert not checkpoint.done()
        began = time.monotonic()
        gate.open.set()
        await checkpoint
        assert log.synced_lsn == log.durable_lsn
        assert time.monotonic() - began < DEADLINE_S
        await store.close()

    run(scenario())


def test_entry_larger_than_a_log_file(tmp_path: Path) -> None:
    """Such an entry gets a file that is as large as it needs; the files after it are as before."""

    async def scenario() -> None:
        store = await open_store(tmp_path)
        slot = (await make(store)).slot(0)
        log = container_of(store).log
        entries = [os.urandom(size) for size in (10, 900 * KIB, 10, 900 * KIB, 10)]
        for entry in entries:
            await append(slot, entry)
            assert log.position <= log.room
            await until(lambda: log.can_roll)
        assert entries == await read_all(store, slot)
        with pytest.raises(StorageFull):
            begin_append(slot, bytes(4 * MIB))
        await store.close(clean=False)
        store = await open_store(tmp_path)
        stream = store.streams.get("s")
        assert stream is not None
        assert entries == await read_all(store, stream.slot(0))
        await store.close()

    run(scenario())


def test_zeros_stop_before_their_file_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Filling the next file ends before its descriptor is closed: the number is soon that of another file."""
    victims: list[int] = []

    def prepared_is_open() -> bool:
        links = []
        for fd in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                links.append(os.readlink(f"/proc/self/fd/{fd}"))
        return any(link.endswith(".prepared") for link in links)

    def slow_ballast(directory: Path) -> None:
        """Ends when the log closes: it has let go of the file, or has said that it is about to."""
        deadline = time.monotonic() + DEADLINE_S
        while prepared_is_open() and not taken() and time.monotonic() < deadline:
            time.sleep(0.001)
        victims.extend(os.open(tmp_path / f"victim-{i}", os.O_CREAT | os.O_RDWR) for i in range(3))

    logs: list[DurableLog] = []

    def taken() -> bool:
        return any((spare := writer_of(log)._spares._spare) is not None and not spare._filling for log in logs)

    async def scenario() -> None:
        store = await open_store(tmp_path / "store")
        slot = (await make(store)).slot(0)
        log = container_of(store).log
        logs.append(log)
        await until(lambda: log.can_roll)
        monkeypatch.setattr("core.log.spares.make_ballast", slow_ballast)
        file = log.file
        while log.file is file:
            begin_append(slot, bytes(8 * KIB))
        await store.close()
        assert [os.fstat(fd).st_size for fd in victims] == [0, 0, 0]

    run(scenario())
    for fd in victims:
        os.close(fd)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few megabytes."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=14m", "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_full_disk(small_disk: Path) -> None:
    """Writes are refused, nothing that was taken is lost, reads and small updates go on; with room all goes on."""

    async def scenario() -> None:
        store = await open_store(small_disk / "store")
        slot = (await make(store)).slot(0)
        log = container_of(store).log
        hog = small_disk / "hog"
        room = os.statvfs(small_disk)
        hog.write_bytes(bytes(room.f_bavail * room.f_frsize - 256 * KIB))
        entries: list[bytes] = []
        with contextlib.suppress(StorageFull):
            while len(entries) < 1000:
                entry = os.urandom(4 * KIB)
                await append(slot, entry)
                entries.append(entry)
                if log.position > log.append_limit:
                    await until(lambda: log.can_roll or log.disk_full)

        assert log.disk_full
        with pytest.raises(StorageFull):
            begin_append(slot, bytes(64 * KIB))
        assert log.failure is None
        assert entries == await read_all(store, slot)
        await store.update(Put("t", b"k", b"v" * KIB))
        await store.hosted(slot).truncate(slot, 3)
        # The ballast was given up, so that the background finds room.
        assert not any((small_disk / "store").rglob(BALLAST_NAME))
        await maintenance_of(store).index_files()
        await maintenance_of(store).checkpoint()
        assert maintenance_of(store).position.lsn == log.durable_lsn

        hog.unlink()
        await until(lambda: not log.disk_full and log.can_roll)
        entries.append(b"room again")
        await append(slot, entries[-1])
        assert entries[3:] == await read_all(store, slot)
        await store.close()
        store = await open_store(small_disk / "store")
        stream = store.streams.get("s")
        assert stream is not None
        assert entries[3:] == await read_all(store, stream.slot(0))
        await store.close()

    run(scenario())


def test_rocksdb_without_room(small_disk: Path) -> None:
    """A checkpoint that fails for want of room is tried again, from newly written values."""

    async def scenario() -> None:
        store = await open_store(small_disk / "store")
        slot = (await make(store)).slot(0)
        entries = await roll(store, slot)
        log = container_of(store).log
        await maintenance_of(store).index_files()
        room = os.statvfs(small_disk)
        hog = small_disk / "hog"
        with contextlib.suppress(OSError), hog.open("wb") as stream:
            for _ in range(room.f_bavail + 10):
                stream.write(bytes(room.f_frsize))
                stream.flush()
        before = maintenance_of(store).position
        await maintenance_of(store).checkpoint()
        assert before == maintenance_of(store).position
        assert entries == await read_all(store, slot)
        # The next one gives up the ballast; without it there is nothing to be had, and reads go on all the same.
        ballast = next((small_disk / "store").rglob(BALLAST_NAME))
        ballast.rename(small_disk / "kept")
        await maintenance_of(store).checkpoint()
        assert before == maintenance_of(store).position
        assert entries == await read_all(store, slot)
        (small_disk / "kept").rename(ballast)
        await maintenance_of(store).checkpoint()
        assert log.durable_lsn == maintenance_of(store).position.lsn
        hog.unlink()
        await store.close(clean=False)
        store = await open_store(small_disk / "store")
        recovered = store.streams.get("s")
        assert recovered is not None
        assert entries == await read_all(store, recovered.slot(0))
        await store.close()

    run(scenario())
