"""Streams over several containers: where their slots lie, how they change, and what a failure takes with it."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from core.cluster.shares import Shares
from core.errors import StorageFailure, StorageFull, StreamExists
from core.log.durable_log import DurableLog
from tests.core.cluster.several import FOUR, check_copies, open_several, places_of, slots_by_container
from tests.core.support import SMALL, append, begin_append, owner_of, read_all, run
from tests.core.test_several_containers import failing

pytestmark = pytest.mark.slow


def test_slots_are_spread(tmp_path: Path) -> None:
    """A stream's slots lie in all containers, in equal parts; `one` keeps them together; small streams take turns."""

    async def scenario() -> None:
        store = await open_several(tmp_path)
        wide = await store.create_stream("wide", slots=8)
        assert Counter(places_of(wide)) == Counter({0: 2, 1: 2, 2: 2, 3: 2})
        small = await asyncio.gather(*(store.create_stream(f"small-{n}", slots=1) for n in range(8)))
        assert Counter(place for one in small for place in places_of(one)) == Counter({0: 2, 1: 2, 2: 2, 3: 2})
        together = await store.create_stream("together", slots=6, config={"one": ""})
        assert len(set(places_of(together))) == 1
        after = await store.create_stream("after", slots=3)
        assert set(places_of(after)).isdisjoint(places_of(together))
        check_copies(store)
        await store.close()

        store = await open_several(tmp_path)
        for stream in (wide, together, after, *small):
            again = store.streams.by_uuid(stream.uuid)
            assert again is not None
            assert places_of(again) == places_of(stream)
        before = slots_by_container(store)
        more = await store.create_stream("more", slots=1)
        assert before[places_of(more)[0]] == min(before.values())
        await store.close()

    run(scenario())


def test_one_container_stays_as_it_was(tmp_path: Path) -> None:
    """With one container a stream's row is that of version 1, and nothing is copied."""

    async def scenario() -> None:
        store = await open_several(tmp_path, SMALL)
        stream = await store.create_stream("s", slots=8)
        await store.grow_stream(stream, 11)
        await store.update_stream(stream, config={"retention_ms": "5"})
        assert b'"v":1,' in stream.state.encode()
        assert stream.state.revision == 0
        check_copies(store)
        await store.close()

    run(scenario())


@pytest.mark.parametrize(("slots", "more"), [(4, 8), (8, 12), (6, 7), (3, 16), (1, 5)])
def test_growth_leaves_slots_where_they_are(tmp_path: Path, slots: int, more: int) -> None:
    """Old slots stay with their entries, new ones are spread, and the row is in every container that has some."""

    async def scenario() -> None:
        store = await open_several(tmp_path)
        stream = await store.create_stream("s", slots=slots)
        before = places_of(stream)
        for number in range(slots):
            await append(stream.slot(number), b"old %d" % number)
        await store.grow_stream(stream, more)
        assert places_of(stream)[:slots] == before
        for number in range(more):
            await append(stream.slot(number), b"new %d" % number)
        check_copies(store)
        await store.close()
        store = await open_several(tmp_path)
        check_copies(store)
        again = store.streams.get("s")
        assert again is not None
        for number in range(more):
            old = [b"old %d" % number] if number < slots else []
            assert await read_all(store, again.slot(number)) == [*old, b"new %d" % number]
        counts = slots_by_container(store).values()
        assert max(counts) - min(counts) <= 1 or more == 7
        await store.close()

    run(scenario())


def test_a_scale_stays_within_a_container(tmp_path: Path) -> None:
    """A split opens segments where the sealed one lies; segments of two containers do not merge."""

    async def scenario() -> None:
        store = await open_several(tmp_path)
        stream = await store.create_stream("s", slots=16)
        before = places_of(stream)
        segments = stream.state.current.segments
        away = next(one for one in segments if stream.state.container_of(one) == 2)
        await store.scale_stream(stream, [away.number], [away.first + 1], "hot")
        assert places_of(stream) == before
        assert {stream.state.container_of(one) for one in stream.state.current.opened} == {2}
        opened = {one.number for one in stream.state.current.opened}
        slot = next(stream.slot(n) for n in range(16) if stream.slot(n).container_id == 2)
        await append(slot, b"x")
        assert slot.segment_id in opened
        assert store.containers[2].scaler.counts["manual"] == 1
        with pytest.raises(ValueError, match="several containers"):
            await store.scale_stream(stream, [segments[0].number, segments[1].number], [], "cold")
        check_copies(store)
        await store.close()

    run(scenario())


def test_configuration_reaches_all_containers(tmp_path: Path) -> None:
    """A change, and the end of a stream, are in every container's log."""

    async def scenario() -> None:
        store = await open_several(tmp_path)
        stream = await store.create_stream("s", slots=8)
        await store.update_stream(stream, config={"retention_ms": "77"})
        await store.seal_stream(stream)
        check_copies(store)
        for hosted in store.containers.values():
            assert hosted.container.streams[stream.id].policy.retention_ms == 77
        await store.close()
        store = await open_several(tmp_path)
        again = store.streams.get("s")
        assert again is not None
        assert again.is_sealed
        assert again.config == {"retention_ms": "77"}
        await store.close()

    run(scenario())


def test_a_name_is_taken_while_a_stream_is_made(tmp_path: Path) -> None:
    """Of two creations at one time one wins, over all containers; after a deletion the name is free."""

    async def scenario() -> None:
        store = await open_several(tmp_path)
        outcomes = await asyncio.gather(*(store.create_stream("s", slots=8) for _ in range(3)), return_exceptions=True)
        assert sum(isinstance(outcome, StreamExists) for outcome in outcomes) == 2
        stream = store.streams.get("s")
        assert stream is not None
        await store.delete_stream(stream)
        assert stream.deleted
        check_copies(store)
        await store.create_stream("s", slots=2)
        await store.close()

    run(scenario())


def test_a_failed_container_takes_its_slots_alone(tmp_path: Path) -> None:
    """Its slots refuse, all others of the same stream go on; new streams keep clear of it. A restart has them all."""

    async def scenario() -> None:
        store = await open_several(tmp_path)
        stream = await store.create_stream("s", slots=8)
        for number in range(8):
            await append(stream.slot(number), b"safe")
        hit = next(stream.slot(n) for n in range(8) if stream.slot(n).container_id == 2)
        with failing(2), pytest.raises(StorageFailure):
            await append(hit, b"lost")
        for number in range(8):
            slot = stream.slot(number)
            if slot.container_id == 2:
                with pytest.raises(StorageFailure):
                    begin_append(slot, b"later")
            else:
                await append(slot, b"more")
            assert (await read_all(store, slot))[0] == b"safe"
        assert not store.failed.done()
        assert [bool(one.concerns()) for one in store.containers.values()] == [False, False, True, False]
        later = await store.create_stream("later", slots=8)
        assert 2 not in places_of(later)
        await store.update_stream(stream, config={"retention_ms": "9"})
        await store.delete_stream(await store.create_stream("gone", slots=4))
        await store.close()

        store = await open_several(tmp_path)
        check_copies(store)
        again = store.streams.get("s")
        assert again is not None
        assert again.config == {"retention_ms": "9"}
        for number in range(8):
            await append(again.slot(number), b"goes on")
        epochs = {slot.container_id: slot.leader_epoch for slot in (again.slot(n) for n in range(8))}
        assert epochs == {0: 0, 1: 0, 2: 1, 3: 0}
        await store.close()

    run(scenario())


def test_no_room_in_one_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """New streams keep clear of it, one that cannot is not made, and a growth is taken back. What else was decided
    reaches the container when it has room again."""

    async def scenario() -> None:
        store = await open_several(tmp_path)
        stream = await store.create_stream("s", slots=8)
        alone = await store.create_stream("alone", slots=1)
        while places_of(alone) != [0]:
            alone = await store.create_stream(f"alone {len(store.streams)}", slots=1)
        full = store.containers[1].container.log
        append_update = DurableLog.append_update

        def without_room(log: DurableLog, body: bytes) -> None:
            if log is full:
                raise StorageFull("no room")
            append_update(log, body)

        with monkeypatch.context() as patch:
            patch.setattr(DurableLog, "append_update", without_room)
            assert set(places_of(await store.create_stream("t", slots=8))) == {0, 2, 3}
            with pytest.raises(StorageFull):
                await store.grow_stream(stream, 16)
            assert stream.slot_count == 8
            await store.update_stream(stream, config={"retention_ms": "3"})
            store._shares._refused.clear()
            with pytest.raises(StorageFull):
                await store.grow_stream(alone, 8)
            assert places_of(alone) == [0]
            await store.update_stream(alone, config={"retention_ms": "4"})
            assert (alone.slot_count, alone.policy.retention_ms) == (1, 4)
            await asyncio.gather(*(store.create_stream(f"small {number}", slots=1) for number in range(8)))
            patch.setattr(Shares, "has_refused", lambda shares, container: False)
            with pytest.raises(StorageFull):
                await store.create_stream("u", slots=8)
            assert store.streams.get("u") is None
        assert owner_of(stream.slot(0)).failed.done() is False
        await store.create_stream("u", slots=8)
        assert await store._shares._step() > 0
        check_copies(store)
        for number in range(8):
            await append(stream.slot(number), b"goes on")
        await store.close()
        store = await open_several(tmp_path)
        check_copies(store)
        grown = store.streams.get("s")
        assert grown is not None
        assert (grown.slot_count, dict(grown.config)) == (8, {"retention_ms": "3"})
        again = store.streams.get(alone.name)
        assert again is not None
        assert (again.slot_count, dict(again.config)) == (1, {"retention_ms": "4"})
        await store.close()

    run(scenario())


def test_budgets_are_shared_out() -> None:
    """What is bounded for the process is divided, not multiplied."""
    whole = replace(FOUR, cache_bytes=400 << 20, log_reader_threads=8, log_max_bytes=4 << 30, log_file_bytes=64 << 20)
    share = whole.share()
    assert (share.cache_bytes, share.log_reader_threads, share.log_max_bytes) == (100 << 20, 2, 1 << 30)
    assert (share.first_file_bytes, share.log_file_bytes) == (16 << 20, 64 << 20)
    little = replace(whole, log_max_bytes=512 << 20).share()  # files may grow to an eighth of what a log may hold
    assert (little.first_file_bytes, little.log_file_bytes) == (16 << 20, 16 << 20)
    assert SMALL.share() is SMALL


def test_containers_lie_in_several_directories(tmp_path: Path) -> None:
    """Containers are spread over the directories in turn, one log each."""

    async def scenario() -> None:
        disks = (tmp_path / "x", tmp_path / "y")
        store = await open_several(tmp_path / "x", replace(FOUR, directories=disks))
        stream = await store.create_stream("s", slots=8)
        for number in range(8):
            await append(stream.slot(number), b"%d" % number)
        await store.close()
        assert [sorted(one.name for one in disk.glob("container-*")) for disk in disks] == [
            ["container-0", "container-2"],
            ["container-1", "container-3"],
        ]
        store = await open_several(tmp_path / "x", replace(FOUR, directories=disks))
        again = store.streams.get("s")
        assert again is not None
        for number in range(8):
            assert await read_all(store, again.slot(number)) == [b"%d" % number]
        await store.close()

    run(scenario())
