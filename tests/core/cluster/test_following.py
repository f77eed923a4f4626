"""Stores of several processes over one registry: what one decides, all follow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from core.clock import ManualClock
from core.cluster.following import Changed
from core.cluster.sqlite_registry import SqliteRegistry
from core.deciding import Configure
from core.errors import NotHosted, StreamExists, UnknownStream
from core.store import Store
from core.streams.live import Stream
from core.streams.state import STREAMS_TABLE, StreamState, stream_key
from tests.core.cluster.several import FOUR, placed_policy
from tests.core.support import append, read_all, run, until

pytestmark = pytest.mark.slow

HERE, THERE = (0, 1), (2, 3)
Change = Mapping[str, str] | Configure


@dataclass
class Process:
    """One of the processes: its part of the containers."""

    store: Store
    registry: SqliteRegistry

    def slots_here(self, stream: Stream) -> list[int]:
        return [n for n in range(stream.slot_count) if stream.state.container_of_slot(n) in self.store.containers]

    def rows(self, stream: Stream) -> set[bytes | None]:
        """The copies of a stream in this process's containers."""
        return {one.container.table(STREAMS_TABLE).get(stream_key(stream.id)) for one in self.store.containers.values()}

    async def close(self, *, clean: bool = True) -> None:
        await self.store.close(clean=clean)
        await self.registry.close()


async def opened(directory: Path, hosts: tuple[int, ...]) -> Process:
    registry = await SqliteRegistry.open(directory / "registry.db")
    store = await Store.open(directory, FOUR, placed_policy, ManualClock(), shared=registry, hosts=hosts)
    return Process(store, registry)


@asynccontextmanager
async def two(directory: Path) -> AsyncIterator[tuple[Process, Process]]:
    """Two processes with two containers each."""
    one, other = await opened(directory, HERE), await opened(directory, THERE)
    try:
        yield one, other
    finally:
        await one.close()
        await other.close()


async def known_to_both(one: Process, other: Process, slots: int) -> tuple[Stream, Stream]:
    """A stream that one process has made, as that one and the other one have it."""
    made = await one.store.create_stream("s", slots=slots)
    await until(lambda: other.store.streams.get("s"))
    seen = other.store.streams.get("s")
    assert seen is not None
    return made, seen


async def changed_by_both(
    one: Process, other: Process, of_one: Callable[[int], Change], of_other: Callable[[int], Change]
) -> tuple[Stream, Stream]:
    """A stream with ten changes of its configuration from each side, all at a time, as both know it in the end."""
    made, seen = await known_to_both(one, other, slots=8)
    revision = made.state.revision
    await asyncio.gather(
        *(one.store.update_stream(made, config=of_one(number)) for number in range(10)),
        *(other.store.update_stream(seen, config=of_other(number)) for number in range(10)),
    )
    await until(lambda: made.state == seen.state)
    assert made.state.revision == revision + 20
    return made, seen


def test_all_know_each_stream(tmp_path: Path) -> None:
    """A stream is made in one process; each appends to its own slots, is refused the others', and keeps a copy."""

    async def scenario() -> None:
        async with two(tmp_path) as (one, other):
            made, seen = await known_to_both(one, other, slots=8)
            assert seen.state == made.state
            assert sorted(one.slots_here(made) + other.slots_here(seen)) == list(range(8))
            for process, stream in ((one, made), (other, seen)):
                assert process.rows(stream) == {stream.state.encode()}
                for number in range(8):
                    if number in process.slots_here(stream):
                        await append(stream.slot(number), b"entry")
                        assert await read_all(process.store, stream.slot(number)) == [b"entry"]
                    else:
                        with pytest.raises(NotHosted):
                            process.store.hosted(stream.slot(number))

    run(scenario())


def test_a_name_that_goes_and_comes_in_one_look(tmp_path: Path) -> None:
    """A process that hears of both together has the new stream by its name."""

    async def scenario() -> None:
        async with two(tmp_path) as (one, other):
            old = await one.store.create_stream("s", slots=8)
            await until(lambda: other.store.streams.get("s"))
            following = other.store._following
            assert following is not None
            async with following._one_at_a_time:
                await one.store.delete_stream(old)
                new = await one.store.create_stream("s", slots=8)
            await until(lambda: other.store.streams.by_uuid(new.uuid) and not other.store.streams.by_uuid(old.uuid))
            seen = other.store.streams.get("s")
            assert seen is not None
            assert seen.uuid == new.uuid
            assert [stream.name for stream in other.store.streams] == ["s"]

    run(scenario())


def test_a_stream_that_goes_while_a_look_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the look has found of it is old by then: it does not come back, and takes no name from the next one."""

    async def scenario() -> None:
        async with two(tmp_path) as (one, other):
            made = {name: await one.store.create_stream(name, slots=4) for name in ("a", "s")}
            await until(lambda: all(map(other.store.streams.get, made)))
            following, seen = other.store._following, other.store.streams.get("s")
            assert following is not None
            assert seen is not None
            await following.stop()
            for stream in made.values():
                await one.store.update_stream(stream, config={"retention_ms": "7"})
            bringing, go_on, real = asyncio.Event(), asyncio.Event(), other.store._shares.bring

            async def bring(stream: Stream) -> None:
                if stream.name == "a":
                    bringing.set()
                    await go_on.wait()
                await real(stream)

            monkeypatch.setattr(other.store._shares, "bring", bring)
            looking = asyncio.create_task(following.follow())
            await bringing.wait()
            await other.store.delete_stream(seen)
            again = await other.store.create_stream("s", slots=4)
            go_on.set()
            await looking
            assert other.store.streams.by_id(seen.id) is None
            assert other.store.streams.get("s") is again
            assert other.rows(seen) == {None}

    run(scenario())


def test_both_make_their_changes_of_what_the_other_has_made(tmp_path: Path) -> None:
    """A change that adds to a configuration adds to the newest one: none is lost, whoever made it."""

    async def scenario() -> None:
        async with two(tmp_path) as (one, other):

            def adding(name: str) -> Change:
                return lambda now: {**now, name: ""}

            made, _ = await changed_by_both(one, other, lambda n: adding(f"a{n}"), lambda n: adding(f"b{n}"))
            assert made.config.keys() == {f"{side}{n}" for side in "ab" for n in range(10)}

    run(scenario())


def test_what_happened_meanwhile(tmp_path: Path) -> None:
    """A process that was away follows at its start: streams that came, grew, changed and went."""

    async def scenario() -> None:
        one, other = await opened(tmp_path, HERE), await opened(tmp_path, THERE)
        names = ("grows", "changes", "goes")
        streams = {name: await one.store.create_stream(name, slots=4) for name in names}
        await until(lambda: all(other.store.streams.get(name) for name in names))
        grows = other.store.streams.get("grows")
        assert grows is not None
        kept = other.slots_here(grows)[0]
        await append(grows.slot(kept), b"kept")
        await other.close(clean=False)

        await one.store.grow_stream(streams["grows"], 9)
        await one.store.update_stream(streams["changes"], config={"retention_ms": "7"})
        await one.store.delete_stream(streams["goes"])
        comes = await one.store.create_stream("comes", slots=4)

        other = await opened(tmp_path, THERE)
        assert {stream.name for stream in other.store.streams} == {"grows", "changes", "comes"}
        for stream in other.store.streams:
            assert other.rows(stream) == {stream.state.encode()}
        assert other.rows(streams["goes"]) == {None}
        grown = other.store.streams.get("grows")
        assert grown is not None
        assert grown.slot_count == 9
        assert await read_all(other.store, grown.slot(kept)) == [b"kept"]
        found = other.store.streams.get("comes")
        assert found is not None
        assert found.uuid == comes.uuid
        await one.close()
        await other.close()

    run(scenario())


def test_both_change_at_a_time(tmp_path: Path) -> None:
    """Changes of one stream from both sides are all made, one after the other; each side ends with the same state."""

    async def scenario() -> None:
        async with two(tmp_path) as (one, other):
            made, seen = await changed_by_both(one, other, lambda n: {"a": str(n)}, lambda n: {"b": str(n)})
            assert one.rows(made) == other.rows(seen) == {made.state.encode()}

    run(scenario())


def test_a_segment_splits_where_it_lies(tmp_path: Path) -> None:
    """Each process scales the segments of its own containers; the other sees the new cut."""

    async def scenario() -> None:
        async with two(tmp_path) as (one, other):
            made, seen = await known_to_both(one, other, slots=16)
            for process, stream in ((one, made), (other, seen)):
                segment = next(
                    each
                    for each in stream.state.current.segments
                    if stream.state.container_of(each) in process.store.containers
                )
                await process.store.scale_stream(stream, [segment.number], [segment.first + 2], "test")
            await until(lambda: made.state == seen.state)
            assert len(made.state.current.segments) == 6
            for process, stream in ((one, made), (other, seen)):
                for number in process.slots_here(stream):
                    slot = stream.slot(number)
                    assert slot.segment_id == stream.segment_id_of(number)

    run(scenario())


def test_a_deletion_ends_it_everywhere(tmp_path: Path) -> None:
    """A deleted stream is gone in all processes; its name is free, and the other's change of it is refused."""

    async def scenario() -> None:
        async with two(tmp_path) as (one, other):
            made, seen = await known_to_both(one, other, slots=4)
            with pytest.raises(StreamExists):
                await other.store.create_stream("s", slots=1)
            await one.store.delete_stream(made)
            with pytest.raises(UnknownStream):
                await other.store.update_stream(seen, config={})
            await until(lambda: seen.deleted)
            await until(lambda: other.rows(seen) == {None})
            again = await other.store.create_stream("s", slots=4)
            assert again.id > made.id
            await until(lambda: one.store.streams.get("s"))

    run(scenario())


def test_changes_of_other_kinds_are_told(tmp_path: Path) -> None:
    """Settings that one process changes are told in the other; so are streams, once they can be used."""

    async def scenario() -> None:
        async with two(tmp_path) as (one, other):
            told: list[Changed] = []
            other.store.on_followed(told.append)
            await one.registry.change_settings("quotas", lambda _: {b"a": b"1"})
            await until(lambda: any("quotas" in changed.kinds for changed in told))
            assert other.store.registry.settings("quotas") == {b"a": b"1"}
            await one.store.create_stream("s", slots=4)
            await until(lambda: any(changed.streams for changed in told))
            assert other.store.streams.get("s") is not None

    run(scenario())


def test_a_change_that_cannot_be_followed_holds_up_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller whose look finds it is told of the error, and no later one: for those all others are taken over. It is
    kept once, and taken over when that is possible."""

    async def scenario() -> None:
        async with two(tmp_path) as (one, other):
            following, begin = other.store._following, other.store._showing.begin
            assert following is not None
            await following.stop()

            def failing(state: StreamState) -> Stream:
                if state.name == "first":
                    raise LookupError(state.name)
                return begin(state)

            monkeypatch.setattr(other.store._showing, "begin", failing)
            for name in ("first", "second"):
                await one.store.create_stream(name, slots=4)
            with pytest.raises(LookupError):
                await other.store.catch_up()
            assert [stream.name for stream in other.store.streams] == ["second"]
            for number in range(3):
                await one.store.create_stream(f"later-{number}", slots=4)
                await other.store.catch_up()
                assert other.store.streams.get(f"later-{number}") is not None
                assert [state.name for state in following._left.streams] == ["first"]
            monkeypatch.undo()
            await other.store.catch_up()
            assert other.store.streams.get("first") is not None
            assert not following._left

    run(scenario())


def test_a_listener_that_fails_at_one_change_hears_of_the_others(tmp_path: Path) -> None:
    """Of what it could not hear it hears again, each time by itself: nothing that comes later is kept beside it."""

    async def scenario() -> None:
        async with two(tmp_path) as (one, other):
            following, heard = other.store._following, list[str]()
            assert following is not None
            await following.stop()

            def listener(changed: Changed) -> None:
                if "quotas" in changed.kinds:
                    raise LookupError("quotas")
                heard.extend(state.name for state in changed.deleted)

            old = [await one.store.create_stream(f"s-{number}", slots=4) for number in range(4)]
            await other.store.catch_up()
            other.store.on_followed(listener)
            await one.registry.change_settings("quotas", lambda _: {b"a": b"1"})
            await one.store.delete_stream(old[0])
            with pytest.raises(LookupError):
                await other.store.catch_up()
            for stream in old[1:]:
                await one.store.delete_stream(stream)
                await other.store.catch_up()
                assert heard[-1] == stream.name
                assert [state.name for state in following._left.deleted] == ["s-0"]

    run(scenario())
