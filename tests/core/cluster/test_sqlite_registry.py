"""The registry in a file: nodes, kills, and files that are none. What all such keep: `test_shared_registries`."""

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
from core.errors import CorruptState, StorageFailure


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


@pytest.mark.slow
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
