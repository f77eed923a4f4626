"""A slot that moves while a store is slow: what is refused is bounded, and a freeze that is taken back has changed
nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest

from core import freezing, moving
from core.applied.tables import Put
from core.clock import ManualClock
from core.container.arrivals import arrival_put
from core.container.container import Container
from core.copying import Move
from core.errors import SlotMoves, StorageFull
from core.freezing import Freezes, Left
from core.log.records import Operation
from core.store import Store
from core.streams.handing import begun, tiered_of, with_copied
from core.streams.live import Slot, Stream
from core.streams.saving import encode_slot
from core.streams.state import STREAMS_TABLE, stream_key
from core.streams.writers import Duplicate
from tests.core.cluster.several import check_copies, open_several
from tests.core.support import Gate, append, begin_append, copy_files, owner_of, read_all, run, until
from tests.core.test_moving_machine import PLACE, World

pytestmark = pytest.mark.slow

NUMBER = 1
WRITERS = (7, 8)
TICK_S = 0.0001
SLACK_S = 0.02
"""What goes by while a freeze that has come to its limit is taken back."""


class Load:
    """Idempotent writers that try again what is refused: each entry says whose it is, and which."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.sent = dict.fromkeys(WRITERS, 0)
        self.order: list[bytes] = []  # as it was acknowledged
        self.refused = 0
        self.is_over = False

    @contextlib.asynccontextmanager
    async def going_on(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._write(writer)) for writer in WRITERS]
        try:
            yield
        finally:
            self.is_over = True
            await asyncio.gather(*tasks)

    async def _write(self, writer: int) -> None:
        while not self.is_over:
            payload = b"%d of %d" % (self.sent[writer], writer)
            try:
                await append(self._stream.slot(NUMBER), payload, writer=(writer, 0, self.sent[writer]))
            except SlotMoves:
                self.refused += 1
            except StorageFull:
                pass  # the test's log files are small
            else:
                self.sent[writer] += 1
            await asyncio.sleep(0)

    @property
    def count(self) -> int:
        return sum(self.sent.values())

    async def check(self, store: Store, stream: Stream) -> None:
        """Each writer's entries are there once, in its order, and its sequence goes on."""
        slot = stream.slot(NUMBER)
        found = await read_all(store, slot)
        for writer, sent in self.sent.items():
            its = [payload for payload in found if payload.endswith(b" of %d" % writer)]
            assert its == [b"%d of %d" % (n, writer) for n in range(sent)]
            assert isinstance(owner_of(slot).check_writer(slot, writer, 0, sent - 1, 1), Duplicate)
            assert owner_of(slot).check_writer(slot, writer, 0, sent, 1) is None
        assert len(found) == self.count


async def opened(directory: Path, clock: ManualClock | None = None) -> tuple[Store, Stream, Container, Container]:
    """A store with a stream, the source of a move of its second slot, and a target that does not decide about it."""
    store = await open_several(directory, clock=clock)
    stream = await store.create_stream("s", slots=4)
    source = stream.slot(NUMBER).container_id
    target = next(one for one in store.containers if one not in (source, stream.state.container))
    return store, stream, store.containers[source].container, store.containers[target].container


def test_a_freeze_that_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The target's disk stands still whenever the slot is frozen, three times: appends go on each time though it still
    does, and the copying once it does not. No writer's sequence has a gap, and nothing of it is there twice."""
    monkeypatch.setattr(freezing, "FREEZE_S", 0.05)
    monkeypatch.setattr(freezing, "PAUSE_S", 0.0)
    gate = Gate(monkeypatch)
    gate.open.set()
    gate.of = "nowhere yet"

    async def scenario() -> None:
        store, stream, source, target = await opened(tmp_path)
        gate.of = str(target.directory)
        load, closed = Load(stream), 0
        freeze, pass_over = source.freeze, moving.pass_over

        async def behind_all(move: Move) -> float:
            assert target.is_all_durable, "an entry would lie behind a state that sets the slot's end back"
            return await pass_over(move)

        monkeypatch.setattr(moving, "pass_over", behind_all)

        def freeze_and_stand_still(slot: Slot, to: int) -> None:
            nonlocal closed
            if closed < 3:
                closed += 1
                gate.open.clear()
            freeze(slot, to)

        monkeypatch.setattr(source, "freeze", freeze_and_stand_still)
        async with load.going_on():
            move = asyncio.create_task(store.move_slot(stream, NUMBER, target.id))
            for number in range(1, 4):
                await until(lambda number=number: closed == number and load.refused > 0)  # type: ignore[misc]
                await until(lambda: not source.is_leaving(stream.slot(NUMBER)))
                await until(lambda wanted=load.count + 6: load.count > wanted)
                load.refused = 0
                gate.open.set()
            await move
            assert stream.slot(NUMBER).container_id == target.id
            await until(lambda wanted=load.count + 6: load.count > wanted)
        await load.check(store, stream)
        check_copies(store)
        await store.close(clean=False)
        store = await open_several(tmp_path)
        (stream,) = store.streams
        await load.check(store, stream)
        await store.close()

    run(scenario())


class LogicalTime:
    """The time of a loop and of a store: some of it goes by whenever the loop turns."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self.now_s = 0.0
        asyncio.get_running_loop().time = lambda: self.now_s  # type: ignore[method-assign]

    async def go_by(self) -> None:
        while True:
            self.now_s += TICK_S
            self._clock.advance(TICK_S)
            await asyncio.sleep(0)


class Watched:
    """The freezes of a slot's moves: how long each was, up to the decision, and how long it was allowed to be."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, store: Store, source: Container, time: LogicalTime) -> None:
        self.took_s: list[float] = []
        self.limits_s: list[float] = []
        began_s = 0.0
        freeze, thaw, decide = source.freeze, source.thaw, store.decide_move
        limit_s = Freezes.limit_s

        def frozen(slot: Slot, to: int) -> None:
            nonlocal began_s
            began_s = time.now_s
            freeze(slot, to)

        def thawed(slot: Slot) -> None:
            if len(self.took_s) < len(self.limits_s):
                self.took_s.append(time.now_s - began_s)
            thaw(slot)

        async def decided(*arguments) -> None:  # type: ignore[no-untyped-def]
            self.took_s.append(time.now_s - began_s)
            await decide(*arguments)

        def allowed(freezes: Freezes, left: Left, pass_s: float) -> float | None:
            found = limit_s(freezes, left, pass_s)
            if found is not None:
                self.limits_s.append(found)
            return found

        monkeypatch.setattr(source, "freeze", frozen)
        monkeypatch.setattr(source, "thaw", thawed)
        monkeypatch.setattr(store, "decide_move", decided)
        monkeypatch.setattr(Freezes, "limit_s", allowed)

    def check(self) -> None:
        assert len(self.took_s) == len(self.limits_s) > 0
        assert all(took <= limit + SLACK_S for took, limit in zip(self.took_s, self.limits_s, strict=True))


def slow_down(monkeypatch: pytest.MonkeyPatch, target: Container, random: Random) -> None:
    """The target's log answers late, sometimes by so much that no freeze could wait for it."""
    update, all_durable = target.update, target.all_durable

    def late_s() -> float:
        return random.choice((0.01, 0.02, 0.05, 0.1, 0.2, 0.5))

    async def updated(*operations: Operation) -> None:
        await asyncio.sleep(late_s())
        await update(*operations)

    async def durable() -> None:
        await asyncio.sleep(late_s())
        await all_durable()

    monkeypatch.setattr(target, "update", updated)
    monkeypatch.setattr(target, "all_durable", lambda: asyncio.ensure_future(durable()))


@pytest.mark.parametrize("seed", range(3))
def test_a_store_that_is_slow_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """No freeze is longer than its limit, and the slot moves. The time is the test's own."""

    async def scenario() -> None:
        clock = ManualClock()
        store, stream, source, target = await opened(tmp_path, clock)
        load, time = Load(stream), LogicalTime(clock)
        going_by = asyncio.create_task(time.go_by())
        watched = Watched(monkeypatch, store, source, time)
        slow_down(monkeypatch, target, Random(seed))
        async with load.going_on():
            await until(lambda: load.count > 20)
            moved = await store.move_slot(stream, NUMBER, target.id)
        watched.check()
        assert moved.frozen_s >= watched.took_s[-1] - SLACK_S
        await load.check(store, stream)
        going_by.cancel()
        await store.close(clean=False)

    run(scenario())


@pytest.mark.parametrize("is_cut_off", [False, True])
def test_it_takes_appends_before_its_target_has_synced_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_cut_off: bool
) -> None:
    """The slot has moved by the registry, and the target's log was given that: entries lie behind it there, and are
    acknowledged with it. A kill in between loses nothing that was acknowledged."""
    gate = Gate(monkeypatch)
    gate.open.set()
    gate.of = "nowhere yet"

    async def scenario() -> None:
        store, stream, _, target = await opened(tmp_path / "store")
        gate.of = str(target.directory)
        for n in range(3):
            await append(stream.slot(NUMBER), b"%d" % n, writer=(9, 0, n))
        change = store.registry.change

        async def stand_still_then(*arguments) -> None:  # type: ignore[no-untyped-def]
            await change(*arguments)
            gate.open.clear()

        monkeypatch.setattr(store.registry, "change", stand_still_then)
        move = asyncio.create_task(store.move_slot(stream, NUMBER, target.id))
        await until(lambda: stream.slot(NUMBER).container_id == target.id)
        base, outcome = begin_append(stream.slot(NUMBER), b"3", writer=(9, 0, 3))
        assert base == 3
        await asyncio.sleep(0)
        assert not outcome.future.done()
        assert not move.done()
        if is_cut_off:
            await asyncio.to_thread(copy_files, store, tmp_path / "copy")
        gate.open.set()
        await outcome.future
        await move
        check_copies(store)
        assert target.outcomes.beside == {}
        await check(store, stream, target.id, 4)
        await store.close(clean=False)
        store = await open_several(tmp_path / ("copy" if is_cut_off else "store"))
        (stream,) = store.streams
        check_copies(store)
        await check(store, stream, target.id, 3 if is_cut_off else 4)
        await store.close()

    async def check(store: Store, stream: Stream, target: int, acknowledged: int) -> None:
        slot = stream.slot(NUMBER)
        assert slot.container_id == target
        found = await read_all(store, slot)
        assert len(found) in (acknowledged, 4)
        assert found == [b"%d" % n for n in range(len(found))]
        assert isinstance(owner_of(slot).check_writer(slot, 9, 0, len(found) - 1, 1), Duplicate)
        assert owner_of(slot).check_writer(slot, 9, 0, len(found), 1) is None

    run(scenario())


def test_an_older_copy_that_is_applied_late() -> None:
    """A growth is on its way to the target's log when the slot comes behind it: what is applied of the growth lets go
    of nothing, and the slot is the target's once its copy is applied."""
    world = World()
    source = world.owner
    target = world.containers[1 - source.id]
    before = source.slot
    assert before is not None
    source.write(0)
    target.write(arrival_put(PLACE, begun(before, 2)))
    target.write(0)
    arrived = target.slot
    assert arrived is not None
    target.write(arrival_put(PLACE, with_copied(encode_slot(before), arrived, (), tiered_of(arrived))))
    stream = arrived.stream
    grown = world.decided.grown(8, 0, (source.id, target.id))
    world.decided = grown.moved(PLACE[1], target.id, 0, "it is wanted there")
    stream.go_by(world.decided, target.id)
    target.outcomes.come(stream)
    target.outcomes.come(stream)  # as for another slot of the stream
    assert stream.slot(PLACE[1]) is arrived
    target.write(Put(STREAMS_TABLE, stream_key(stream.id), grown.encode()))
    assert not arrived.has_moved
    assert target.slot is arrived
    for one in world.containers:
        world.follow(one)
    assert stream.slot(PLACE[1]) is arrived
    assert (arrived.has_moved, before.has_moved) == (False, True)
    assert (target.slot, source.slot) == (arrived, None)
    assert not target.outcomes.beside
    assert not source.outcomes.beside
