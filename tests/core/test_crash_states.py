"""A power cut before any call that changes the disk: of all states that it may leave, each brings back what was
acknowledged, once, in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest

from core.metadata import Metadata
from core.slot import Slot
from core.store import Store
from tests.core.crash_disk import CrashDisk, Picture, build
from tests.core.support import (
    KIB,
    append,
    begin_append,
    container_of,
    fast_directory,
    maintenance_of,
    make,
    open_store,
    read_all,
    run,
    until,
)

pytestmark = pytest.mark.slow

SEED = int(os.environ.get("PENSTOCK_TEST_SEED", "1"))
STATES = int(os.environ.get("PENSTOCK_TEST_STATES", "40"))


class History:
    """What was asked of the store, what it acknowledged, and what RocksDB had on disk, as of now."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.sent: list[bytes] = []
        self.acknowledged = 0  # entries
        self.start = 0  # acknowledged
        self.start_asked = 0
        self.commits = 0
        self.created = False
        self.epoch_asked = 0
        self.epoch = 0  # acknowledged

    def now(self) -> dict[str, Any]:
        return {**vars(self), "sent": len(self.sent)}

    def keep_commits(self, patch: pytest.MonkeyPatch) -> None:
        """After each flush RocksDB's files are copied: what is not flushed, a crash takes."""
        commit = Metadata.commit

        def copied(metadata: Metadata, *args: Any, **kwargs: Any) -> None:
            commit(metadata, *args, **kwargs)
            copy_settled(metadata._path, self.home / f"rocksdb-{self.commits + 1}")
            self.commits += 1

        patch.setattr(Metadata, "commit", copied)


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


async def workload(directory: Path, history: History) -> None:
    """Fill, roll, index, checkpoint, scale, trim, truncate, stop, start again."""
    for _ in range(2):
        store = await open_store(directory)
        stream = store.streams.get("s") or await make(store, slots=2)
        history.created = True
        slot = stream.slot(0)
        for step in range(4):
            await fill(store, slot, history, 14)
            await maintenance_of(store).index_files()
            await maintenance_of(store).checkpoint()
            runs = [run.number for run in stream.state.current.segments]
            history.epoch_asked += 1
            await store.scale_stream(stream, runs, [1] if len(runs) == 1 else [], "test")
            history.epoch += 1
            if step % 2:
                history.start_asked = slot.durable_end - 3
                await slot.truncate_before(history.start_asked)
                history.start = history.start_asked
                await maintenance_of(store).truncate()
        await store.close()


async def fill(store: Store, slot: Slot, history: History, count: int) -> None:
    log = container_of(store).log
    for group in range(0, count, 3):
        await until(lambda: log._spare is not None)
        outcomes = []
        for _ in range(group, min(group + 3, count)):
            history.sent.append(b"%d;" % len(history.sent) + b"." * 3 * KIB)
            outcomes.append(begin_append(slot, history.sent[-1])[1])
        for outcome in outcomes:
            await outcome.future
            history.acknowledged += 1


async def look(directory: Path, picture: Picture, sent: list[bytes]) -> None:
    """What a start makes of a state."""
    then = picture.context
    for _ in range(2):
        store = await open_store(directory)
        stream = store.streams.get("s")
        if stream is None:
            assert not then["created"]
        else:
            slot = stream.slot(0)
            assert then["epoch"] <= stream.state.current.epoch <= then["epoch_asked"]
            assert len(stream.state.current.segments) == 1 + stream.state.current.epoch % 2
            assert then["acknowledged"] <= slot.durable_end <= then["sent"]
            assert then["start"] <= slot.start <= max(then["start_asked"], then["start"])
            assert sent[slot.start : slot.durable_end] == await read_all(slot)
            assert sum(map(len, sent[slot.start : slot.durable_end])) == slot.size_bytes
        await store.close(clean=False)
    store = await open_store(directory)
    if (stream := store.streams.get("s")) is not None:
        end = stream.slot(0).end
        assert end == await append(stream.slot(0), b"goes on")
    await store.close(clean=False)


def test_every_state_after_a_power_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are taken before every write, sync, rename and deletion; some states of each are built and started."""
    random_ = random.Random(SEED)
    with tempfile.TemporaryDirectory(dir=fast_directory()) as name:
        home = Path(name)
        (home / "live" / "container-0" / "log").mkdir(parents=True)
        history = History(home)
        disk = CrashDisk(home / "live" / "container-0" / "log", history.now)
        with monkeypatch.context() as patch:
            patch.setattr("core.log.files.SpareFile.fill", lambda self: None)  # zeros where there is nothing: no change
            history.keep_commits(patch)
            disk.install(patch)
            run(workload(home / "live", history))
        calls = {picture.call for picture in disk.pictures}
        assert {"fsync", "fdatasync", "writev", "pwrite", "write", "rename", "unlink", "ftruncate"} <= calls

        chosen = random_.sample(disk.pictures, min(STATES, len(disk.pictures)))
        for number, picture in enumerate(chosen):
            state = home / f"state-{number}"
            build(picture, state / "container-0" / "log", random_)
            with contextlib.suppress(FileNotFoundError):
                shutil.copytree(home / f"rocksdb-{picture.context['commits']}", state / "container-0" / "metadata")
            try:
                asyncio.run(look(state, picture, history.sent))
            except BaseException as error:
                error.add_note(f"seed {SEED}, state {number}, before {picture.call}, {picture.context}")
                raise
            shutil.rmtree(state)
