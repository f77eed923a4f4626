"""The collector: what dies while it looks is found as well, and what has come back by its turn is left alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from core.log.records import Put
from core.store import Store
from core.streams.live import Slot
from core.tiering.rows import RUNS_TABLE, RunRow
from core.tiering.upkeep.collector import Collector
from tests.core.support import KIB, container_of, hosted_of, run, until
from tests.core.tiering.support import AGEING, fill, runs_of, tiered_store
from tier2.storage import Unavailable

pytestmark = pytest.mark.slow


def collector_of(store: Store) -> Collector:
    tier = hosted_of(store).tier
    assert tier is not None
    return tier.collector


class Gate:
    """Stops the collector before it removes the first runs that it has found."""

    def __init__(self, collector: Collector, patch: pytest.MonkeyPatch) -> None:
        self.reached, self.open = asyncio.Event(), asyncio.Event()
        self._remove = collector._remove
        patch.setattr(collector, "_remove", self._removing)

    async def _removing(self, dead: Sequence[RunRow]) -> None:
        if dead:
            self.reached.set()
            await self.open.wait()
        await self._remove(dead)


async def two_runs(store: Store) -> Slot:
    slot = (await store.create_stream("s", slots=1)).slot(0)
    for _ in range(2):
        await fill(slot, KIB)
        await until(lambda: slot.tiered_end == slot.end)
    await until(lambda: not hosted_of(store).catalog.pending)
    return slot


def test_a_start_that_moves_during_the_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records are deleted while the runs of an earlier deletion are removed: their objects go, too, without a third."""

    async def scenario() -> None:
        async with tiered_store(tmp_path, AGEING) as store:
            slot = await two_runs(store)
            first, second = runs_of(store, slot)
            gate = Gate(collector_of(store), monkeypatch)
            await store.hosted(slot).truncate(slot, first.end)
            await gate.reached.wait()
            await store.hosted(slot).truncate(slot, second.end)
            gate.open.set()
            await until(lambda: not runs_of(store, slot))

    run(scenario())


def test_a_slot_that_leaves_again_during_the_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the second stay of a slot has left goes, too: else the slot could not come back."""

    async def scenario() -> None:
        async with tiered_store(tmp_path, AGEING) as store:
            slot, container = await two_runs(store), container_of(store)
            known = runs_of(store, slot)[0]
            place = slot.stream.id, 1  # it has one slot, so this one is elsewhere
            left = [replace(known, slot=1, first=first, end=first + 1) for first in (0, 1)]
            gate = Gate(collector_of(store), monkeypatch)
            for row in left:
                await container.update(Put(RUNS_TABLE, row.key, row.encode()))
                container.departed[place] = None
                await gate.reached.wait()
            gate.open.set()
            await until(lambda: not list(hosted_of(store).catalog.iter_runs(*place, -1)))

    run(scenario())


def test_a_failure_leaves_it_to_the_next_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look that fails has taken nothing off the list of what is to be looked at."""

    async def scenario() -> None:
        async with tiered_store(tmp_path, AGEING) as store:
            slot, collector = await two_runs(store), collector_of(store)
            remove, failed = collector._remove, asyncio.Event()

            async def failing(dead: Sequence[RunRow]) -> None:
                if dead and not failed.is_set():
                    failed.set()
                    raise Unavailable("the first time")
                await remove(dead)

            monkeypatch.setattr(collector, "_remove", failing)
            monkeypatch.setattr(collector._background, "_retry_s", 0.01)
            await store.hosted(slot).truncate(slot, slot.end)
            await failed.wait()
            await until(lambda: not runs_of(store, slot))

    run(scenario())


def test_a_stream_that_comes_back_before_its_turn(tmp_path: Path) -> None:
    """The collector has found runs of a stream that is gone, and waits for its turn: by then the stream is here again,
    and its runs are alive."""

    async def scenario() -> None:
        async with tiered_store(tmp_path, AGEING) as store:
            slot, container, collector = await two_runs(store), container_of(store), collector_of(store)
            row = replace(runs_of(store, slot)[0], stream_id=slot.stream.id + 1)
            turn = collector._context.changing
            await turn.acquire()
            await container.update(Put(RUNS_TABLE, row.key, row.encode()))
            collector._deletions_seen = -1
            await until(lambda: collector._deletions_seen == container.outcomes.streams_deleted and turn._waiters)
            back = await store.create_stream("back", slots=1)
            assert back.id == row.stream_id
            turn.release()
            deletions = collector._deletions_seen
            await until(lambda: not turn.locked() and not turn._waiters)
            for _ in range(2):  # when it looks for the second time, it has gone through all of them once more
                collector._deletions_seen = -1
                await until(lambda: collector._deletions_seen == deletions)
            assert list(hosted_of(store).catalog.iter_stream_runs(back.id)) == [row]

    run(scenario())
