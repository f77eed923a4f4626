"""Retention: old and surplus entries leave from the front, disk space comes back, clocks that jump delete nothing."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from core.clock import ManualClock
from core.errors import OutOfRange
from core.log.records import Trim
from core.retention import Limits
from core.store import Store
from core.streams.live import Slot
from core.trusted_time import HOLD_MS
from tests.core.support import (
    DEADLINE_S,
    KIB,
    append,
    container_of,
    hosted_of,
    maintenance_of,
    make,
    open_store,
    read_all,
    retention_of,
    roll,
    run,
    until,
)

HOUR_MS = 3_600_000
HOLD_AFTER_JUMP_S = HOLD_MS / 1000


async def clean_up(store: Store) -> int:
    """Retention, then what the background does with what it left; how many log files went."""
    await retention_of(store).enforce()
    await maintenance_of(store).index_files()
    await maintenance_of(store).checkpoint()
    return await maintenance_of(store).truncate()


def disk_usage(directory: Path) -> int:
    """Bytes of log files and their indexes; room kept for the next file is not data."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.suffix in (".log", ".idx"))


@pytest.mark.parametrize(
    ("config", "left"),
    [
        ({}, 6),
        ({"retention_ms": 4 * HOUR_MS}, 4),
        ({"retention_ms": 0}, 0),
        ({"retention_bytes": 350}, 4),
        ({"retention_bytes": 300}, 3),
        ({"retention_bytes": 0}, 0),
        ({"retention_bytes": 350, "retention_ms": 2 * HOUR_MS}, 2),
        ({"retention_ms": 0, "retention_bytes": 0, "compact": ""}, 6),
    ],
)
def test_what_leaves(tmp_path: Path, config: dict[str, object], left: int) -> None:
    """Six entries, an hour apart: those beyond the time leave, and those without which enough is left."""

    async def scenario() -> None:
        clock = ManualClock()
        store = await open_store(tmp_path, clock=clock)
        slot = (await make(store, **config)).slot(0)
        for number in range(6):
            await append(slot, b"%100d" % number, timestamp=clock.wall_ms() - (5 - number) * HOUR_MS - 1)
        await clean_up(store)
        assert [b"%100d" % number for number in range(6 - left, 6)] == await read_all(store, slot)
        assert (6 - left, 100 * left) == (slot.start, slot.size_bytes)
        await store.close()

    run(scenario())


@pytest.mark.parametrize("unusable", [-1, 10**15, 2**63 - 1])
def test_entries_that_do_not_say_their_age(tmp_path: Path, unusable: int) -> None:
    """Without a timestamp, or with one far ahead, an entry leaves by its time in the log, not earlier, not never."""

    async def scenario() -> None:
        clock = ManualClock()
        store = await open_store(tmp_path, clock=clock)
        slot = (await make(store, retention_ms=4 * HOUR_MS)).slot(0)
        retention = retention_of(store)
        await append(slot, b"old", timestamp=clock.wall_ms() - 5 * HOUR_MS)
        await append(slot, b"says nothing", timestamp=unusable)
        await append(slot, b"old, too", timestamp=clock.wall_ms() - 5 * HOUR_MS)
        starts = []
        for _ in range(7):
            await retention.enforce()
            starts.append(slot.start)
            clock.advance(HOUR_MS / 1000)
        assert starts == [1, 1, 1, 1, 1, 3, 3]

        await append(slot, b"came later", timestamp=unusable)
        await retention.enforce()
        assert slot.start == 3
        await store.close()

    run(scenario())


def test_a_policy_that_is_replaced_during_the_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is told that entries stay for longer keeps those that were about to leave."""

    async def scenario() -> None:
        clock = ManualClock()
        store = await open_store(tmp_path, clock=clock)
        stream = await make(store, retention_ms=HOUR_MS)
        slot, retention = stream.slot(0), retention_of(store)
        await append(slot, b"old", timestamp=clock.wall_ms() - 2 * HOUR_MS)
        looking, go_on = threading.Event(), threading.Event()
        retained = retention._retained

        def waiting(slots: Sequence[Slot], limits: Sequence[Limits]) -> list[Trim]:
            found = retained(slots, limits)
            looking.set()
            assert go_on.wait(DEADLINE_S)
            return found

        monkeypatch.setattr(retention, "_retained", waiting)
        enforcing = asyncio.create_task(retention.enforce())
        await until(looking.is_set)
        await store.update_stream(stream, config={"retention_ms": str(4 * HOUR_MS)})
        go_on.set()
        assert (await enforcing, slot.start) == (0, 0)
        await store.update_stream(stream, config={"retention_ms": str(HOUR_MS)})
        assert (await retention.enforce(), slot.start) == (1, 1)
        await store.close()

    run(scenario())


def test_age_by_log_file(tmp_path: Path) -> None:
    """After a start, what does not say its age is as old as the log file after its own."""

    async def scenario() -> None:
        clock = ManualClock()
        store = await open_store(tmp_path, clock=clock)
        slot = (await make(store, retention_ms=4 * HOUR_MS)).slot(0)
        await append(slot, b"says nothing", timestamp=-1)
        clock.advance(2 * HOUR_MS / 1000)
        await store.close(clean=False)

        store = await open_store(tmp_path, clock=clock)
        again = store.streams.get("s")
        assert again is not None
        retention = retention_of(store)
        starts = []
        for _ in range(5):
            clock.advance(HOUR_MS / 1000)
            await retention.enforce()
            starts.append(again.slot(0).start)
        assert starts == [0, 0, 0, 0, 1]
        await store.close()

    run(scenario())


def test_files_go_exactly_when_nobody_needs_them(tmp_path: Path) -> None:
    """A log file goes when every slot in it starts behind it and a checkpoint covers it, not before."""

    async def scenario() -> None:
        store = await open_store(tmp_path)
        stream = await make(store, slots=2)
        container = container_of(store)
        await append(stream.slot(1), b"holds the first file")
        for _ in range(4):
            await roll(store, stream.slot(0))
        await clean_up(store)
        await store.hosted(stream.slot(0)).truncate(stream.slot(0), stream.slot(0).durable_end)
        used = disk_usage(tmp_path)
        assert await clean_up(store) == 0

        await store.hosted(stream.slot(1)).truncate(stream.slot(1), 1)
        assert await maintenance_of(store).truncate() == 4
        assert disk_usage(tmp_path) < used / 2
        assert container.files.complete == []
        assert list((tmp_path / "container-0" / "log").glob("*.idx")) == []

        await append(stream.slot(0), b"goes on")
        end = stream.slot(0).end
        await store.close(clean=False)
        store = await open_store(tmp_path)
        recovered = store.streams.get("s")
        assert recovered is not None
        assert await read_all(store, recovered.slot(0)) == [b"goes on"]
        assert (end - 1, end, 1, 1) == (
            recovered.slot(0).start,
            recovered.slot(0).end,
            recovered.slot(1).start,
            recovered.slot(1).end,
        )
        with pytest.raises(OutOfRange):
            await store.hosted(recovered.slot(0)).truncate(recovered.slot(0), end + 1)
        await store.close()

    run(scenario())


def test_a_deleted_stream_gives_its_room_back(tmp_path: Path) -> None:
    """Files that only a deleted stream held go; a stream of the same name begins at zero."""

    async def scenario() -> None:
        store = await open_store(tmp_path)
        stream = await make(store)
        for _ in range(3):
            await roll(store, stream.slot(0))
        await clean_up(store)
        await store.delete_stream(stream)
        assert await clean_up(store) == 3
        again = await make(store)
        assert (again.slot(0).start, await append(again.slot(0), b"new")) == (0, 0)
        assert again.id != stream.id
        metadata = container_of(store).metadata
        await maintenance_of(store).checkpoint()
        assert {again.id} == {stream_id for stream_id, *_ in metadata.slots()}
        await store.close()

    run(scenario())


def test_readers_of_a_file_that_goes(tmp_path: Path) -> None:
    """A read that races with truncation returns what was appended or says that it is gone; never anything else."""

    async def scenario() -> None:
        store = await open_store(tmp_path)
        slot = (await make(store)).slot(0)
        entries: list[bytes] = []
        for _ in range(5):
            entries += await roll(store, slot)
        await maintenance_of(store).index_files()
        reader = hosted_of(store).reader
        reads = [
            asyncio.create_task(reader.read(slot, offset, slot.durable_end, 8 * KIB, True))
            for offset in range(len(entries) - 20)
        ]
        await store.hosted(slot).truncate(slot, slot.durable_end)
        await clean_up(store)
        for offset, result in enumerate(await asyncio.gather(*reads, return_exceptions=True)):
            if not isinstance(result, OutOfRange):
                assert not isinstance(result, BaseException), result
                assert entries[offset] == bytes(result.parts[0])
        await store.close()

    run(scenario())


def test_nothing_leaves_because_of_a_jump(tmp_path: Path) -> None:
    async def scenario() -> None:
        clock = ManualClock()
        store = await open_store(tmp_path, clock=clock)
        slot = (await make(store, retention_ms=HOUR_MS)).slot(0)
        retention = retention_of(store)
        await append(slot, b"kept", timestamp=clock.wall_ms())
        clock.jump_wall(1000 * HOUR_MS)
        assert (await retention.enforce(), slot.start) == (0, 0)
        clock.advance(2 * HOLD_AFTER_JUMP_S)
        assert (await retention.enforce(), slot.start) == (1, 1)
        await store.close()

    run(scenario())


def test_nothing_leaves_because_of_a_jump_between_two_runs(tmp_path: Path) -> None:
    """A machine that comes up with a wrong date gets an hour to mend it before anything expires by it."""

    async def scenario() -> None:
        clock = ManualClock()
        store = await open_store(tmp_path, clock=clock)
        await append((await make(store, retention_ms=HOUR_MS)).slot(0), b"kept", timestamp=clock.wall_ms())
        await store.close()
        clock.jump_wall(1000 * HOUR_MS)
        store = await open_store(tmp_path, clock=clock)
        stream = store.streams.get("s")
        assert stream is not None
        retention = retention_of(store)
        assert (await retention.enforce(), stream.slot(0).start) == (0, 0)
        clock.advance(HOLD_AFTER_JUMP_S)
        assert (await retention.enforce(), stream.slot(0).start) == (1, 1)
        await store.close()

    run(scenario())


def test_idle_writers_are_forgotten(tmp_path: Path) -> None:
    """A writer that was not heard of for a day may begin with any sequence again, also after a restart."""

    async def scenario() -> None:
        clock = ManualClock()
        store = await open_store(tmp_path, clock=clock)
        slot = (await make(store)).slot(0)
        await append(slot, os.urandom(10), writer=(7, 0, 0))
        retention = retention_of(store)
        clock.advance(86_401)
        await retention.enforce()
        clock.advance(HOLD_AFTER_JUMP_S + 1)
        await retention.enforce()
        assert container_of(store).check_writer(slot, 7, 0, 55, 1) is None
        await append(slot, b"x")
        await store.close()
        store = await open_store(tmp_path, clock=clock)
        recovered = store.streams.get("s")
        assert recovered is not None
        assert container_of(store).check_writer(recovered.slot(0), 7, 0, 55, 1) is None
        await store.close()

    run(scenario())
