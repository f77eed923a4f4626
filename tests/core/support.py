"""Helpers of the store's tests: a store in a directory, appends that wait, reads of everything...."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest

from core.clock import Clock, ManualClock
from core.config import StoreConfig
from core.container.container import Container
from core.container.maintenance import Maintenance
from core.container.ports import TransactionEnd
from core.errors import StorageFailure
from core.hosted import HostedContainer
from core.index.rows import SlotColumns
from core.log.durable_log import DurableLog
from core.log.format import IN_TRANSACTION, Buffer
from core.log.writer import FileWriter
from core.retention import Consumed, Retention
from core.store import Store
from core.streams.live import Slot, Stream
from core.streams.policy import StreamPolicy

T = TypeVar("T")

KIB: Final = 1024

SMALL: Final = StoreConfig(
    log_file_bytes=64 * KIB,
    cache_bytes=127 * KIB,  # less than two files: rows of all but the newest two are read from sidecars
    index_cache_bytes=64 * KIB,
    checkpoint_interval_ms=3_600_000,
    checkpoint_log_bytes=1 << 40,
    retention_check_interval_ms=3_600_000,
    log_reader_threads=2,
    rocksdb_cache_bytes=KIB * KIB,
    rocksdb_write_buffer_bytes=KIB * KIB,
)
"""Files roll after a few appends, and the background does nothing of its own accord: the test says when."""

DEADLINE_S: Final = 60.0
"""A wait that takes so long hangs: a busy machine takes some ten times as long as one that has nothing else to do."""
SCENARIO_S_MAX: Final = 280.0
"""A little less than a test may take: so it is told where it hangs."""


def policy_from(config: Mapping[str, str]) -> StreamPolicy:
    """Streams of the tests say their policy in their configuration."""
    return StreamPolicy(
        retention_ms=int(config.get("retention_ms", -1)),
        retention_bytes=int(config.get("retention_bytes", -1)),
        compact="compact" in config,
        delete="compact" not in config,
    )


def run(main: Coroutine[Any, Any, T]) -> T:
    """One event loop for one scenario; hangs end it."""

    async def bounded() -> T:
        async with asyncio.timeout(SCENARIO_S_MAX):
            return await main

    return asyncio.run(bounded())


async def open_store(directory: Path, config: StoreConfig = SMALL, clock: Clock | None = None) -> Store:
    store = await Store.open(directory, config, policy_from, clock or ManualClock())
    await maintenance_of(store).stop()  # the test says when
    return store


def with_size(log_file_bytes: int) -> StoreConfig:
    return replace(SMALL, log_file_bytes=log_file_bytes)


class Outcome:
    """An append's waiter that remembers what it was told, unless nobody waits any more."""

    def __init__(self) -> None:
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def appended(self) -> None:
        if not self.future.cancelled():
            self.future.set_result(None)

    def append_failed(self, error: StorageFailure) -> None:
        if not self.future.cancelled():
            self.future.set_exception(error)


Writer = tuple[int, int, int]
"""Its id, its epoch, the first sequence of a batch."""

NO_WRITER: Final[Writer] = (-1, -1, -1)


def begin_append(
    slot: Slot, payload: Buffer, count: int = 1, timestamp: int = 0, writer: Writer = NO_WRITER, flags: int = 0
) -> tuple[int, Outcome]:
    """Queue an append."""
    outcome = Outcome()
    return owner_of(slot).append(slot, payload, count, timestamp, outcome, *writer, flags), outcome


async def append(
    slot: Slot, payload: Buffer, count: int = 1, timestamp: int = 0, writer: Writer = NO_WRITER, flags: int = 0
) -> int:
    """Append and wait until it is durable; the first sequence number."""
    base, outcome = begin_append(slot, payload, count, timestamp, writer, flags)
    await outcome.future
    return base


async def append_in_transaction(slot: Slot, payload: Buffer, writer: Writer) -> int:
    """As `append`, as part of the writer's transaction."""
    return await append(slot, payload, writer=writer, flags=IN_TRANSACTION)


def end_of(slot: Slot, writer_id: int, *, committed: bool, epoch: int = 0, timestamp: int = 0) -> TransactionEnd:
    """The end of a writer's transaction in a slot, with a marker as `marker` makes it."""
    return TransactionEnd(
        slot=slot, writer_id=writer_id, writer_epoch=epoch, committed=committed, timestamp=timestamp, entry=marker
    )


def marker(base: int, leader_epoch: int) -> bytes:
    """The store does not look into entries: this one says where it was put."""
    return b"marker at %d in epoch %d" % (base, leader_epoch)


def is_log(fd: int) -> bool:
    """Whether it is a file of the log, not one that is being prepared."""
    return os.readlink(f"/proc/self/fd/{fd}").endswith(".log")


def writer_of(log: DurableLog) -> FileWriter:
    """The side of a log that a disk is behind."""
    assert isinstance(log._writer, FileWriter)
    return log._writer


def before_syncs(monkeypatch: pytest.MonkeyPatch, hook: Callable[[int], object]) -> None:
    """Call `hook` with the descriptor before each sync of a log file, alone or with its write. Files that are
    being prepared beside have none."""
    fdatasync, pwritev = os.fdatasync, os.pwritev

    def sync(fd: int) -> None:
        if is_log(fd):
            hook(fd)
        fdatasync(fd)

    def write(fd: int, parts: Sequence[Buffer], position: int, flags: int = 0) -> int:
        if flags & os.RWF_DSYNC and is_log(fd):
            hook(fd)
        return pwritev(fd, parts, position, flags)

    monkeypatch.setattr("core.log.writer.os.fdatasync", sync)
    monkeypatch.setattr("core.log.image_writer.os.pwritev", write)


class Gate:
    """Holds every sync of a log file until it is opened; those of files that are being prepared go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.waiting = threading.Event()
        self.open = threading.Event()
        self.syncs = 0
        self.of = ""  # of logs below this directory only
        before_syncs(monkeypatch, self._hold)

    def _hold(self, fd: int) -> None:
        if not os.readlink(f"/proc/self/fd/{fd}").startswith(self.of):
            return
        self.waiting.set()
        assert self.open.wait(DEADLINE_S)
        self.syncs += 1


def forget_bytes(rows: Iterable[SlotColumns]) -> None:
    """Memory loses the bytes of these rows' files, but not the rows: they are read from disk."""
    for columns in rows:
        columns.file.image = None


async def read_all(store: Store, slot: Slot, start: int | None = None, max_bytes: int = 1 << 20) -> list[bytes]:
    """All durable entries from `start` on."""
    offset = slot.start if start is None else start
    entries: list[bytes] = []
    while offset < slot.durable_end:
        found = await store.hosted(slot).reader.read(slot, offset, slot.durable_end, max_bytes, True)
        assert found.end > offset
        entries += map(bytes, found.parts)
        offset = found.end
    return entries


def hosted_of(store: Store) -> HostedContainer:
    return store.containers[0]


def container_of(store: Store) -> Container:
    return store.containers[0].container


def owner_of(slot: Slot) -> Container:
    """The container that a slot lies in, for tests that append to it."""
    assert isinstance(slot.owner, Container)
    return slot.owner


def retention_of(store: Store, consumed: Consumed | None = None) -> Retention:
    """As after a start: only this one remembers the findings of its first look."""
    hosted = hosted_of(store)
    return Retention(hosted.container, hosted.reader, hosted.catalog, consumed)


@dataclass
class Nowhere:
    """The owner of a slot that lies in no container."""

    id: int = 0
    epoch: int = 0


def maintenance_of(store: Store) -> Maintenance:
    return store.containers[0].maintenance


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until something holds."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event of its own
            await asyncio.sleep(0.001)


async def tries() -> AsyncIterator[None]:
    """Once more, and once more, for what others tell in answers: as long as a wait lasts at the most."""
    deadline = asyncio.get_running_loop().time() + DEADLINE_S
    while asyncio.get_running_loop().time() < deadline:
        yield
        await asyncio.sleep(0.02)


async def roll(store: Store, slot: Slot) -> list[bytes]:
    """Append until the log begins its next file; returns the appended entries."""
    container, entries = container_of(store), []
    first = container.log.file.first_lsn
    while container.log.file.first_lsn == first:
        entries.append(b"filler %6d " % slot.end + b"." * 4 * KIB)
        await append(slot, entries[-1])
        await until(lambda: container.log.can_roll)
    await until(lambda: container.files.complete and container.files.complete[-1].first_lsn == first)
    return entries


async def crash_copy(store: Store, target: Path) -> Path:
    """The state that a kill at this moment would leave: a copy without RocksDB's memory."""
    container = container_of(store)
    await container.log.synced(container.log.next_lsn - 1)

    await maintenance_of(store).thread.run(copy_files, store, target)
    return target


def copy_files(store: Store, target: Path) -> None:
    """Copy what a start reads of a store's directory, while RocksDB lets go of files of its own."""
    while True:
        try:
            return _copy_files(store, target)
        except FileNotFoundError:
            shutil.rmtree(target)


def _copy_files(store: Store, target: Path) -> None:
    for path in sorted(store.directory.rglob("*")):
        place = target / path.relative_to(store.directory)
        if path.is_dir():
            place.mkdir(parents=True, exist_ok=True)
        elif path.name not in ("LOCK", "lock", "ballast") and path.suffix not in (".prepared", ".spare"):
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)


def copy_settled(source: Path, target: Path) -> None:
    """Copy RocksDB's files as they are at one moment: its compactions come and go by themselves."""

    def files() -> list[tuple[str, int]]:
        return sorted((path.name, path.stat().st_size) for path in source.iterdir() if path.name != "LOG")

    for _ in range(200):
        with contextlib.suppress(FileNotFoundError, shutil.Error):
            before = files()
            shutil.copytree(source, target)
            if before == files():
                return
        shutil.rmtree(target, ignore_errors=True)
    raise AssertionError(f"{source} never came to rest")


async def make(store: Store, name: str = "s", slots: int = 1, **config: object) -> Stream:
    return await store.create_stream(name, slots=slots, config={k: str(v) for k, v in config.items()})


def fast_directory() -> str | None:
    """Memory where there is some: these tests ask what is written, not whether the disk keeps it."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None
