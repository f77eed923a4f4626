"""A kill between any two syncs of the logs while a slot moves: it has one owner, and every acknowledged entry."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from core.store import Store
from core.streams.live import Stream
from core.streams.writers import Duplicate
from tests.core.cluster.several import check_copies, open_several
from tests.core.support import (
    KIB,
    append,
    append_in_transaction,
    before_syncs,
    copy_files,
    owner_of,
    read_all,
    until,
)

pytestmark = pytest.mark.slow

NUMBER = 1


@dataclass
class Kills:
    """Copies of a store as kills leave it, each with what was acknowledged before."""

    home: Path
    copies: list[tuple[Path, int]] = field(default_factory=list)
    acknowledged: int = 0
    _copying: threading.Lock = field(default_factory=threading.Lock)

    def take(self, store: Store) -> None:
        with self._copying:
            target = self.home / str(len(self.copies))
            acknowledged = self.acknowledged
            with contextlib.suppress(FileNotFoundError):  # a file went while it was copied: another kill comes soon
                copy_files(store, target)
                self.copies.append((target, acknowledged))


def payload(n: int) -> bytes:
    return b"%d " % n + b"." * 3 * KIB


async def write(stream: Stream, kills: Kills, count: int) -> None:
    """Entries of one idempotent writer, each with its place as its sequence."""
    for _ in range(count):
        n = kills.acknowledged
        await append(stream.slot(NUMBER), payload(n), writer=(9, 0, n))
        kills.acknowledged += 1
        await until(lambda: owner_of(stream.slot(NUMBER)).log.can_roll)


async def live(store: Store, kills: Kills, first: int, second: int) -> None:
    stream = store.streams.get("s")
    assert stream is not None
    await write(stream, kills, 12)
    for to in (first, second, first):
        await store.move_slot(stream, NUMBER, to)
        await write(stream, kills, 4)
        for hosted in store.containers.values():
            await hosted.maintenance.index_files()
            await hosted.maintenance.checkpoint()
            await hosted.maintenance.truncate()
        await write(stream, kills, 2)


async def check(directory: Path, acknowledged: int) -> None:
    for again in (False, True):  # also a start after the start that settles
        store = await open_several(directory)
        check_copies(store)
        stream = store.streams.get("s")
        assert stream is not None
        slot = stream.slot(NUMBER)
        owners = [id for id, one in store.containers.items() if one.container.slot_at(stream.id, NUMBER) is not None]
        assert owners == [slot.container_id]
        assert all(not one.container.outcomes.beside for one in store.containers.values())
        assert all(not one.container.arrivals for one in store.containers.values())
        found = await read_all(store, slot)
        count = len(found) - again
        assert acknowledged <= count <= acknowledged + 1
        assert found[:count] == [payload(n) for n in range(count)]
        if count > 1:  # the first is another writer's
            assert isinstance(owner_of(slot).check_writer(slot, 9, 0, count - 1, 1), Duplicate)
        assert owner_of(slot).check_writer(slot, 9, 0, count, 1) is None
        assert slot.transactions is not None
        assert slot.has_open_transaction(5)
        assert slot.stable_end == 0
        assert await append(slot, b"goes on") == len(found)
        for hosted in store.containers.values():
            await hosted.maintenance.index_files()
            await hosted.maintenance.checkpoint()
        await store.close(clean=not again)


@pytest.mark.parametrize("home", [True, False])
@pytest.mark.timeout(600)  # some sixty stores are opened, twice
def test_kills_while_a_slot_moves(tmp_path: Path, home: bool) -> None:
    """There, back and there again, to the container that decides about the stream or past it, killed before every
    sync."""

    async def scenario() -> None:
        kills = Kills(tmp_path / "copies")
        store = await open_several(tmp_path / "store")
        stream = await store.create_stream("s", slots=4)
        source = stream.slot(NUMBER).container_id
        deciding = stream.state.container
        assert source != deciding
        target = deciding if home else next(one for one in store.containers if one not in (source, deciding))
        await append_in_transaction(stream.slot(NUMBER), payload(0), (5, 0, 0))
        kills.acknowledged = 1
        with pytest.MonkeyPatch.context() as patch:
            before_syncs(patch, lambda fd: kills.take(store))
            await live(store, kills, target, source)
        await store.close()
        assert len(kills.copies) > 30
        for directory, acknowledged in kills.copies:
            await check(directory, acknowledged)
            shutil.rmtree(directory)

    async def bounded() -> None:
        async with asyncio.timeout(580):
            await scenario()

    asyncio.run(bounded())
