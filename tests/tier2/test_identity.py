"""Whose prefix it is: who may begin there, who is refused, and that nothing there is ever changed."""

from __future__ import annotations

import asyncio
import json
import shutil
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
from gateway.ownership import OWNER_KEY, read_owner, remember
from tests.tier2.conftest import OpenStorage
from tests.tier2.loops import in_loop
from tier2.storage import Storage

pytestmark = pytest.mark.slow

OURS, THEIRS = "A" * 22, "B" * 22


def admission(tmp_path: Path, storage: Storage, cluster_id: str, *, fresh: bool) -> Admission:
    """That of a data directory named after its cluster."""
    data_dir = tmp_path / cluster_id
    data_dir.mkdir(exist_ok=True)
    return Admission(storage, "the place", data_dir, cluster_id, fresh)


async def objects(storage: Storage) -> dict[str, int]:
    return {info.key: info.size async for info in storage.list("")}


async def start(
    tmp_path: Path, storage: Storage, cluster_id: str, *, fresh: bool, has_chunks: bool = False
) -> Admission:
    """What a start does."""
    asked = admission(tmp_path, storage, cluster_id, fresh=fresh)
    await asked.look()
    await asked.admit(has_chunks)
    return asked


class TestAdmission:
    @in_loop
    async def test_first_start(self, open_storage: OpenStorage, tmp_path: Path) -> None:
        """A new store on an empty prefix makes it its own, and finds it so at every further start."""
        async with open_storage() as storage:
            await start(tmp_path, storage, OURS, fresh=True)
            await start(tmp_path, storage, OURS, fresh=False, has_chunks=True)
            found = await read_identity(storage, "the place")

            assert found is not None
            assert found.cluster_id == OURS
            assert list(await objects(storage)) == [IDENTITY_KEY, OWNER_KEY]

    @in_loop
    async def test_tiering_switched_on(self, open_storage: OpenStorage, tmp_path: Path) -> None:
        """A store that had no long-term storage may begin with it."""
        async with open_storage() as storage:
            await start(tmp_path, storage, OURS, fresh=False)

            assert await read_identity(storage, "the place") is not None

    @in_loop
    async def test_lost_disk(self, open_storage: OpenStorage, tmp_path: Path) -> None:
        """A new data directory on a prefix with data is told of `penstock recover`, before it is recovered."""
        async with open_storage() as storage:
            await start(tmp_path, storage, THEIRS, fresh=True)
            before = await objects(storage)
            with pytest.raises(IdentityRefused, match=r" is new.*`penstock recover`"):
                await admission(tmp_path, storage, OURS, fresh=True).look()
            assert await objects(storage) == before

    @in_loop
    async def test_foreign_prefix(self, open_storage: OpenStorage, tmp_path: Path) -> None:
        """A store with data of its own does not touch another one's."""
        async with open_storage() as storage:
            await start(tmp_path, storage, THEIRS, fresh=True)
            before = await objects(storage)
            with pytest.raises(IdentityRefused, match=f"belongs to cluster {THEIRS}"):
                await admission(tmp_path, storage, OURS, fresh=False).look()
            assert await objects(storage) == before

    @in_loop
    async def test_two_at_once(self, open_storage: OpenStorage, tmp_path: Path) -> None:
        """Of two that begin on one prefix at the same time, exactly one may."""
        async with open_storage() as one, open_storage() as other:
            outcomes = await asyncio.gather(
                start(tmp_path, one, OURS, fresh=True),
                start(tmp_path, other, THEIRS, fresh=True),
                return_exceptions=True,
            )

            assert [type(outcome) for outcome in outcomes if not isinstance(outcome, Admission)] == [IdentityRefused]

    @in_loop
    async def test_identity_gone(self, open_storage: OpenStorage, tmp_path: Path) -> None:
        """A store whose chunks should be there does not begin anew on an emptied prefix."""
        async with open_storage() as storage:
            asked = admission(tmp_path, storage, OURS, fresh=False)
            await asked.look()
            with pytest.raises(IdentityRefused, match="`penstock tier2 init`"):
                await asked.admit(True)
            assert await objects(storage) == {}

    @in_loop
    async def test_newer(self, open_storage: OpenStorage, tmp_path: Path) -> None:
        """A prefix that a later release has written is left alone, whoever it belongs to."""
        async with open_storage() as storage:
            await storage.put(IDENTITY_KEY, json.dumps({"format": 2, "needs_release": "42.0.0"}).encode())
            with pytest.raises(IdentityRefused, match=r"use Penstock 42\.0\.0 or later"):
                await admission(tmp_path, storage, OURS, fresh=True).look()

    @in_loop
    async def test_never_replaced(self, open_storage: OpenStorage, tmp_path: Path) -> None:
        """Creating it where it is leaves it as it is."""
        async with open_storage() as storage:
            first = await create_identity(storage, "the place", OURS)
            second = await create_identity(storage, "the place", THEIRS)

            assert first == second


class TestCopies:
    @in_loop
    async def test_a_copy_that_is_started_later(self, open_storage: OpenStorage, tmp_path: Path) -> None:
        """Of two copies of a data directory the one that was left behind is refused, and nothing is changed."""
        async with open_storage() as storage:
            await start(tmp_path, storage, OURS, fresh=True)
            copy = tmp_path / "copy"
            shutil.copytree(tmp_path / OURS, copy / OURS)
            await start(tmp_path, storage, OURS, fresh=False)
            before = await objects(storage)
            with pytest.raises(IdentityRefused, match=r"was taken by process .*another copy"):
                await start(copy, storage, OURS, fresh=False)
            assert await objects(storage) == before

    @in_loop
    async def test_a_copy_that_takes_over(self, open_storage: OpenStorage, tmp_path: Path) -> None:
        """A gateway that runs finds out that a copy of its directory was started."""
        async with open_storage() as storage:
            first = await start(tmp_path, storage, OURS, fresh=True)
            shutil.copytree(tmp_path / OURS, tmp_path / "copy" / OURS)
            await start(tmp_path / "copy", storage, OURS, fresh=False)
            async with asyncio.timeout(30):
                owner = await first.until_replaced(0.001)

            assert owner.token != first.token

    @in_loop
    async def test_a_crash_before_it_is_there(self, open_storage: OpenStorage, tmp_path: Path) -> None:
        """A token that never arrived locks nobody out."""
        async with open_storage() as storage:
            await start(tmp_path, storage, OURS, fresh=True)
            found = await read_owner(storage)
            assert found is not None
            remember(tmp_path / OURS, found.token, "f" * 32)

            await start(tmp_path, storage, OURS, fresh=False)

    @in_loop
    async def test_an_owner_that_cannot_be_read(self, open_storage: OpenStorage, tmp_path: Path) -> None:
        """What nobody can have written there keeps nobody out."""
        async with open_storage() as storage:
            await start(tmp_path, storage, OURS, fresh=True)
            for data in (b"{", b"[]", b"{}", b"\xff"):
                await storage.put(OWNER_KEY, data)
                await start(tmp_path, storage, OURS, fresh=False)


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
