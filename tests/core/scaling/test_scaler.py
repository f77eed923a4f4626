"""The scaler on a store: takes rates, scales streams as their policies ask, tells what it did and what it cannot do."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from core.clock import ManualClock, SystemClock
from core.config import StoreConfig
from core.scaling.scaler import SLICE_SLOTS, Scaler
from core.store import Store
from core.streams.averages import WATCHED
from core.streams.keyspace import slot_at_position
from core.streams.live import Slot, Stream
from core.streams.policy import ScalingKind, ScalingPolicy, StreamPolicy
from tests.core.support import KIB, SMALL, append, maintenance_of, make, policy_from, read_all, run, until

pytestmark = pytest.mark.slow

TARGET: Final = 100.0
ROOMY: Final = replace(SMALL, log_file_bytes=16 * KIB * KIB)  # no file is ever full
FAST: Final = replace(ROOMY, scaler_time_factor=0.001)  # ten minutes are 0.6 s


def policy_for(config: Mapping[str, str]) -> StreamPolicy:
    """Streams of these tests scale by bytes unless they say otherwise."""
    scaling = ScalingPolicy(
        kind=ScalingKind(config.get("scaling", "bytes")),
        target_rate=float(config.get("target", TARGET)),
        factor=int(config.get("factor", 4)),
        min_segments=int(config.get("min_segments", 1)),
    )
    return replace(policy_from(config), scaling=scaling)


async def scaling_store(directory: Path, clock: ManualClock, config: StoreConfig = ROOMY) -> tuple[Store, Scaler]:
    store = await Store.open(directory, config, policy_for, clock)
    await maintenance_of(store).stop()
    scaler = store.containers[0].scaler
    scaler.begin()
    return store, scaler


async def load(clock: ManualClock, scaler: Scaler, stream: Stream, rates: Sequence[int], minutes: int) -> None:
    """Entries of `rates` bytes a second in the slots of these places in key order, and a look every ten seconds."""
    for _ in range(minutes * 6):
        clock.advance(10)
        for place, rate in enumerate(rates):
            if rate:
                await append(stream.slot(slot_at_position(place, stream.slot_count)), b"." * (rate * 10))
        await scaler.sample()
        await scaler.scale_once()


def cuts(stream: Stream) -> list[int]:
    return [run.first for run in stream.state.current.segments]


def test_splits_where_the_load_is_and_merges_again(tmp_path: Path) -> None:
    """Hot slots get segments of their own, and when the load has gone, neighbours merge."""

    async def scenario() -> None:
        clock = ManualClock()
        store, scaler = await scaling_store(tmp_path, clock)
        stream = await make(store, slots=8)
        await load(clock, scaler, stream, [0, 0, 90, 0, 0, 90, 0, 0], 30)
        assert len(cuts(stream)) == 2
        assert 2 < cuts(stream)[1] <= 5
        (event,) = scaler.events
        assert (event.kind, event.sealed, event.opened) == ("split", (0,), (1, 2))
        assert "10 minutes, more than the target" in event.reason

        await load(clock, scaler, stream, [], 120)
        assert cuts(stream) == [0]
        assert [event.kind for event in scaler.events] == ["split", "merge"]
        assert dict(scaler.counts) == {"split": 1, "merge": 1}
        assert scaler.limits == []
        await store.close()

    run(scenario())


def test_one_hot_slot_is_at_its_limit(tmp_path: Path) -> None:
    """A hot slot gets a segment of its own, and then a report with the remedy; the report ends with the load."""

    async def scenario() -> None:
        clock = ManualClock()
        store, scaler = await scaling_store(tmp_path, clock)
        stream = await make(store, slots=4)
        await load(clock, scaler, stream, [0, 0, 300, 0], 60)
        assert [segment.last - segment.first for segment in stream.state.current.segments].count(1) >= 1
        (limit,) = scaler.limits
        assert (limit.stream, limit.slot) == ("s", 1)  # at position 2 of 4
        assert limit.rate > 2 * TARGET
        assert "more slots" in limit.advice

        await load(clock, scaler, stream, [], 60)
        assert scaler.limits == []
        await store.close()

    run(scenario())


def test_streams_that_do_not_scale(tmp_path: Path) -> None:
    """A fixed stream has its segments from the beginning; a sealed one stays as it is; one load is not another's."""

    async def scenario() -> None:
        clock = ManualClock()
        store, scaler = await scaling_store(tmp_path, clock)
        fixed = await make(store, "fixed", slots=8, scaling="fixed", min_segments=4)
        sealed = await make(store, "sealed", slots=8)
        quiet = await make(store, "quiet", slots=8)
        assert cuts(fixed) == [0, 2, 4, 6]
        await load(clock, scaler, sealed, [90] * 8, 5)
        await store.seal_stream(sealed)
        await load(clock, scaler, fixed, [90] * 8, 30)
        await load(clock, scaler, quiet, [1] * 8, 30)

        assert (cuts(fixed), cuts(sealed), cuts(quiet)) == ([0, 2, 4, 6], [0], [0])
        assert not scaler.events
        await store.update_stream(quiet, config={"min_segments": "3"})
        assert await scaler.scale_once() == 1
        assert len(cuts(quiet)) == 3
        await store.close()

    run(scenario())


def test_slots_at_rest_are_not_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that has not grown has no slot that did; averages fade all the same, and are dropped in the end."""

    async def scenario() -> None:
        clock = ManualClock()
        store, scaler = await scaling_store(tmp_path, clock)
        stream, other = await make(store, slots=8), await make(store, "other", slots=8)
        await load(clock, scaler, stream, [10] * 8, 1)
        at_work = scaler.rates.of_slots(stream.slots_in(0))

        looked: list[Slot] = []
        sample = scaler.rates.sample
        monkeypatch.setattr(scaler.rates, "sample", lambda slots: looked.extend(slots) or sample(slots))
        await load(clock, scaler, stream, [], 1)
        assert not looked
        assert 0 < scaler.rates.of_slots(stream.slots_in(0)).bytes_s < at_work.bytes_s

        await append(other.slot(0), b"one")
        await load(clock, scaler, stream, [], 600)
        assert {slot.stream for slot in looked} == {stream, other}
        assert len(looked) == 9, "once each of those that were written"
        assert all(slot.rate is None for slot in looked)
        await store.close()

    run(scenario())


def test_others_have_turns_while_segments_are_looked_at(tmp_path: Path) -> None:
    """Streams of several segments are looked at whole, also those into which nothing came."""

    async def scenario() -> None:
        store, scaler = await scaling_store(tmp_path, ManualClock())
        streams = [await make(store, f"s{n}", slots=SLICE_SLOTS, min_segments="4") for n in range(8)]
        assert all(len(stream.state.current.segments) == 4 for stream in streams)
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count())
        await asyncio.sleep(0)
        before = turns
        await scaler.scale_once()
        assert turns - before >= len(streams)
        counting.cancel()
        await store.close()

    run(scenario())


def test_rates_of_segments(tmp_path: Path) -> None:
    """A segment's rate is that of its slots; a scale does not restart the averages."""

    async def scenario() -> None:
        clock = ManualClock()
        store, scaler = await scaling_store(tmp_path, clock)
        stream = await make(store, slots=4, scaling="fixed")
        await load(clock, scaler, stream, [10, 20, 30, 40], 5)
        await store.scale_stream(stream, [0], [1], "test")
        first, rest = stream.state.current.segments

        assert round(scaler.rates.of_segment(stream, first).bytes_s) == 10
        assert round(scaler.rates.of_segment(stream, rest).bytes_s) == 90
        assert round(scaler.rates.of_segment(stream, rest).events_s, 2) == 0.3
        assert round(scaler.rates.of_slots(stream.written_slots()).bytes_s) == 100

        await load(clock, scaler, stream, [10, 0, 0, 0], 1)
        slots = list(stream.written_slots())
        bytes_s, events_s = (scaler.rates.total(slots, by_events=by_events)[WATCHED] for by_events in (False, True))
        assert scaler.rates.of_slots(stream.written_slots()) == pytest.approx((bytes_s, events_s))
        assert 10 < bytes_s < 15
        await store.close()

    run(scenario())


@pytest.mark.slow
def test_by_itself_under_load(tmp_path: Path) -> None:
    """The task samples, splits and merges in its own time, while entries come in; all of them are there, in order."""

    async def scenario() -> None:
        store = await Store.open(tmp_path, FAST, policy_for, SystemClock())
        store.start_scaling()
        stream = await make(store, slots=4, factor=2, target=20_000)
        written: list[list[bytes]] = [[] for _ in range(4)]

        async def write() -> None:
            while True:
                for number, entries in enumerate(written):
                    entries.append(b"%d" % len(entries) + b"." * 1000)
                    await append(stream.slot(number), entries[-1])

        writing = asyncio.create_task(write())
        await until(lambda: len(stream.state.epochs) > 2)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        epoch = stream.state.current.epoch
        await until(lambda: stream.state.current.epoch > epoch and len(stream.state.current.segments) == 1)
        for number, entries in enumerate(written):
            found = await read_all(store, stream.slot(number))
            assert found == entries[: len(found)]
            assert len(found) >= len(entries) - 1  # the last may not have been acknowledged
        assert {event.kind for event in store.containers[0].scaler.events} == {"split", "merge"}
        await store.close()

    run(scenario())
