"""The ownership of a prefix: who may begin there, who is refused, and that nothing there is ever changed."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE

import pytest

from gateway.long_term import liveness
from gateway.long_term.identity import (
    IDENTITY_KEY,
    Admission,
    DamagedIdentity,
    Identity,
    IdentityRefused,
    OwnerAlive,
    create_identity,
    decode_identity,
    read_identity,
)
from gateway.long_term.ownership import OWNER_KEY, Owner, beat, read_beat, read_owner, remember
from tests.tier2.conftest import OpenStorage
from tests.tier2.loops import in_loop
from tier2.storage import Storage

pytestmark = pytest.mark.slow

BEAT_S = 0.2
OURS, THEIRS = "A" * 22, "B" * 22


def admission(tmp_path: Path, storage: Storage, cluster_id: str, *, fresh: bool, take_over: bool = False) -> Admission:
    """The admission of a data directory named after its cluster."""
    data_dir = tmp_path / cluster_id
    data_dir.mkdir(exist_ok=True)
    return Admission(storage, "the place", data_dir, cluster_id, fresh, beat_s=BEAT_S, take_over=take_over)


async def objects(storage: Storage) -> dict[str, int]:
    return {info.key: info.size async for info in storage.list("")}


async def start(
    tmp_path: Path,
    storage: Storage,
    cluster_id: str,
    *,
    fresh: bool = False,
    has_chunks: bool = False,
    take_over: bool = False,
) -> Admission:
    """Do the steps of a start."""
    asked = admission(tmp_path, storage, cluster_id, fresh=fresh, take_over=take_over)
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
            owner = await read_owner(storage)
            assert owner is not None
            assert list(await objects(storage)) == [IDENTITY_KEY, OWNER_KEY, f"owners/{owner.token}.json"]

    @in_loop
    async def test_tiering_switched_on(self, open_storage: OpenStorage, tmp_path: Path) -> None:
        """A store that had no long-term storage may begin with it."""
        async with open_storage() as storage:
            await start(tmp_path, storage, OURS, fresh=False)

            assert await read_identity(storage, "the place") is not None

    @in_loop
    async def test_lost_disk(self, open_storage: OpenStorage, tmp_path: Path) -> None:
        """A new data directory on a prefix with data is refused with a hint at `penstock recover`."""
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
        """Exactly one of two gateways that begin on one prefix at the same time may."""
        async with open_storage() as one, open_storage() as other:
            outcomes = await asyncio.gather(
                start(tmp_path, one, OURS, fresh=True),
                start(tmp_path, other, THEIRS, fresh=True),
                return_exceptions=True,
            )

            assert [type(outcome) for outcome in outcomes if not isinstance(outcome, Admission)] == [IdentityRefused]

    @in_loop
    async def test_identity_gone(self, open_storage: OpenStorage, tmp_path: Path) -> None:
        """A store whose chunks should be there does not start over on an emptied prefix."""
        async with open_storage() as storage:
            asked = admission(tmp_path, storage, OURS, fresh=False)
            await asked.look()
            with pytest.raises(IdentityRefused, match="`penstock tier2 init`"):
                await asked.admit(True)
            assert await objects(storage) == {}

    @in_loop
    async def test_newer(self, open_storage: OpenStorage, tmp_path: Path) -> None:
        """A prefix that a later release has written is left alone, whatever its cluster."""
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
        """The copy of a data directory that was left behind is refused, and nothing is changed."""
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
            await start(tmp_path / "copy", storage, OURS, take_over=True)
            async with asyncio.timeout(30):
                owner = await first.until_replaced()

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
        """An owner object that Penstock cannot have written keeps no start out."""
        async with open_storage() as storage:
            await start(tmp_path, storage, OURS, fresh=True)
            for data in (b"{", b"[]", b"{}", b"\xff"):
                await storage.put(OWNER_KEY, data)
                await start(tmp_path, storage, OURS, fresh=False)


async def elsewhere(storage: Storage, **changes: object) -> None:
    """Let the owner be a process of another machine."""
    owner = await read_owner(storage)
    assert owner is not None
    await storage.put(OWNER_KEY, replace(owner, process="another boot 1 1", **changes).encode())  # type: ignore[arg-type]


async def beats_of(storage: Storage, token: str, beats: int) -> None:
    """Return when the owner has given that many signs of life."""
    now = None
    while now is None or now.beats < beats:
        now = await read_beat(storage, token)
        await asyncio.sleep(BEAT_S / 4)


class TestBesideAnOwner:
    @in_loop
    async def test_a_copy_beside_a_process_that_runs(self, open_storage: OpenStorage, tmp_path: Path) -> None:
        """A copy is refused while the owner runs on this machine, however silent, and has changed nothing."""
        async with open_storage() as storage:
            await start(tmp_path, storage, OURS, fresh=True)
            shutil.copytree(tmp_path / OURS, tmp_path / "copy" / OURS)
            before = await objects(storage)
            with pytest.raises(OwnerAlive, match=r"is alive.*`--take-over`.*`penstock recover --drill`"):
                await start(tmp_path / "copy", storage, OURS)
            assert await objects(storage) == before

    @in_loop
    async def test_an_owner_elsewhere_that_beats(self, open_storage: OpenStorage, tmp_path: Path) -> None:
        """An owner on another machine is alive when it gives a sign of life while it is watched."""
        async with open_storage() as storage:
            first = await start(tmp_path, storage, OURS, fresh=True)
            await elsewhere(storage)
            shutil.copytree(tmp_path / OURS, tmp_path / "copy" / OURS)
            running = asyncio.create_task(first.until_replaced())
            with pytest.raises(OwnerAlive):
                await start(tmp_path / "copy", storage, OURS)
            running.cancel()

    @in_loop
    async def test_an_owner_elsewhere_that_is_silent(self, open_storage: OpenStorage, tmp_path: Path) -> None:
        """An owner on another machine that gives no sign of life for two beats is dead: no flag is needed."""
        async with open_storage() as storage:
            await start(tmp_path, storage, OURS, fresh=True)
            await elsewhere(storage)
            shutil.copytree(tmp_path / OURS, tmp_path / "copy" / OURS)
            await start(tmp_path / "copy", storage, OURS)

    @in_loop
    async def test_an_owner_that_stopped(self, open_storage: OpenStorage, tmp_path: Path) -> None:
        """After a clean stop a copy begins at once, wherever the owner was."""
        async with open_storage() as storage:
            first = await start(tmp_path, storage, OURS, fresh=True)
            await first.release()
            await elsewhere(storage, beat_ms=600_000)
            shutil.copytree(tmp_path / OURS, tmp_path / "copy" / OURS)
            async with asyncio.timeout(30):
                await start(tmp_path / "copy", storage, OURS)

    @in_loop
    async def test_the_same_directory(self, open_storage: OpenStorage, tmp_path: Path) -> None:
        """The owner's own directory needs neither a flag nor patience, because its owner is dead."""
        async with open_storage() as storage:
            await start(tmp_path, storage, OURS, fresh=True)
            async with asyncio.timeout(30):
                await start(tmp_path, storage, OURS)

    @in_loop
    async def test_an_older_release(self, open_storage: OpenStorage, tmp_path: Path) -> None:
        """An older release's owner is read, is no sign of life, and keeps out no start that knows its token."""
        async with open_storage() as storage:
            await start(tmp_path, storage, OURS, fresh=True)
            token = "0" * 32
            old = {"token": token, "since_ms": 1_700_000_000_000, "host": "old", "pid": 4711}
            await storage.put(OWNER_KEY, json.dumps(old).encode() + b"\n")
            remember(tmp_path / OURS, token)
            assert await read_owner(storage) == Owner(token, 1_700_000_000_000, "old", 4711)
            await start(tmp_path, storage, OURS)

    @in_loop
    async def test_an_owner_that_wakes_up(self, open_storage: OpenStorage, tmp_path: Path) -> None:
        """An owner that stood still while it was replaced learns of it, and has not become the owner again."""
        async with open_storage() as storage:
            first = await start(tmp_path, storage, OURS, fresh=True)
            shutil.copytree(tmp_path / OURS, tmp_path / "copy" / OURS)
            second = await start(tmp_path / "copy", storage, OURS, take_over=True)
            await beat(storage, first.token, 7)  # that it was about to give
            owner = await first.until_replaced()
            assert owner.token == second.token
            async with asyncio.timeout(30):
                watched = asyncio.create_task(second.until_replaced())
                await beats_of(storage, second.token, 2)
                assert not watched.done()
                watched.cancel()

    @in_loop
    async def test_signs_of_life_do_not_pile_up(self, open_storage: OpenStorage, tmp_path: Path) -> None:
        """Signs of life of earlier starts go."""
        async with open_storage() as storage:
            for _ in range(4):
                await start(tmp_path, storage, OURS)

            assert len([key for key in await objects(storage) if key.startswith("owners/")]) == 1


def test_an_older_release_reads_the_owner() -> None:
    """The fields that an older release looks at are there, of the same kinds."""
    fields = json.loads(Owner("a" * 32, 1, "h", 2, "boot 1 2", "8:1", 20_000).encode())

    assert {name: type(fields[name]) for name in ("token", "since_ms", "host", "pid")} == {
        "token": str,
        "since_ms": int,
        "host": str,
        "pid": int,
    }


class TestLiveness:
    def test_ourselves(self) -> None:
        """This process runs, and left its mark since this boot."""
        assert liveness.runs(liveness.own_mark(), os.getpid()) is True
        assert liveness.is_of_this_boot(liveness.own_mark())

    def test_a_dead_one(self) -> None:
        """A process that has ended, waited for or not, does not run."""
        code = "from gateway.long_term import liveness; print(liveness.own_mark(), flush=True); input()"
        with subprocess.Popen([sys.executable, "-c", code], stdin=PIPE, stdout=PIPE, text=True) as process:
            assert process.stdout is not None
            mark = process.stdout.readline().strip()
            assert liveness.runs(mark, process.pid) is True
            process.kill()
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            assert liveness.runs(mark, process.pid) is False
            process.wait()
            assert liveness.runs(mark, process.pid) is False

    def test_a_pid_that_was_given_again(self) -> None:
        """Another process of the same number is another process."""
        scope = liveness.own_mark().rpartition(" ")[0]

        assert liveness.runs(f"{scope} 1", os.getpid()) is False

    @pytest.mark.parametrize("mark", ["", "x", "another boot 1 1"])
    def test_another_machine(self, mark: str) -> None:
        """Nothing is known of an owner that ran elsewhere, or left nothing that can be read."""
        assert liveness.runs(mark, os.getpid()) is None

    @pytest.mark.parametrize("pid", [0, -1, 1 << 40])
    def test_no_pid(self, pid: int) -> None:
        """Numbers that are no process's ask about nobody."""
        assert liveness.runs(liveness.own_mark(), pid) is None


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
    """An object that Penstock cannot have written is damage, and named."""
    with pytest.raises(DamagedIdentity, match=r"the place: object identity\.json"):
        decode_identity("the place", data)


def test_round_trip() -> None:
    """A written identity is read as it was."""
    identity = Identity(OURS, 12_345)

    assert decode_identity("", identity.encode()) == identity
