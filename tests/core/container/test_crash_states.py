"""A power cut before any call that changes the disk: of all states that it may leave, each brings back what was
acknowledged, once, in order, and of what ends a transaction all or nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from core.applied.metadata import Metadata
from core.container.container import STEP_OPERATIONS_MAX
from core.log.format import IN_TRANSACTION
from core.log.records import Put
from core.store import Store
from core.streams.live import Slot, Stream
from core.streams.transactions import Aborted
from tests.core.crash_disk import CrashDisk, Picture, build
from tests.core.support import (
    KIB,
    Outcome,
    Writer,
    append,
    begin_append,
    container_of,
    copy_settled,
    end_of,
    fast_directory,
    maintenance_of,
    make,
    marker,
    open_store,
    read_all,
    run,
    until,
)
from tests.core.transaction_model import Ended, walk

pytestmark = pytest.mark.slow

SEED = int(os.environ.get("PENSTOCK_TEST_SEED", "1"))
STATES = int(os.environ.get("PENSTOCK_TEST_STATES", "40"))


WRITERS: Final = (7, 8)
KEYS: Final = [b"%d" % number for number in range(STEP_OPERATIONS_MAX + 1)]
"""The keys that every end of a transaction puts: two records of them."""


@dataclass(frozen=True)
class Sent:
    """An entry of one sequence number."""

    base: int
    payload: bytes
    writer: int = -1
    ends: bool | None = None

    @property
    def end(self) -> int:
        return self.base + 1


class History:
    """The requests to the store, its acknowledgements, and RocksDB's state on disk, as of now."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.sent: tuple[list[Sent], list[Sent]] = ([], [])  # to the two slots
        self.acknowledged = 0  # entries of the first
        self.ended_asked = 0  # transactions
        self.ended = 0
        self.starts = (0, 0)  # acknowledged
        self.starts_asked = (0, 0)
        self.commits = 0
        self.created = False
        self.epoch_asked = 0
        self.epoch = 0  # acknowledged

    def now(self) -> dict[str, Any]:
        return {**vars(self), "sent": len(self.sent[0])}

    def send(self, slot: Slot, payload: bytes, writer: int = -1, ends: bool | None = None) -> None:
        sent = self.sent[slot.number]
        sent.append(Sent(len(sent), payload, writer, ends))

    def keep_commits(self, patch: pytest.MonkeyPatch) -> None:
        """After each flush RocksDB's files are copied: a crash takes all unflushed values."""
        commit = Metadata.commit

        def copied(metadata: Metadata, *args: Any, **kwargs: Any) -> None:
            commit(metadata, *args, **kwargs)
            copy_settled(metadata._path, self.home / f"rocksdb-{self.commits + 1}")
            self.commits += 1

        patch.setattr(Metadata, "commit", copied)


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
            await end_transaction(store, stream, history)
            await maintenance_of(store).checkpoint()
            await fill(store, slot, history, 2)
            await end_transaction(store, stream, history)
            runs = [run.number for run in stream.state.current.segments]
            history.epoch_asked += 1
            await store.scale_stream(stream, runs, [1] if len(runs) == 1 else [], "test")
            history.epoch += 1
            if step % 2:
                history.starts_asked = slot.durable_end - 3, stream.slot(1).durable_end
                for number, start in enumerate(history.starts_asked):
                    await store.hosted(stream.slot(number)).truncate(stream.slot(number), start)
                history.starts = history.starts_asked
                await maintenance_of(store).truncate()
        await store.close()


async def end_transaction(store: Store, stream: Stream, history: History) -> None:
    """End what one writer has begun in both slots; the other begins one that goes on. Commits and aborts take turns."""
    await until(lambda: container_of(store).log.can_roll)
    number, slots = history.ended_asked, [stream.slot(0), stream.slot(1)]
    writer, other = WRITERS[number % 2], WRITERS[1 - number % 2]
    committed = number % 3 == 0
    outcomes = [send_in_transaction(slot, history, (writer, number, 1)) for slot in slots]
    outcomes += [send_in_transaction(slot, history, (other, number + 1, 0)) for slot in slots]
    for slot in slots:
        history.send(slot, marker(slot.end, store.home.epoch), writer, committed)
    history.ended_asked += 1
    ends = [end_of(slot, writer, committed=committed, epoch=number) for slot in slots]
    await container_of(store).end_transactions(ends, [Put("t", key, b"%d" % number) for key in KEYS])
    history.ended += 1
    history.acknowledged = len(history.sent[0])
    assert all(outcome.future.done() for outcome in outcomes)


def send_in_transaction(slot: Slot, history: History, writer: Writer) -> Outcome:
    payload = b"%d of a transaction" % slot.end
    history.send(slot, payload, writer[0])
    return begin_append(slot, payload, writer=writer, flags=IN_TRANSACTION)[1]


async def fill(store: Store, slot: Slot, history: History, count: int) -> None:
    log = container_of(store).log
    for group in range(0, count, 3):
        await until(lambda: log.can_roll)
        outcomes = []
        for _ in range(group, min(group + 3, count)):
            history.send(slot, b"%d;" % slot.end + b"." * 3 * KIB)
            outcomes.append(begin_append(slot, history.sent[slot.number][-1].payload)[1])
        for outcome in outcomes:
            await outcome.future
            history.acknowledged += 1


def look_at_transactions(store: Store, stream: Stream, sent: tuple[list[Sent], list[Sent]]) -> int:
    """Each slot has what its entries say, and tables and slots know of the same ends; how many that are."""
    ended = {store.table("t").get(key) for key in KEYS}
    assert len(ended) == 1
    last = ended.pop()
    count = 0 if last is None else int(last) + 1
    for slot in (stream.slot(0), stream.slot(1)):
        entries = sent[slot.number][: slot.durable_end]
        known = walk(entries)
        assert count == sum(entry.ends is not None for entry in entries)
        assert known.stable_end(slot.start, slot.durable_end) == slot.stable_end
        assert sum(len(entry.payload) for entry in entries[: slot.stable_end]) == slot.stable_bytes
        assert set(known.open) == {writer for writer in WRITERS if slot.has_open_transaction(writer)}
        rows = [ended_row(row) for row in slot.aborted_in(0, slot.durable_end)]
        assert known.aborted_in(slot.start, slot.durable_end) == rows
    return count


def ended_row(row: Aborted) -> Ended:
    return Ended(row.last, row.first, row.writer_id)


async def look(directory: Path, picture: Picture, sent: tuple[list[Sent], list[Sent]]) -> None:
    """The result of a start from a state."""
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
            for number in range(2):
                assert then["starts"][number] <= stream.slot(number).start <= then["starts_asked"][number]
            payloads = [entry.payload for entry in sent[0][slot.start : slot.durable_end]]
            assert payloads == await read_all(store, slot)
            assert sum(map(len, payloads)) == slot.size_bytes
            assert then["ended"] <= look_at_transactions(store, stream, sent) <= then["ended_asked"]
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
        assert {"fsync", "fdatasync", "pwrite", "write", "rename", "unlink", "ftruncate"} <= calls
        assert {"pwritev", "sync of pwritev"} <= calls

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
