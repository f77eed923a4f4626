"""Records that are read before a member asks for them: few, each for one member, and none that would be others."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from core.streams.entries import ReadResult
from gateway.groups.share import delivery, read_ahead
from gateway.groups.share.format import PlaceKey
from gateway.groups.share.partition import Acquired
from gateway.groups.share.read_ahead import ReadAhead
from tests.gateway.apis.harness import Admin, admin_of
from tests.gateway.groups.share.test_delivery import LARGE, Reader, batch, produced

ON_DISK = ("log.cache.bytes=1048576", "log.file.bytes=4194304", "tier2=off")


def place(number: int) -> PlaceKey:
    return PlaceKey("g", UUID(int=1), number)


async def nothing() -> ReadResult | None:
    await asyncio.Event().wait()
    return None


def test_the_oldest_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is dropped is read no further; a partition has one piece."""
    monkeypatch.setattr(read_ahead, "PIECES_MAX", 2)

    async def test() -> None:
        ahead = ReadAhead()
        for number in (0, 1, 1, 2):
            ahead.begin(place(number), 5, False, nothing())
        assert len(ahead) == 2
        assert ahead.take(place(0), 5, False) is None
        assert ahead.take(place(1), 6, False) is None, "it begins elsewhere"
        assert ahead.take(place(1), 5, True) is None, "it may have what is not committed"
        taken = ahead.take(place(1), 5, False)
        assert taken is not None
        assert ahead.take(place(1), 5, False) is None, "it is another's"
        await ahead.close()
        assert len(ahead) == 0
        assert not taken.done()
        taken.cancel()

    asyncio.run(test())


def fill_memory(admin: Admin) -> None:
    """What was written before lies on the disk alone."""
    other = admin.create()
    for _ in range(40):
        produced(admin, other, batch(0, 1, 100_000))


def test_what_comes_next_is_read_while_a_member_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk is asked for the first records, and ahead for all others; each member gets those that follow."""
    read = delivery._read
    reads: list[tuple[int, bool]] = []

    async def noted(store: Any, slot: Any, at: int, end: int, bytes_max: int, *, at_least_one: bool) -> Any:
        reads.append((at, at_least_one))
        return await read(store, slot, at, end, bytes_max, at_least_one=at_least_one)

    monkeypatch.setattr(delivery, "_read", noted)
    with admin_of(tmp_path, *ON_DISK) as admin:
        topic = admin.create()
        for _ in range(3):
            produced(admin, topic, batch(0, 2, LARGE))
        fill_memory(admin)
        reader = Reader(admin, topic)
        told = [reader.get(2, lambda: None) for _ in range(4)]

    assert [one.acquired for one in told] == [[Acquired(first, first + 1, 1)] for first in (0, 2, 4)] + [()]
    assert all(one.records.size == len(batch(0, 2, LARGE)) for one in told[:3])
    assert reads == [(0, True), (2, False), (4, False)]


def test_a_read_ahead_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or that finds nothing in time: the records are read once more, for the member that asks."""
    read = delivery._read
    outcomes = iter([None, delivery.StoreError("it cannot be read")])

    async def failing(store: Any, slot: Any, at: int, end: int, bytes_max: int, *, at_least_one: bool) -> Any:
        if at_least_one:
            return await read(store, slot, at, end, bytes_max, at_least_one=True)
        outcome = next(outcomes)
        if outcome is not None:
            raise outcome
        return None

    monkeypatch.setattr(delivery, "_read", failing)
    with admin_of(tmp_path, *ON_DISK) as admin:
        topic = admin.create()
        for _ in range(3):
            produced(admin, topic, batch(0, 2, LARGE))
        fill_memory(admin)
        reader = Reader(admin, topic)
        told = [reader.get(2, lambda: None) for _ in range(3)]

    assert [one.acquired for one in told] == [[Acquired(first, first + 1, 1)] for first in (0, 2, 4)]
