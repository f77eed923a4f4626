"""What a node knows of its slots when it decides which should go to other nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from core.clock import ManualClock
from core.cluster.coordination import Life, Owner, Stage, Wish
from core.cluster.levels import NEWEST, Feature
from core.cluster.spreading import HOT_S
from core.spread import Spread, cold_slots, loads_in
from core.store import Store
from core.streams.averages import TWO
from core.streams.live import Stream
from core.streams.policy import ScalingKind, ScalingPolicy, StreamPolicy
from tests.core.cluster.several import FOUR, placed_policy
from tests.core.support import append, run

pytestmark = pytest.mark.slow

MINUTES = 60.0
SCALES = ScalingPolicy(kind=ScalingKind.BYTES, target_rate=1_000.0)


@dataclass
class Seen:
    """A cluster in which node 1 has all containers of a store but one, which node 2 has."""

    away: int = 3
    node: int = 1
    level: int = NEWEST
    containers: Sequence[int] = (0, 1, 2, 3)
    wished: dict[int, Wish] = field(default_factory=dict)
    wanted: list[tuple[str, int, int]] = field(default_factory=list)
    is_at_work: bool = False
    told: Mapping[str, bool] = field(default_factory=dict)  # by node 1 of itself

    def owners(self) -> Mapping[int, Owner]:
        return {
            one: Owner(node=2 if one == self.away else 1, life="L", epoch=one + 1, stage=Stage.SERVING)
            for one in self.containers
        }

    def lives(self) -> Mapping[int, Life]:
        return {1: replace(Life(node=1, life="L"), **self.told), 2: Life(node=2, life="L")}

    def wishes(self) -> Mapping[int, Wish]:
        return self.wished

    def is_fresh(self) -> bool:
        return True

    async def want(self, stream: Stream, number: int, target: int) -> None:
        self.wanted.append((stream.name, number, target))


def scaling_policy(config: Mapping[str, str]) -> StreamPolicy:
    return replace(placed_policy(config), scaling=SCALES if "scales" in config else ScalingPolicy())


async def opened(directory: Path) -> tuple[Store, ManualClock]:
    clock = ManualClock()
    store = await Store.open(directory, FOUR, scaling_policy, clock)
    for hosted in store.containers.values():
        await hosted.maintenance.stop()
        hosted.scaler.begin()
    return store, clock


async def sampled(store: Store, clock: ManualClock, seconds: float) -> None:
    clock.advance(seconds)
    for hosted in store.containers.values():
        await hosted.scaler.sample()
        await hosted.scaler.scale_once()


def test_shares_are_of_what_is_appended(tmp_path: Path) -> None:
    async def scenario() -> None:
        store, clock = await opened(tmp_path)
        stream = await store.create_stream("s", slots=4, config={"one": ""})
        await append(stream.slot(0), b"x" * 3_000)
        await append(stream.slot(1), b"x" * 1_000)
        await sampled(store, clock, 60)
        hosted = store.containers[stream.slot(0).container_id]
        shares = {one.place[1]: (round(one.share, 6), one.stored_bytes) for one in await loads_in(hosted)}
        assert shares == {0: (0.75, 3_000), 1: (0.25, 1_000)}
        await store.close()

    run(scenario())


def test_the_hot_containers_slot_is_wanted_elsewhere(tmp_path: Path) -> None:
    async def scenario() -> None:
        store, clock = await opened(tmp_path)
        stream = await store.create_stream("s", slots=4, config={"one": ""})
        hot = stream.slot(0).container_id
        weights = {one: 0.9 if one == hot else 0.01 for one in range(4)}
        for number in range(4):
            await append(stream.slot(number), b"x" * 1_000 * (1 + number))
        await sampled(store, clock, 60)
        seen = Seen(away=(hot + 1) % 4)
        spread = Spread(seen, seen, store, lambda: weights)
        await spread.step(0.0)
        seen.level = Feature.SLOT_MOVES - 1
        await spread.step(HOT_S)
        seen.level, seen.is_at_work = NEWEST, True
        await spread.step(HOT_S)
        assert not seen.wanted
        seen.is_at_work = False
        store.on_move(lambda slot: "a group reads it" if slot.number == 3 else None)
        await spread.step(HOT_S)
        await spread.step(2 * HOT_S)
        assert seen.wanted == [("s", 2, seen.away)], "of those that can leave the one that evens out most"
        await store.close()

    run(scenario())


def test_a_cold_slot_between_others_is_found(tmp_path: Path) -> None:
    """Once it has been cold for twenty minutes, in a stream that scales by itself."""

    async def scenario() -> None:
        store, clock = await opened(tmp_path)
        for config, found in (({"one": "", "scales": ""}, 1), ({"one": ""}, 0)):
            stream = await store.create_stream(f"s{found}", slots=4, config=config)
            source = stream.slot(0).container_id
            target = (source + 1) % 4
            await append(stream.slot(1), b"x")
            await store.move_slot(stream, 1, target)
            hosted = store.containers[target]
            await sampled(store, clock, 1)
            assert not list(cold_slots(hosted, stream))
            for _ in range(25):
                await sampled(store, clock, MINUTES)
            cold = list(cold_slots(hosted, stream))
            assert len(cold) == found
            assert all((one.place[1], one.container) == (1, target) for one in cold)
            assert all({one.left, one.right} == {source} for one in cold)
        await store.close()

    run(scenario())


@pytest.mark.parametrize("told", [{"is_draining": True}, {"reaches_store": False}])
def test_nothing_goes_back_from_a_node_that_takes_no_containers(tmp_path: Path, told: Mapping[str, bool]) -> None:
    """The other container could not come for it: the row would stay for an hour, and hold up all others."""

    async def scenario() -> None:
        store, clock = await opened(tmp_path)
        stream = await store.create_stream("s", slots=4, config={"one": "", "scales": ""})
        source = stream.slot(0).container_id
        target = (source + 1) % 4
        await append(stream.slot(1), b"x")
        await store.move_slot(stream, 1, target)
        for _ in range(26):
            await sampled(store, clock, MINUTES)
        seen = Seen(away=source)
        spread = Spread(seen, seen, store, dict)
        seen.told = told
        await spread.step(0.0)
        assert not seen.wanted
        seen.told = {}
        await spread.step(0.0)
        assert seen.wanted == [("s", 1, source)]
        await store.close()

    run(scenario())


def test_a_slot_that_has_come_brings_its_rate_and_no_other(tmp_path: Path) -> None:
    """Its history is not what comes in now: else the scaler would split it, and slots would go on to other nodes."""

    async def scenario() -> None:
        store, clock = await opened(tmp_path)
        stream = await store.create_stream("s", slots=4)
        for _ in range(10):
            await append(stream.slot(1), b"x" * 6_000)
            await sampled(store, clock, 60)
        source, target = stream.slot(1).container_id, (stream.slot(1).container_id + 1) % 4
        before = store.containers[source].scaler.rates.of_slot(stream.slot(1))
        await store.move_slot(stream, 1, target)
        await sampled(store, clock, 1)
        after = store.containers[target].scaler.rates.bytes_of(stream.slot(1))
        assert before.bytes_s > 0
        assert max(after) < 200
        assert after[TWO] > 50
        await store.close()

    run(scenario())
