"""Many slots go at once: their watchers hear of it in steps, and their writers stop counting in steps."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from core.clock import ManualClock
from core.streams import known_writers, telling
from core.streams.known_writers import HasWriters, KnownWriters
from core.streams.live import Slot, Stream
from tests.core.streams.test_known_writers import write
from tests.core.support import SMALL, open_store, run, until

AT_ONCE = 10
SLOTS = 36


class Watcher:
    """Hears of slots, and notes how many changes it heard of in each turn of the loop."""

    def __init__(self) -> None:
        self.told: list[Slot] = []
        self.by_turn = [0]

    def slot_appended(self, slot: Slot, size: int) -> None: ...

    def slot_settled(self, slot: Slot, size: int) -> None: ...

    def slot_changed(self, slot: Slot) -> None:
        assert slot.stream.deleted
        self.told.append(slot)
        self.by_turn[-1] += 1

    async def count_turns(self) -> None:
        while True:
            await asyncio.sleep(0)
            self.by_turn.append(0)


@contextmanager
def counting(watcher: Watcher) -> Iterator[None]:
    task = asyncio.get_running_loop().create_task(watcher.count_turns())
    try:
        yield
    finally:
        task.cancel()


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telling, "TOLD_AT_ONCE", AT_ONCE)
    monkeypatch.setattr(known_writers, "SLOTS_AT_ONCE", AT_ONCE)


def slots_of(stream: Stream) -> list[Slot]:
    return [stream.slot(number) for number in range(stream.slot_count)]


def test_watchers_of_a_deleted_stream_hear_in_steps(tmp_path: Path) -> None:
    """All of them hear, so many in one turn."""

    async def scenario() -> None:
        store = await open_store(tmp_path, SMALL, ManualClock())
        slots = slots_of(await store.create_stream("s", slots=SLOTS))
        watcher = Watcher()
        for slot in slots:
            slot.watch(watcher)
        with counting(watcher):
            await store.delete_stream(slots[0].stream)
            await until(lambda: set(watcher.told) == set(slots))
        assert max(watcher.by_turn) <= 2 * AT_ONCE  # of the streams that are shown, and of the container's
        await store.close()

    run(scenario())


def test_streams_that_go_together_share_the_steps(tmp_path: Path) -> None:
    """However many go in one turn of the loop."""

    async def scenario() -> None:
        store = await open_store(tmp_path, SMALL, ManualClock())
        streams = [await store.create_stream(f"s{number}", slots=4) for number in range(12)]
        slots = [slot for stream in streams for slot in slots_of(stream)]
        watcher = Watcher()
        for slot in slots:
            slot.watch(watcher)
        with counting(watcher):
            await asyncio.gather(*map(store.delete_stream, streams))
            await until(lambda: set(watcher.told) == set(slots))
        assert max(watcher.by_turn) <= 2 * AT_ONCE
        await store.close()

    run(scenario())


def test_a_slot_with_many_watchers(tmp_path: Path) -> None:
    """It counts as many: a turn ends behind it."""

    async def scenario() -> None:
        store = await open_store(tmp_path, SMALL, ManualClock())
        slots = slots_of(await store.create_stream("s", slots=3))
        watchers = [Watcher() for _ in range(AT_ONCE)]
        for slot in slots:
            for watcher in watchers:
                slot.watch(watcher)
        with counting(watchers[-1]):
            await store.delete_stream(slots[0].stream)
            await until(lambda: all(set(watcher.told) == set(slots) for watcher in watchers))
        assert max(watchers[-1].by_turn) <= 2
        await store.close()

    run(scenario())


def test_a_watcher_that_leaves_before_its_turn(tmp_path: Path) -> None:
    """It hears nothing more, and the others do."""

    class Leaving(Watcher):
        def slot_changed(self, slot: Slot) -> None:
            super().slot_changed(slot)
            for one in slots_of(slot.stream):
                one.unwatch(self)

    async def scenario() -> None:
        store = await open_store(tmp_path, SMALL, ManualClock())
        slots = slots_of(await store.create_stream("s", slots=SLOTS))
        leaving, staying = Leaving(), Watcher()
        for slot in slots:
            slot.watch(leaving)
            slot.watch(staying)
        await store.delete_stream(slots[0].stream)
        await until(lambda: set(staying.told) == set(slots))
        assert len(leaving.told) == 1
        await store.close()

    run(scenario())


def test_a_watcher_that_fails(tmp_path: Path) -> None:
    """The others hear of that slot and of their own, also in the next steps, and of streams that go later; and what is
    on its way to the log comes to its end."""

    class Failing(Watcher):
        def slot_changed(self, slot: Slot) -> None:
            raise RuntimeError("a defect")

    async def scenario() -> None:
        store = await open_store(tmp_path, SMALL, ManualClock())
        watcher = Watcher()
        for name in ("s", "t"):
            slots = slots_of(await store.create_stream(name, slots=SLOTS))
            for number in (0, AT_ONCE + 1):  # at once, and in a later turn; and before the other
                slots[number].watch(Failing())
            for slot in slots:
                slot.watch(watcher)
            await store.delete_stream(slots[0].stream)
            await until(lambda slots=slots: set(slots) <= set(watcher.told))  # type: ignore[misc]
        await store.close()

    run(scenario())


def test_writers_of_a_deleted_stream_stop_counting_in_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that still writes then, as its batch was on its way, counts no more either."""
    turns = Watcher()
    slot_gone = KnownWriters.slot_gone

    def noted(known: KnownWriters, slot: HasWriters) -> None:
        turns.by_turn[-1] += 1
        slot_gone(known, slot)

    monkeypatch.setattr(KnownWriters, "slot_gone", noted)

    async def scenario() -> None:
        store = await open_store(tmp_path, SMALL, ManualClock())
        store.start_retention()
        slots = slots_of(await store.create_stream("s", slots=SLOTS))
        for slot in slots:
            await write(slot, 1)
        other = (await store.create_stream("other", slots=1)).slot(0)
        await write(other, 1)
        assert store.known_writers.count == SLOTS + 1
        with counting(turns):
            await store.delete_stream(slots[0].stream)
            for slot in slots:
                slot.mark_transaction(2, 0, slot.end, 0, committed=True)  # of a marker that was in the log by then
            await until(lambda: store.known_writers.count == 1)
        assert max(turns.by_turn) <= AT_ONCE
        assert sum(turns.by_turn) == SLOTS
        await store.close()

    run(scenario())
