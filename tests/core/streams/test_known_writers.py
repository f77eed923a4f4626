"""The bound on the writers that all slots know: who is forgotten for it, who is refused, what a crash brings back."""

from __future__ import annotations

import asyncio
import gc
import shutil
import tempfile
import time
from collections.abc import Awaitable, Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from core.clock import ManualClock
from core.config import StoreConfig
from core.container.forgetting import AGE_MS, SILENT_MS_MIN, forget_expired, make_room
from core.errors import TooManyWriters
from core.store import Store
from core.streams.known_writers import ROOM_SHARE
from core.streams.live import Slot
from core.streams.writers import Duplicate
from tests.core.support import (
    SMALL,
    Gate,
    append,
    append_in_transaction,
    begin_append,
    container_of,
    crash_copy,
    end_of,
    fast_directory,
    maintenance_of,
    make,
    open_store,
    owner_of,
    run,
    until,
)

pytestmark = pytest.mark.slow

T = TypeVar("T")

LIMIT: Final = 20
BOUNDED: Final = replace(SMALL, writers_max=LIMIT)
EXPIRED_S: Final = SMALL.writer_expiration_ms / 1000 + 1
TURN_S_MAX: Final = 0.05
SILENT_S: Final = SILENT_MS_MIN / 1000


async def write(slot: Slot, writer_id: int, sequence: int = 0) -> int:
    """Admit a batch as its receiver does. Raises TooManyWriters."""
    assert owner_of(slot).check_writer(slot, writer_id, 0, sequence, 1) is None
    return await append(slot, b"x", writer=(writer_id, 0, sequence))


async def opened(directory: Path, clock: ManualClock, config: StoreConfig = BOUNDED) -> tuple[Store, Slot]:
    store = await open_store(directory, config, clock)
    return store, (await make(store)).slot(0)


async def room_made(store: Store) -> int:
    return await make_room(store.known_writers, [one.container for one in store.containers.values()])


def test_a_new_one_waits_and_known_ones_go_on(tmp_path: Path) -> None:
    """At the bound a slot takes no writer that it does not know; ten minutes of silence make room."""

    async def scenario() -> None:
        clock = ManualClock()
        store, slot = await opened(tmp_path, clock)
        for writer_id in range(LIMIT):
            await write(slot, writer_id)

        with pytest.raises(TooManyWriters):
            await write(slot, LIMIT)
        assert await room_made(store) == 0
        clock.advance(1)
        await write(slot, 0, 1)
        clock.advance(SILENT_S - 1)
        await write(slot, 1, 1)
        assert await room_made(store) == LIMIT - int(LIMIT * ROOM_SHARE)
        await write(slot, LIMIT)

        assert {0, 1} <= set(slot.writers or ())
        await store.close()

    run(scenario())


def test_busy_ones_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer with an open transaction, or with something in flight, is not forgotten, however silent."""

    async def scenario() -> None:
        clock = ManualClock()
        store, slot = await opened(tmp_path, clock)
        await append_in_transaction(slot, b"x", (100, 0, 0))
        for writer_id in range(LIMIT - 2):
            await write(slot, writer_id)
        gate = Gate(monkeypatch)
        begin_append(slot, b"x", writer=(200, 0, 0))
        clock.advance(10 * SMALL.writer_expiration_ms / 1000)
        container = container_of(store)
        await forget_expired(container, container.trusted.now())

        assert {100, 200} == set(slot.writers or ())
        gate.open.set()
        await container.all_durable()
        await store.close()

    run(scenario())


def test_those_that_stay_take_nobody_elses_place(tmp_path: Path) -> None:
    """If the longest silent writers have transactions open, the next longest silent ones make room."""

    async def scenario() -> None:
        clock = ManualClock()
        store, slot = await opened(tmp_path, clock)
        for writer_id in range(LIMIT - int(LIMIT * ROOM_SHARE)):
            await append_in_transaction(slot, b"x", (100 + writer_id, 0, 0))
        clock.advance(60)
        while store.known_writers.count < LIMIT:
            await write(slot, store.known_writers.count)
        clock.advance(SILENT_S)

        assert await room_made(store) == LIMIT - int(LIMIT * ROOM_SHARE)
        assert {100, 101, 102, 103} <= set(slot.writers or ())
        await store.close()

    run(scenario())


def test_the_end_of_a_transaction_is_never_refused(tmp_path: Path) -> None:
    """Markers are appended at the bound, too."""

    async def scenario() -> None:
        store, slot = await opened(tmp_path, ManualClock())
        await append_in_transaction(slot, b"x", (100, 0, 0))
        for writer_id in range(LIMIT - 1):
            await write(slot, writer_id)
        await container_of(store).end_transactions([end_of(slot, 100, committed=True)], ())

        assert slot.stable_end == slot.durable_end
        await store.close()

    run(scenario())


def test_those_of_a_deleted_stream_are_not_counted(tmp_path: Path) -> None:
    """Their room is free at once, and their memory is freed in steps."""

    async def scenario() -> None:
        store, slot = await opened(tmp_path, ManualClock())
        store.start_retention()
        for writer_id in range(LIMIT):
            await write(slot, writer_id)
        await store.delete_stream(slot.stream)

        assert store.known_writers.count == 0
        await until(lambda: not store.known_writers.unfreed)
        await store.close()

    run(scenario())


def test_a_lower_bound_than_before(tmp_path: Path) -> None:
    """A start takes up all that there is, refuses new ones, and forgets as soon as they are silent for long."""

    async def scenario() -> None:
        clock = ManualClock()
        store, slot = await opened(tmp_path, clock)
        for writer_id in range(LIMIT):
            await write(slot, writer_id)
        await store.close()

        store = await open_store(tmp_path, replace(SMALL, writers_max=10), clock)
        slot = next(iter(store.streams)).slot(0)
        assert store.known_writers.count == LIMIT
        for writer_id in range(LIMIT):
            await write(slot, writer_id, 1)
        with pytest.raises(TooManyWriters):
            await write(slot, LIMIT)
        clock.advance(SILENT_S)
        assert await room_made(store) == LIMIT - 8
        await store.close()

    run(scenario())


def test_a_checkpoint_of_many_writers_in_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Appends, new writers and forgetting between the steps of a checkpoint: a crash after it brings all back."""
    monkeypatch.setattr("core.turns.TURN_S", 0)
    many = replace(SMALL, writers_max=100_000, log_file_bytes=4 << 20)

    async def scenario() -> None:
        clock = ManualClock()
        store, slot = await opened(tmp_path / "first", clock, many)
        container = container_of(store)
        for writer_id in range(3_000):
            begin_append(slot, b"x", writer=(writer_id, 0, 0))
        await container.all_durable()
        checkpoint = asyncio.create_task(maintenance_of(store).checkpoint())
        sequences = dict.fromkeys(range(3_000), 0)
        steps = 0
        while not checkpoint.done():
            steps += 1
            for writer_id in (*range(steps, 3_000, 300), 3_000 + steps):
                sequences[writer_id] = sequences.get(writer_id, -1) + 1
                begin_append(slot, b"x", writer=(writer_id, 0, sequences[writer_id]))
            if steps == 3:
                slot.forget_writers(range(2_990, 3_000))
            await asyncio.sleep(0)
        await checkpoint
        await container.all_durable()
        copy = await crash_copy(store, tmp_path / "copy")
        await store.close(clean=False)

        assert steps > 10
        again = await open_store(copy, many, clock)
        known = next(iter(again.streams)).slot(0).writers or {}
        for writer_id in sequences.keys() - set(range(2_990, 3_000)):
            state = known[writer_id]
            assert state.check(writer_id, 0, sequences[writer_id] + 1, 1) is None
            assert isinstance(state.check(writer_id, 0, sequences[writer_id], 1), Duplicate)
        await again.close()

    run(scenario())


@pytest.mark.slow
def test_no_turn_is_long(tmp_path: Path) -> None:
    """A checkpoint, expiry, making room: with 100,000 writers in one slot nothing keeps the loop for 50 ms."""
    many = replace(SMALL, writers_max=100_000, log_file_bytes=64 << 20)

    async def longest_turn(work: Awaitable[object]) -> float:
        """In processor time of this thread, so other work on the machine does not count."""
        longest, running = 0.0, asyncio.ensure_future(work)
        while not running.done():
            began_s = time.thread_time()
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - began_s)
        await running
        return longest

    async def scenario() -> None:
        clock = ManualClock()
        store, slot = await opened(tmp_path, clock, many)
        container = container_of(store)
        for writer_id in range(100_000):
            begin_append(slot, b"x", writer=(writer_id, 0, 0))
            if writer_id % 1_000 == 0:
                await container.all_durable()
        await container.all_durable()

        assert await longest_turn(maintenance_of(store).checkpoint()) < TURN_S_MAX
        assert maintenance_of(store).position.lsn > 100_000
        clock.advance(SILENT_S)
        assert await longest_turn(room_made(store)) < TURN_S_MAX
        assert store.known_writers.count == 80_000
        clock.advance(2 * SMALL.writer_expiration_ms / 1000)
        assert await longest_turn(forget_expired(container, container.trusted.now())) < TURN_S_MAX
        assert not slot.writers
        await store.close()

    gc.disable()
    try:
        run(scenario())
    finally:
        gc.enable()


@dataclass
class Known:
    """The model's state of one writer in one slot."""

    last: int
    used_s: float
    is_open: bool = False


class KnownWritersMachine(RuleBasedStateMachine):
    """Writers come, go on, fall silent and are forgotten, with checkpoints and crashes, against a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.home = Path(tempfile.mkdtemp(dir=fast_directory()))
        self.clock = ManualClock()
        self.model: dict[tuple[int, int], Known] = {}
        self.forgotten: set[tuple[int, int]] = set()  # since the last checkpoint: a crash may bring them back
        self.store = self.run(self._begin())

    async def _begin(self) -> Store:
        store = await open_store(self.home, BOUNDED, self.clock)
        await make(store, slots=3)
        return store

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        async def bounded() -> T:
            async with asyncio.timeout(30):
                return await main

        return self.runner.run(bounded())

    def teardown(self) -> None:
        self.run(self.store.close())
        self.runner.close()
        shutil.rmtree(self.home)

    def slot(self, number: int) -> Slot:
        return next(iter(self.store.streams)).slot(number)

    @invariant()
    def all_are_counted(self) -> None:
        known = {(n, writer_id): state for n in range(3) for writer_id, state in (self.slot(n).writers or {}).items()}
        assert self.store.known_writers.count == len(known)
        assert self.model.keys() == known.keys()
        for place, model in self.model.items():
            assert known[place].batches[-1].last_sequence == model.last

    @rule(number=st.integers(0, 2), writer_id=st.integers(0, 15), jump=st.sampled_from([0, 0, 0, 70]))
    def write(self, number: int, writer_id: int, jump: int) -> None:
        """One that is not known may begin anywhere, if there is room."""
        place = number, writer_id
        model = self.model.get(place)
        sequence = jump if model is None else model.last + 1
        if model is None and len(self.model) >= LIMIT:
            with pytest.raises(TooManyWriters):
                self.run(write(self.slot(number), writer_id, sequence))
            return
        self.run(write(self.slot(number), writer_id, sequence))
        self.model[place] = Known(sequence, self.clock.monotonic_s(), model is not None and model.is_open)

    @rule(number=st.integers(0, 2), first=st.integers(0, 10))
    def many_come(self, number: int, first: int) -> None:
        for writer_id in range(first, LIMIT):
            if (number, writer_id) not in self.model:
                self.write(number, writer_id, 0)

    @rule(number=st.integers(0, 2), writer_id=st.integers(0, 15))
    def write_in_transaction(self, number: int, writer_id: int) -> None:
        model = self.model.get((number, writer_id))
        if model is not None:
            self.run(append_in_transaction(self.slot(number), b"x", (writer_id, 0, model.last + 1)))
            self.model[number, writer_id] = Known(model.last + 1, self.clock.monotonic_s(), is_open=True)

    @rule(seconds=st.sampled_from([1, 9, 60, 400, SILENT_S, SILENT_S, EXPIRED_S]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def make_room(self) -> None:
        """As few as make room, the longest silent first, none that was heard of lately or has a transaction open."""
        self.run(room_made(self.store))
        kept = {(n, writer_id) for n in range(3) for writer_id in self.slot(n).writers or ()}
        gone = {place: self.model[place] for place in self.model.keys() - kept}
        now_s = self.clock.monotonic_s()

        def age(known: Known) -> int:
            return int((now_s - known.used_s) * 1000) // AGE_MS

        free = [known for known in self.model.values() if not known.is_open and age(known) * AGE_MS >= SILENT_MS_MIN]
        wanted = max(0, len(self.model) - int(LIMIT * ROOM_SHARE)) if len(self.model) > LIMIT * 0.9 else 0
        assert not any(known.is_open for known in gone.values())
        assert len(gone) == min(wanted, len(free))
        assert sorted(map(age, gone.values())) == sorted(map(age, free))[len(free) - len(gone) :]
        self._forget(gone.keys())

    @rule()
    def expire(self) -> None:
        container = container_of(self.store)
        self.run(forget_expired(container, container.trusted.now()))
        limit_s = self.clock.monotonic_s() - BOUNDED.writer_expiration_ms / 1000
        self._forget([place for place, known in self.model.items() if known.used_s < limit_s and not known.is_open])

    def _forget(self, places: Any) -> None:
        for place in list(places):
            del self.model[place]
            self.forgotten.add(place)

    @rule()
    def checkpoint(self) -> None:
        self.run(append(self.slot(0), b"x"))
        self.run(maintenance_of(self.store).checkpoint())
        self.forgotten.clear()

    @rule()
    def crash(self) -> None:
        """All known writers are known again, and some of those forgotten since the last checkpoint."""
        self.run(self.store.close(clean=False))
        self.store = self.run(open_store(self.home, BOUNDED, self.clock))
        for number in range(3):
            for writer_id, state in (self.slot(number).writers or {}).items():
                place = number, writer_id
                if place not in self.model:
                    assert place in self.forgotten
                    self.model[place] = Known(state.batches[-1].last_sequence, 0)
                used_s = self.clock.monotonic_s() - self.store.trusted.age_ms(state.last_use_ms) / 1000
                self.model[place].used_s = used_s


KnownWritersMachine.TestCase.settings = settings(max_examples=20, stateful_step_count=50, deadline=None)


@pytest.mark.slow
class TestKnownWriters(KnownWritersMachine.TestCase):
    """Run by hypothesis."""
