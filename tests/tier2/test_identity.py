"""Whose prefix it is: who may begin there, who is refused, and that nothing there is ever changed."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from gateway.identity import (
    IDENTITY_KEY,
    Admission,
    DamagedIdentity,
    Identity,
    IdentityRefused,
    create_identity,
    decode_identity,
    read_identity,
)
from tests.tier2.conftest import OpenStorage
from tests.tier2.loops import in_loop
from tier2.storage import Storage

pytestmark = pytest.mark.slow

OURS, THEIRS = "A" * 22, "B" * 22


def admission(storage: Storage, cluster_id: str, *, fresh: bool) -> Admission:
    return Admission(storage, "the place", Path("/data"), cluster_id, fresh)


async def objects(storage: Storage) -> dict[str, int]:
    return {info.key: info.size async for info in storage.list("")}


async def start(storage: Storage, cluster_id: str, *, fresh: bool, has_chunks: bool = False) -> None:
    """What a start does."""
    asked = admission(storage, cluster_id, fresh=fresh)
    await asked.look()
    await asked.admit(has_chunks)


class TestAdmission:
    @in_loop
    async def test_first_start(self, open_storage: OpenStorage) -> None:
        """A new store on an empty prefix makes it its own, and finds it so at every further start."""
        async with open_storage() as storage:
            await start(storage, OURS, fresh=True)
            await start(storage, OURS, fresh=False, has_chunks=True)
            found = await read_identity(storage, "the place")

            assert found is not None
            assert found.cluster_id == OURS
            assert list(await objects(storage)) == [IDENTITY_KEY]

    @in_loop
    async def test_tiering_switched_on(self, open_storage: OpenStorage) -> None:
        """A store that had no long-term storage may begin with it."""
        async with open_storage() as storage:
            await start(storage, OURS, fresh=False)

            assert await read_identity(storage, "the place") is not None

    @in_loop
    async def test_lost_disk(self, open_storage: OpenStorage) -> None:
        """A new data directory on a prefix with data is told of `penstock recover`, before it is recovered."""
        async with open_storage() as storage:
            await start(storage, THEIRS, fresh=True)
            before = await objects(storage)
            with pytest.raises(IdentityRefused, match=r"/data is new.*`penstock recover`"):
                await admission(storage, OURS, fresh=True).look()
            assert await objects(storage) == before

    @in_loop
    async def test_foreign_prefix(self, open_storage: OpenStorage) -> None:
        """A store with data of its own does not touch another one's."""
        async with open_storage() as storage:
            await start(storage, THEIRS, fresh=True)
            before = await objects(storage)
            with pytest.raises(IdentityRefused, match=f"belongs to cluster {THEIRS}"):
                await admission(storage, OURS, fresh=False).look()
            assert await objects(storage) == before

    @in_loop
    async def test_two_at_once(self, open_storage: OpenStorage) -> None:
        """Of two that begin on one prefix at the same time, exactly one may."""
        async with open_storage() as one, open_storage() as other:
            outcomes = await asyncio.gather(
                start(one, OURS, fresh=True), start(other, THEIRS, fresh=True), return_exceptions=True
            )

            assert sorted(type(outcome) for outcome in outcomes if outcome is not None) == [IdentityRefused]

    @in_loop
    async def test_identity_gone(self, open_storage: OpenStorage) -> None:
        """A store whose chunks should be there does not begin anew on an emptied prefix."""
        async with open_storage() as storage:
            asked = admission(storage, OURS, fresh=False)
            await asked.look()
            with pytest.raises(IdentityRefused, match="`penstock tier2 init`"):
                await asked.admit(True)
            assert await objects(storage) == {}

    @in_loop
    async def test_newer(self, open_storage: OpenStorage) -> None:
        """A prefix that a later release has written is left alone, whoever it belongs to."""
        async with open_storage() as storage:
            await storage.put(IDENTITY_KEY, json.dumps({"format": 2, "needs_release": "42.0.0"}).encode())
            with pytest.raises(IdentityRefused, match=r"use Penstock 42\.0\.0 or later"):
                await admission(storage, OURS, fresh=True).look()

    @in_loop
    async def test_never_replaced(self, open_storage: OpenStorage) -> None:
        """Creating it where it is leaves it as it is."""
        async with open_storage() as storage:
            first = await create_identity(storage, "the place", OURS)
            second = await create_identity(storage, "the place", THEIRS)

            assert first == second


@pytest.mark.parametrize(
    "data",
    [
        b"{",
        b"[]",
        b"\xff",
        b'{"format": 0}',
        b'{"format": true}',
        b'{"format": "1"}',
        b'{"format": 1}',
        b'{"format": 1, "cluster_id": "short"}',
    ],
)
def test_damaged(data: bytes) -> None:
    """What Penstock cannot have written is damage, and named."""
    with pytest.raises(DamagedIdentity, match=r"the place: object identity\.json"):
        decode_identity("the place", data)


def test_round_trip() -> None:
    """What is written is what is read."""
    identity = Identity(OURS, 12_345)

    assert decode_identity("", identity.encode()) == identity
