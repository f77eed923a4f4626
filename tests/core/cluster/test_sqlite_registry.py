"""The registry of several processes: each thing is decided once, and everybody hears of it."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sqlite3
import uuid
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from core.cluster.registry import NewStream
from core.cluster.sqlite_registry import SqliteRegistry
from core.errors import CorruptState, Stale, StorageFailure, StreamExists, UnknownStream


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 60))


def wanted(name: str, slots: int = 4) -> NewStream:
    return NewStream(
        name=name,
        uuid=uuid.uuid4(),
        slots=slots,
        created_ms=1_700_000_000_000,
        config={"retention.ms": "1"},
        segments=1,
        placement=(0, 1),
    )


def test_a_change_reaches_the_others(tmp_path: Path) -> None:
    """What one process decides, another one sees at its next look: as a change, once, and in its mirror."""

    async def test() -> None:
        one = await SqliteRegistry.open(tmp_path / "r.db")
        other = await SqliteRegistry.open(tmp_path / "r.db")
        made = await one.create(wanted("orders"))
        assert not list(other.streams())
        changes = await other.look()
        assert changes.streams == [made] == list(other.streams())
        assert not await other.look()
        assert not other.changed.is_set()
        await other.delete(made)
        assert (await one.look()).deleted == [made]
        assert not list(one.streams())
        assert one.was_given(made.id)
        assert not one.was_given(made.id + 1)
        await one.close()
        await other.close()

    run(test())


def test_a_name_is_given_once(tmp_path: Path) -> None:
    """Of two processes that create one name at a time, one succeeds. A deleted name is free, its id is not."""

    async def test() -> None:
        registries = [await SqliteRegistry.open(tmp_path / "r.db") for _ in range(4)]
        outcomes = await asyncio.gather(*(each.create(wanted("orders")) for each in registries), return_exceptions=True)
        (made,) = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
        assert sum(isinstance(outcome, StreamExists) for outcome in outcomes) == 3
        await registries[3].look()
        await registries[3].delete(made)
        assert (await registries[0].create(wanted("orders"))).id > made.id
        for each in registries:
            await each.close()

    run(test())


def test_nobody_overwrites_what_he_has_not_seen(tmp_path: Path) -> None:
    """Of two changes that begin with the same state, the second is refused; after that its process knows the first."""

    async def test() -> None:
        one = await SqliteRegistry.open(tmp_path / "r.db")
        other = await SqliteRegistry.open(tmp_path / "r.db")
        made = await one.create(wanted("orders"))
        await other.look()
        await one.change(made.configured({"a": "1"}))
        with pytest.raises(Stale):
            await other.change(made.configured({"b": "2"}))
        (seen,) = other.streams()
        assert seen.config == {"a": "1"}
        await other.change(seen.configured({"a": "1", "b": "2"}))
        with pytest.raises(Stale):
            await one.change(made.configured({}))
        await one.close()
        await other.close()

    run(test())


def test_a_stream_that_was_deleted_meanwhile(tmp_path: Path) -> None:
    """Changing and deleting a stream that another process has deleted says so, and makes nothing."""

    async def test() -> None:
        one = await SqliteRegistry.open(tmp_path / "r.db")
        other = await SqliteRegistry.open(tmp_path / "r.db")
        made = await one.create(wanted("orders"))
        await other.look()
        await one.delete(made)
        with pytest.raises(UnknownStream):
            await other.delete(made)
        with pytest.raises(UnknownStream):
            await other.change(made.configured({}))
        assert not list(other.streams())
        await one.close()
        await other.close()

    run(test())


def test_settings_of_a_kind(tmp_path: Path) -> None:
    """Some settings change as one; a deleted one is gone for everybody; kinds know nothing of one another."""

    async def test() -> None:
        one = await SqliteRegistry.open(tmp_path / "r.db")
        other = await SqliteRegistry.open(tmp_path / "r.db")
        await one.change_settings("acls", {b"a": b"1", b"b": b"2"})
        await one.change_settings("quotas", {b"a": b"9"})
        assert (await other.look()).kinds == {"acls", "quotas"}
        await other.change_settings("acls", {b"a": None, b"c": b"3"})
        await one.look()
        assert one.settings("acls") == other.settings("acls") == {b"b": b"2", b"c": b"3"}
        assert one.settings("quotas") == {b"a": b"9"}
        assert one.settings("nothing") == {}
        await one.close()
        await other.close()

    run(test())


def test_numbers_are_given_once(tmp_path: Path) -> None:
    """Ids of writers and epochs: no two processes ever get the same, and a new start goes on behind them."""

    async def test() -> None:
        registries = [await SqliteRegistry.open(tmp_path / "r.db") for _ in range(3)]
        taken = await asyncio.gather(*(each.take_writer_ids(1000) for each in registries for _ in range(5)))
        assert len({number for block in taken for number in block}) == 15_000
        epochs = await asyncio.gather(*(each.next_epoch() for each in registries for _ in range(5)))
        assert sorted(epochs) == list(range(1, 16))
        for each in registries:
            await each.close()
        again = await SqliteRegistry.open(tmp_path / "r.db")
        assert (await again.take_writer_ids(1)).start == 15_000
        assert await again.next_epoch() == 16
        await again.close()

    run(test())


def test_nodes(tmp_path: Path) -> None:
    """A node tells of itself; a later word replaces the one before."""

    async def test() -> None:
        one = await SqliteRegistry.open(tmp_path / "r.db")
        other = await SqliteRegistry.open(tmp_path / "r.db")
        await one.tell_node(100, {"port": 9092})
        await one.tell_node(100, {"port": 9093})
        assert (await other.look()).nodes
        assert other.nodes() == {100: {"port": 9093}}
        assert not (await other.look()).nodes
        await one.close()
        await other.close()

    run(test())


def _create_for_ever(path: Path, ready: Any) -> None:
    async def main() -> None:
        registry = await SqliteRegistry.open(path)
        ready.set()
        for n in range(1_000_000):
            await registry.create(wanted(f"t-{os.getpid()}-{n}"))
            print(n, flush=True)

    asyncio.run(main())


def test_killed_in_the_middle(tmp_path: Path) -> None:
    """kill -9 of a process that creates streams: what it was told is there, at most one more is, and all is whole."""
    path = tmp_path / "r.db"
    context = multiprocessing.get_context("spawn")
    for _ in range(5):
        ready = context.Event()
        process = context.Process(target=_create_for_ever, args=(path, ready))
        process.start()
        assert ready.wait(30)

        async def grown(by: int) -> None:
            registry = await SqliteRegistry.open(path)
            before = len(list(registry.streams()))
            while len(list(registry.streams())) < before + by:
                await registry.look()
            await registry.close()

        run(grown(5))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join(30)

    async def check() -> None:
        registry = await SqliteRegistry.open(path)
        states = list(registry.streams())
        assert len(states) >= 25
        assert len({state.id for state in states}) == len(states)
        numbers: dict[str, set[int]] = {}
        for state in states:
            _, pid, n = state.name.split("-")
            numbers.setdefault(pid, set()).add(int(n))
        assert all(found == set(range(len(found))) for found in numbers.values())
        await registry.close()

    run(check())


def test_a_file_of_a_later_release(tmp_path: Path) -> None:
    """A file with a newer format is refused by its number, not misread."""

    async def test() -> None:
        await (await SqliteRegistry.open(tmp_path / "r.db")).close()
        with sqlite3.connect(tmp_path / "r.db") as connection:
            connection.execute("UPDATE meta SET value = 2 WHERE name = 'format'")
        with pytest.raises(CorruptState, match="format 2"):
            await SqliteRegistry.open(tmp_path / "r.db")

    run(test())


@pytest.mark.parametrize("content", [b"no database" * 1000, b"SQLite format 3\0" + bytes(8000)])
def test_bytes_that_are_no_registry(tmp_path: Path, content: bytes) -> None:
    """A damaged file is named, with what to do."""
    (tmp_path / "r.db").write_bytes(content)

    async def test() -> None:
        with pytest.raises((CorruptState, StorageFailure), match=r"r\.db"):
            await SqliteRegistry.open(tmp_path / "r.db")

    run(test())
