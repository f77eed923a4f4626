"""A kill between any two syncs of four logs: every stream is whole or gone, and every acknowledged entry is there."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import threading
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import pytest

from core.store import Store
from core.streams.live import Slot, Stream
from tests.core.cluster.several import check_copies, open_several, places_of
from tests.core.support import append, before_syncs, copy_files, read_all, run

pytestmark = pytest.mark.slow

Acknowledged = dict[tuple[UUID, int], list[bytes]]


@dataclass
class Kills:
    """Copies of a store as kills leave it, each with what was acknowledged before."""

    home: Path
    copies: list[tuple[Path, Acknowledged, frozenset[UUID], frozenset[str]]] = field(default_factory=list)
    acknowledged: Acknowledged = field(default_factory=dict)
    ended: set[UUID] = field(default_factory=set)  # their deletion has begun
    created: set[str] = field(default_factory=set)  # names of streams whose creation was answered, and that stay
    _copying: threading.Lock = field(default_factory=threading.Lock)

    def take(self, store: Store) -> None:
        with self._copying:
            target = self.home / str(len(self.copies))
            acknowledged = {place: list(entries) for place, entries in self.acknowledged.items()}
            ended, created = frozenset(self.ended), frozenset(self.created)
            with contextlib.suppress(FileNotFoundError):  # a file went while it was copied: another kill comes soon
                copy_files(store, target)
                self.copies.append((target, acknowledged, ended, created))

    async def append(self, slot: Slot, payload: bytes) -> None:
        await append(slot, payload)
        self.acknowledged.setdefault((slot.stream.uuid, slot.number), []).append(payload)


async def fill(kills: Kills, stream: Stream, what: bytes) -> None:
    slots = [stream.slot(number) for number in range(stream.slot_count)]
    await asyncio.gather(*(kills.append(slot, b"%s in %d" % (what, slot.number)) for slot in slots))


async def live(store: Store, kills: Kills) -> None:
    """Everything that changes streams over containers, with appends in between."""
    a = await store.create_stream("a", slots=8)
    kills.created.add("a")
    await fill(kills, a, b"first")
    b = await store.create_stream("b", slots=3)
    one = await store.create_stream("one", slots=5, config={"one": ""})
    kills.created |= {"b", "one"}
    assert (len(set(places_of(a))), len(set(places_of(b))), len(set(places_of(one)))) == (4, 3, 1)
    await asyncio.gather(fill(kills, b, b"second"), fill(kills, one, b"second"))
    await store.update_stream(a, config={"retention_bytes": "1000000"})
    await store.grow_stream(a, 16)
    await store.grow_stream(b, 5)
    await fill(kills, a, b"third")
    wide = next(one for one in a.state.current.segments if one.last - one.first > 1 and one.container)
    await store.scale_stream(a, [wide.number], [wide.first + 1], "test")
    await fill(kills, a, b"fourth")
    kills.created.discard("b")
    kills.ended.add(b.uuid)
    await store.delete_stream(b)
    again = await store.create_stream("b", slots=8)
    kills.created.add("b")
    await fill(kills, again, b"fifth")


async def check(directory: Path, acknowledged: Acknowledged, ended: frozenset[UUID], created: frozenset[str]) -> None:
    for again in (False, True):  # also a start after the start that settles
        store = await open_several(directory)
        check_copies(store)
        assert created <= {stream.name for stream in store.streams} <= {"a", "b", "one"}
        for (uuid, number), entries in acknowledged.items():
            stream = store.streams.by_uuid(uuid)
            if stream is None:
                assert uuid in ended
                continue
            found = await read_all(store, stream.slot(number))
            assert found[: len(entries)] == entries
        for stream in store.streams:
            for number in range(stream.slot_count):
                found = await read_all(store, stream.slot(number))
                assert (found[-1:] == [b"goes on"]) == again
                await append(stream.slot(number), b"goes on")
        await store.close()


@pytest.mark.timeout(600)  # forty stores are opened, twice
def test_kills_among_changes_of_streams(tmp_path: Path) -> None:
    """Creations, growths, scales, new configuration and deletions over four containers, killed before every sync."""

    async def scenario() -> None:
        kills = Kills(tmp_path / "copies")
        store = await open_several(tmp_path / "store")
        with pytest.MonkeyPatch.context() as patch:
            before_syncs(patch, lambda fd: kills.take(store))
            await live(store, kills)
        await store.close()
        assert len(kills.copies) > 30
        for copy in kills.copies:
            await check(*copy)
            shutil.rmtree(copy[0])

    async def bounded() -> None:
        async with asyncio.timeout(580):
            await scenario()

    asyncio.run(bounded())


def test_containers_that_stop_at_different_moments(tmp_path: Path) -> None:
    """A power cut in mode `interval` takes more of one log than of another: no container is left with half a stream."""

    async def scenario() -> None:
        directory = tmp_path / "store"
        store = await open_several(directory)
        a = await store.create_stream("a", slots=8)
        before = tmp_path / "before"
        copy_files(store, before)
        b = await store.create_stream("b", slots=8)
        await store.grow_stream(a, 16)
        for stream in (a, b):
            for number in range(stream.slot_count):
                await append(stream.slot(number), b"%d" % number)
        after = tmp_path / "after"
        copy_files(store, after)
        await store.close()

        for lost in range(4):
            mixed = tmp_path / f"lost-{lost}"
            shutil.copytree(after, mixed)
            shutil.rmtree(mixed / f"container-{lost}")
            shutil.copytree(before / f"container-{lost}", mixed / f"container-{lost}")
            store = await open_several(mixed)
            check_copies(store)
            assert {stream.name: stream.slot_count for stream in store.streams} == {"a": 16, "b": 8}
            for stream in store.streams:
                for number in range(stream.slot_count):
                    slot = stream.slot(number)
                    kept = [] if slot.container_id == lost else [b"%d" % number]
                    assert await read_all(store, slot) == kept
                    await append(slot, b"goes on")
            await store.close()

    run(scenario())
