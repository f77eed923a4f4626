"""The writer's guarantees to a log, whatever the sync mode: order, honest reports, one failure, an end...."""

from __future__ import annotations

import asyncio
import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from core.clock import ManualClock
from core.config import StoreConfig, SyncMode
from core.errors import StorageFailure
from core.log.durable_log import DurableLog
from core.log.files import log_path
from core.log.format import FILE_HEADER_SIZE, FileHeader, decode_file_header
from core.log.interface import LogReports, LogWriter
from core.log.log_file import LogFile, LogPosition
from core.log.slabs import FileImage, Slabs
from core.log.writer import FileWriter
from tests.core.support import KIB, SMALL, Gate, before_syncs, run, until

SIZE = 256 * KIB
GROUP = replace(SMALL, sync_mode=SyncMode.GROUP)
INTERVAL = replace(SMALL, sync_mode=SyncMode.INTERVAL, sync_interval_ms=20)
NEVER = replace(SMALL, sync_mode=SyncMode.INTERVAL, sync_interval_ms=3_600_000)


class Reports:
    """Remembers what was reported, in order."""

    def __init__(self) -> None:
        self.all: list[tuple[str, object]] = []

    def of(self, kind: str) -> list[object]:
        return [what for reported, what in self.all if reported == kind]

    def on_written(self, end: LogPosition) -> None:
        self.all.append(("written", end.lsn))

    def on_synced(self, lsn: int) -> None:
        self.all.append(("synced", lsn))

    def on_written_and_synced(self, end: LogPosition) -> None:
        self.on_written(end)
        self.on_synced(end.lsn)

    def on_rolled(self, old: LogFile) -> None:
        self.all.append(("rolled", old.first_lsn))

    def on_failed(self, error: StorageFailure) -> None:
        self.all.append(("failed", str(error)))


def header(first_lsn: int) -> FileHeader:
    return FileHeader(container=0, first_lsn=first_lsn, file_id=7 + first_lsn, epoch=1, created_ms=0)


def file(directory: Path, first_lsn: int, size: int) -> LogFile:
    made = LogFile(first_lsn, log_path(directory, first_lsn), 7 + first_lsn, 0, 1)
    made.size = size
    return made


def image() -> FileImage:
    """With memory for all that these tests write."""
    slabs = Slabs(SIZE, "test")
    made = slabs.begin_image()
    slabs.reach(made, SIZE)
    return made


async def begun(writer: LogWriter) -> int:
    """Start a writer and its first file; the file's room."""
    await writer.start()
    assert writer.next_room is not None
    return writer.roll(header(1), image(), None)


@pytest.mark.parametrize("config", [GROUP, INTERVAL], ids=["group", "interval"])
def test_bytes_come_to_lie_in_order_across_files(tmp_path: Path, config: StoreConfig) -> None:
    """Groups lie behind each other, in the file that was open when they came; a finished file has no room left over."""

    async def scenario() -> None:
        reports = Reports()
        writer = FileWriter(tmp_path, "log-0", SIZE, config, reports)
        assert await begun(writer) >= SIZE
        for lsn in range(1, 51):
            writer.write([b"%03d" % lsn], LogPosition(lsn, 1, FILE_HEADER_SIZE + 3 * lsn))
        await until(lambda: writer.next_room is not None)
        writer.roll(header(51), image(), file(tmp_path, 1, FILE_HEADER_SIZE + 150))
        assert writer.next_room is None
        writer.write([b"05", b"1"], LogPosition(51, 51, FILE_HEADER_SIZE + 3))
        await writer.close()

        first, second = log_path(tmp_path, 1).read_bytes(), log_path(tmp_path, 51).read_bytes()
        assert first[FILE_HEADER_SIZE:] == b"".join(b"%03d" % lsn for lsn in range(1, 51))
        assert second[FILE_HEADER_SIZE:].rstrip(b"\0") == b"051"
        assert [decode_file_header(data).first_lsn for data in (first, second)] == [1, 51]
        assert reports.of("rolled") == [1]
        assert reports.of("failed") == []
        for kind in ("written", "synced"):
            lsns = [lsn for lsn in reports.of(kind) if isinstance(lsn, int)]
            assert lsns == sorted(lsns)
            assert lsns[-1] == 51
        # The old file was synced as a whole before it was reported as rolled.
        assert reports.all.index(("synced", 50)) < reports.all.index(("rolled", 1))

    run(scenario())


def test_one_sync_does_for_all_groups_that_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a sync is under way nothing that came after it began is reported; then all of it is, once."""

    async def scenario() -> None:
        reports = Reports()
        writer = FileWriter(tmp_path, "log-0", SIZE, GROUP, reports)
        await begun(writer)
        await until(lambda: log_path(tmp_path, 1).exists())
        gate = Gate(monkeypatch)
        writer.write([b"a"], LogPosition(1, 1, FILE_HEADER_SIZE + 1))
        await until(gate.waiting.is_set)
        for lsn in range(2, 12):
            writer.write([b"b"], LogPosition(lsn, 1, FILE_HEADER_SIZE + lsn))
        await asyncio.sleep(0)
        assert reports.all == []
        gate.open.set()
        await writer.close()
        assert reports.all == [("written", 1), ("synced", 1), ("written", 11), ("synced", 11)]
        assert (writer.stats.bytes_written, writer.stats.syncs) == (11, 2)

    run(scenario())


def test_a_sync_that_is_asked_for_does_not_wait_for_its_interval(tmp_path: Path) -> None:
    """In mode `interval` a group is reported when it is written; `sync` and `close` sync at once."""

    async def scenario() -> None:
        reports = Reports()
        writer = FileWriter(tmp_path, "log-0", SIZE, NEVER, reports)
        await begun(writer)
        writer.write([b"a"], LogPosition(1, 1, FILE_HEADER_SIZE + 1))
        await until(lambda: reports.all == [("written", 1)])
        writer.sync()
        await until(lambda: reports.all[1:] == [("synced", 1)])
        writer.write([b"b"], LogPosition(2, 1, FILE_HEADER_SIZE + 2))
        await writer.close()
        assert reports.all[2:] == [("written", 2), ("synced", 2)]

    run(scenario())


def test_a_disk_that_fails_twice_is_reported_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next file and the open one fail: the log hears of it once, and no further file is prepared."""
    prepared: list[str] = []

    async def scenario() -> None:
        reports = Reports()
        writer = FileWriter(tmp_path, "log-0", SIZE, GROUP, reports)
        await writer.start()

        def broken(*_: object) -> None:
            prepared.append("tried")
            raise OSError(errno.EIO, "Input/output error")

        def fail(_: int) -> None:
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr("core.log.spares.allocate_spare", broken)
        writer.roll(header(1), image(), None)
        await until(lambda: reports.of("failed") != [])
        before_syncs(monkeypatch, fail)
        writer.write([b"a"], LogPosition(1, 1, FILE_HEADER_SIZE + 1))
        await writer.close()
        assert [kind for kind, _ in reports.all] == ["failed"]
        assert "Nothing further is acknowledged" in str(reports.of("failed")[0])
        assert (writer.next_room, prepared) == (None, ["tried"])

    run(scenario())


@pytest.mark.parametrize(
    ("number", "raised"), [(errno.ENOSPC, StorageFailure), (errno.EMFILE, OSError), (errno.EACCES, OSError)]
)
def test_a_start_that_fails_can_be_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, raised: type[Exception]
) -> None:
    """A full disk is a failure of storage; other errors of the process are passed on. Nothing stays open or runs on."""

    async def scenario() -> None:
        def refused(*_: object) -> None:
            raise OSError(number, os.strerror(number))

        before = set(os.listdir("/proc/self/fd"))
        writer = FileWriter(tmp_path, "log-0", SIZE, GROUP, Reports())
        monkeypatch.setattr("core.log.spares.allocate_spare", refused)
        with pytest.raises(raised):
            await writer.start()
        await writer.close()
        assert set(os.listdir("/proc/self/fd")) <= before

    run(scenario())


class Listener:
    """The owner of a log, which waits for an LSN."""

    def __init__(self) -> None:
        self.lsn = 0

    def log_durable(self, lsn: int) -> None:
        self.lsn = lsn

    def log_rolled(self, old: LogFile) -> None:
        pass

    def log_failed(self, error: StorageFailure) -> None:
        raise error


def test_a_log_writes_where_its_writer_says(tmp_path: Path) -> None:
    """The log makes no writer of its own: it is given one, tells it how large files are, and hears its reports."""
    named, written = tmp_path / "named", tmp_path / "written"
    for directory in (named, written):
        directory.mkdir()
    sizes: list[int] = []

    def new_writer(size: int, reports: LogReports) -> LogWriter:
        sizes.append(size)
        return FileWriter(written, "elsewhere", size, GROUP, reports)

    async def scenario() -> None:
        listener = Listener()
        log = DurableLog(named, 0, GROUP, ManualClock(), listener, new_writer)
        await log.start(1, 1)
        log.append_update(b"an update")
        await until(lambda: listener.lsn == 1)
        await log.close()

        assert len(sizes) == 1
        assert sizes[0] > GROUP.log_file_bytes
        assert list(named.iterdir()) == []
        assert b"an update" in log_path(written, 1).read_bytes()

    run(scenario())
