"""Who copies a cluster's settings to the bucket, and which copy counts."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.cluster.settings_copy import Row, SettingsKey, SettingsView, Version
from gateway.cluster.settings_keeper import SettingsKeeper, copies, newest_copy, public_rows
from gateway.config.loading import load
from tests.core.cluster.coordinator import Coordinator, Seat
from tests.core.support import DEADLINE_S, run, until
from tests.core.tiering.support import storage_in
from tier2.filesystem import FilesystemStorage
from tier2.storage import Storage

IS_PUBLIC = public_rows(load(None, {}, []))


class Etcd:
    """The settings, and the revision of the last change."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.version = Version(1, 1)

    def view(self) -> SettingsView:
        return SettingsView(self.version, list(self.rows))

    def change(self, row: Row, version: Version) -> None:
        self.rows, self.version = [*self.rows, row], version


def keeper_of(storage: Storage, seat: Seat, etcd: Etcd, key: SettingsKey | None = None) -> SettingsKeeper:
    keeper = SettingsKeeper(storage, "c", seat, etcd.view, IS_PUBLIC, key)
    seat.on_changed(keeper.look)
    keeper.start()
    return keeper


async def newest(storage: FilesystemStorage) -> list[bytes]:
    found = await newest_copy(storage, None)
    return [] if found is None else sorted(value for _, _, value in found.rows)


async def until_newest(storage: FilesystemStorage, *values: bytes) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while await newest(storage) != list(values):  # noqa: ASYNC110 - a store has no event
            await asyncio.sleep(0.005)


async def until_kept(storage: Storage, *versions: Version) -> None:
    """Older ones go a moment after the newest is there."""
    async with asyncio.timeout(DEADLINE_S):
        while [info.key for info in await copies(storage)] != [one.key for one in versions]:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.cluster.settings_keeper.SETTLE_S", 0.0)
    monkeypatch.setattr("gateway.cluster.settings_keeper.RETRY_S", 0.02)


def test_the_first_node_copies_each_change_and_the_next_one_goes_on(tmp_path: Path) -> None:
    """Two copies stay. The other node writes nothing until it is its part, and nothing that is there already."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "bucket")
        coordinator, etcd = Coordinator(range(1)), Etcd()
        first, second = Seat(coordinator, 1), Seat(coordinator, 2)
        keepers = [keeper_of(storage, first, etcd), keeper_of(storage, second, etcd)]
        for number in range(4):
            etcd.change(("acls", b"%d" % number, b"%d" % number), Version(1, 10 + number))
            for keeper in keepers:
                keeper.changed()
            await until_newest(storage, *(b"%d" % one for one in range(number + 1)))
        await until_kept(storage, Version(1, 12), Version(1, 13))
        await keepers[0].stop()
        coordinator.end(first.life)
        etcd.change(("acls", b"4", b"4"), Version(2, 14))
        keepers[1].changed()
        await until_newest(storage, *(b"%d" % one for one in range(5)))
        assert not keepers[1].concern
        await keepers[1].stop()
        await storage.close()

    run(scenario())


def test_whoever_is_late_hides_nothing(tmp_path: Path) -> None:
    """A node that was cut off from etcd takes itself for the first one, and knows what was. So does any node when etcd
    was restored from a backup: what it has then is copied as soon as it has a name that counts."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "bucket")
        old, new = Etcd(), Etcd()
        old.change(("acls", b"a", b"old"), Version(1, 10))
        new.change(("acls", b"a", b"new"), Version(1, 20))
        awake = keeper_of(storage, Seat(Coordinator(range(1)), 1), new)
        await until_newest(storage, b"new")
        await awake.stop()
        late = keeper_of(storage, Seat(Coordinator(range(1)), 1), old)
        await until(lambda: late.concern)
        assert f"{Version(1, 20).key} is newer than etcd's settings, {Version(1, 10).key}" in late.concern
        assert [info.key for info in await copies(storage)] == [Version(1, 20).key]
        old.version = Version(2, 11)
        await until_newest(storage, b"old")
        await until(lambda: not late.concern)
        await late.stop()
        await storage.close()

    run(scenario())


def test_a_node_whose_key_was_forgotten_replaces_no_credentials(tmp_path: Path) -> None:
    """It says what is missing. Another key seals them anew: it has them from etcd."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "bucket")
        etcd, first, second = Etcd(), SettingsKey(b"1" * 32), SettingsKey(b"2" * 32)
        etcd.change(("scram", b"alice", b"secret"), Version(1, 10))
        for key, version in ((first, Version(1, 10)), (None, Version(1, 11)), (second, Version(1, 12))):
            etcd.version = version
            keeper = keeper_of(storage, Seat(Coordinator(range(1)), 1), etcd, key)
            if key is None:
                await until(lambda keeper=keeper: keeper.concern)  # type: ignore[misc]
                assert "this node has no cluster.settings.key" in keeper.concern
            else:
                name = tmp_path / "bucket" / version.key
                await until(name.exists)
            await keeper.stop()
        assert [info.key for info in await copies(storage)] == [Version(1, 10).key, Version(1, 12).key]
        found = await newest_copy(storage, second)
        assert found is not None
        assert [value for _, _, value in found.rows] == [b"secret"]
        await storage.close()

    run(scenario())
