"""A store whose log lies in an object store: its directory may vanish, and nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from core.clock import SystemClock
from core.config import LogStore, StoreConfig
from core.errors import StorageFailure
from core.log.objects.format import HEADER_SIZE
from core.log.objects.home import CHECKPOINT_OBJECTS
from core.log.objects.manifest import newest_manifest
from core.store import Store
from core.streams.live import Slot
from core.tiering.context import LongTermStorage
from tests.core.support import append, begin_append, container_of, make, policy_from, read_all, run, until
from tests.core.tiering.support import AGEING, CLUSTER, TIERING, fill, storage_in
from tests.tier2.chunks import entry, head_of
from tier2.filesystem import FilesystemStorage
from tier2.storage import AlreadyExists, Buffer, Data, ObjectStat, Storage, Unavailable

pytestmark = pytest.mark.slow

OBJECTS = replace(TIERING, log_store=LogStore.OBJECT)
UNCUT = replace(OBJECTS, chunk_bytes=1 << 20)
"""Nothing comes into chunks, however long a test takes: `OBJECTS` has some after a second."""
CUTTING = replace(AGEING, log_store=LogStore.OBJECT)
MANY_FILES = 6 * OBJECTS.log_file_bytes


@asynccontextmanager
async def store_on(
    machine: Path, storage: Storage, config: StoreConfig = OBJECTS, *, clean: bool = False
) -> AsyncIterator[Store]:
    """A store on a machine; its end is a crash."""
    long_term = LongTermStorage(storage=storage, cluster_id=CLUSTER, head_of=head_of)
    store = await Store.open(machine / "store", config, policy_from, SystemClock(), long_term)
    try:
        yield store
    finally:
        await store.close(clean=clean)


def text(number: int) -> bytes:
    return bytes(entry(number, 1, 1000 + number, b"%d" % number).payload)


def found(store: Store) -> Slot:
    stream = store.streams.get("s")
    assert stream is not None, "the stream is gone"
    return stream.slot(0)


async def contents(store: Store, slot: Slot) -> bytes:
    return b"".join(await read_all(store, slot))


class Faulty:
    """The conditional puts of a store that loses answers, answers late and reports conflicts."""

    def __init__(self, inner: FilesystemStorage) -> None:
        self._inner = inner
        self.faults: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.met: list[str] = []
        self.told: Callable[[], object] = lambda: None  # called before each put
        self.takes_state = asyncio.Event()
        self.takes_state.set()
        self.takes_cuts = asyncio.Event()
        self.takes_cuts.set()
        self.cutting = 0  # objects of the log that are to be removed, and wait
        self.waiting = 0
        self.state: list[str] = []  # what has been put without a condition

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    async def put(self, key: str, data: Data, *, token: str = "") -> ObjectStat:
        if key.startswith("state/"):
            self.waiting += 1
            await self.takes_state.wait()
        stat = await self._inner.put(key, data, token=token)
        self.state.append(key)
        return stat

    async def delete_many(self, keys: Sequence[str]) -> None:
        if keys[0].startswith("log/"):
            self.cutting += len(keys)
            await self.takes_cuts.wait()
        await self._inner.delete_many(keys)

    async def put_new(self, key: str, data: Buffer, *, token: str = "") -> ObjectStat:
        if not key.startswith("log/"):
            return await self._inner.put_new(key, data, token=token)
        await self.gate.wait()
        self.told()
        fault = self.faults.pop(0) if self.faults else ""
        self.met.append(fault)
        if fault == "conflict":
            raise AlreadyExists(key)
        if fault == "away":
            raise Unavailable("the store is away")
        stat = await self._inner.put_new(key, data, token=token)
        if fault == "lost answer":
            raise Unavailable("the answer was lost")
        return stat


@pytest.mark.parametrize("clean", [True, False], ids=["stopped", "killed"])
def test_a_vanished_disk_loses_nothing(tmp_path: Path, clean: bool) -> None:
    """Start, append, lose the whole directory, start elsewhere, several times; several files of the log each."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "bucket")
        written: list[bytes] = []
        for number in range(3):
            async with store_on(tmp_path / f"machine-{number}", storage, clean=clean) as store:
                stream = store.streams.get("s") or await make(store)
                slot = stream.slot(0)
                assert await contents(store, slot) == b"".join(written)
                written += await fill(slot, 2 * OBJECTS.log_file_bytes)
                assert await contents(store, slot) == b"".join(written)
            shutil.rmtree(tmp_path / f"machine-{number}")
        await storage.close()

    run(scenario())


def test_what_is_not_stored_yet_can_be_read(tmp_path: Path) -> None:
    """It lies in the files here, and nobody is told of it: only who asks for it by name reads it."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "bucket")
        faulty = Faulty(storage)
        async with store_on(tmp_path / "a", faulty) as store:  # type: ignore[arg-type]
            slot = (await make(store)).slot(0)
            await append(slot, text(0))
            faulty.gate.clear()
            _, late = begin_append(slot, text(1))
            log = container_of(store).log
            await log.filled()
            assert log.durable_lsn < log.filled_lsn == log.next_lsn - 1
            assert (slot.durable_end, late.future.done()) == (1, False)
            reader = store.hosted(slot).reader
            assert list(map(bytes, (await reader.read(slot, 1, 2, 1 << 20, True)).parts)) == [text(1)]
            assert await contents(store, slot) == text(0)
            faulty.gate.set()
            await late.future
            assert log.durable_lsn == log.filled_lsn
        await storage.close()

    run(scenario())


def test_the_log_is_cut_behind_a_stored_checkpoint(tmp_path: Path) -> None:
    """What is in chunks leaves the log's objects too; a start elsewhere has the state from the checkpoint."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "bucket")
        async with store_on(tmp_path / "a", storage, CUTTING) as store:
            slot = (await make(store)).slot(0)
            written = await fill(slot, MANY_FILES)
            await until(lambda: container_of(store).files.bytes < 2 * OBJECTS.log_file_bytes)
            await asyncio.sleep(0.5)
            written += await fill(slot, OBJECTS.log_file_bytes // 2)
            await store.containers[0].maintenance.store_now()  # a crash in the midst of one leaves two
        first = [info.key async for info in storage.list("log/0/00000000000000000001/")]
        assert len([info async for info in storage.list("state/0/manifests/")]) == 1
        assert int(first[0].rpartition("/")[2]) > 1, "the log was not cut"
        assert [info.size async for info in storage.list("log/0/00000000000000000000/")] == [96], "the fence is gone"
        shutil.rmtree(tmp_path / "a")
        for machine in ("b", "c"):
            async with store_on(tmp_path / machine, storage, CUTTING) as store:
                slot = found(store)
                assert await contents(store, slot) == b"".join(written)
                written += await fill(slot, 2 * OBJECTS.log_file_bytes)
                assert await contents(store, slot) == b"".join(written)
        await storage.close()

    run(scenario())


def test_a_takeover_replays_what_came_behind_the_last_checkpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is in chunks, so the log begins where it began; but its state and indices are stored once it has grown,
    and again only when it has grown again. What is put away is what is new."""
    caplog.set_level(logging.INFO)

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "bucket")
        faulty = Faulty(storage)
        async with store_on(tmp_path / "a", faulty, UNCUT) as store:  # type: ignore[arg-type]
            slot = (await make(store)).slot(0)
            maintenance = store.containers[0].maintenance
            written = await fill(slot, 2 * OBJECTS.log_file_bytes)
            for number in range(CHECKPOINT_OBJECTS):
                await append(slot, text(number))
            await maintenance.store_now()
            first = [key for key in faulty.state if "/files/" in key]
            assert any(key.endswith(".idx") for key in first)
            faulty.state.clear()
            await append(slot, text(50))
            await maintenance.checkpoint()
            await maintenance.store_away()
            assert faulty.state == [], "too little is new"
            for number in range(51, 51 + CHECKPOINT_OBJECTS):
                await append(slot, text(number))
            await maintenance.checkpoint()
            await maintenance.store_away()
            again = {key.rpartition("/")[2] for key in faulty.state if "/files/" in key}
            assert again
            kept = {key.rpartition("/")[2] for key in first if key.endswith((".idx", ".sst"))}
            assert kept.isdisjoint(again)
            await append(slot, text(100))
            numbers = [*range(CHECKPOINT_OBJECTS), *range(50, 51 + CHECKPOINT_OBJECTS), 100]
        caplog.clear()
        async with store_on(tmp_path / "b", storage, UNCUT) as store:
            assert await contents(store, found(store)) == b"".join([*written, *map(text, numbers)])
            assert store.replayed_bytes < 1_000
        read = [record for record in caplog.records if record.message == "reading log file"]
        assert len(read) == 1, "indices of complete files are there"
        assert len([info async for info in storage.list("state/0/manifests/")]) == 1
        await storage.close()

    run(scenario())


def test_a_store_that_takes_no_checkpoint_delays_none_on_this_machine(tmp_path: Path) -> None:
    """The state on disk keeps up with the log, and the log's objects stay; once the store takes it, they are cut."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "bucket")
        faulty = Faulty(storage)
        faulty.takes_state.clear()
        async with store_on(tmp_path / "a", faulty, CUTTING) as store:  # type: ignore[arg-type]
            slot = (await make(store)).slot(0)
            written = await fill(slot, MANY_FILES)
            await until(lambda: container_of(store).files.bytes < 2 * OBJECTS.log_file_bytes)
            await until(lambda: faulty.waiting > 0)
            written += await fill(slot, OBJECTS.log_file_bytes)
            end = container_of(store).log.durable_lsn
            await until(lambda: store.containers[0].maintenance.position.lsn >= end)
            assert [info async for info in storage.list("state/0/manifests/")] == []
            faulty.takes_state.set()
            await until(lambda: any(key.startswith("state/0/manifests/") for key in faulty.state))
        async with store_on(tmp_path / "b", storage, CUTTING) as store:
            assert await contents(store, found(store)) == b"".join(written)
        await storage.close()

    run(scenario())


def test_a_checkpoint_waits_for_no_removal_of_what_it_has_cut(tmp_path: Path) -> None:
    """A busy log has thousands of objects to remove behind each cut. An owner that hands it over stores a last
    checkpoint meanwhile, and the next cut takes up what was left."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "bucket")
        faulty = Faulty(storage)
        faulty.takes_cuts.clear()
        async with store_on(tmp_path / "a", faulty, CUTTING) as store:  # type: ignore[arg-type]
            slot = (await make(store)).slot(0)
            written = await fill(slot, MANY_FILES)
            await until(lambda: faulty.cutting > 0)
            written += await fill(slot, OBJECTS.log_file_bytes // 2)
            end = container_of(store).log.durable_lsn
            async with asyncio.timeout(30):
                await store.containers[0].maintenance.store_now()
            manifest = await newest_manifest(storage, 0)
            assert manifest is not None
            assert manifest.lsn >= end
        first = {info.key async for info in storage.list("log/0/") if info.size > HEADER_SIZE}
        async with store_on(tmp_path / "b", storage, CUTTING) as store:
            slot = found(store)
            assert await contents(store, slot) == b"".join(written)
            written += await fill(slot, MANY_FILES)
            left = first
            async with asyncio.timeout(30):
                while left:
                    left = first & {info.key async for info in storage.list("log/0/")}
            assert await contents(store, slot) == b"".join(written)
        await storage.close()

    run(scenario())


def test_nothing_is_acknowledged_before_it_is_stored(tmp_path: Path) -> None:
    """While the store does not answer, appends wait; a crash then loses what nobody was told of."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "bucket")
        faulty = Faulty(storage)
        async with store_on(tmp_path / "a", faulty) as store:  # type: ignore[arg-type]
            slot = (await make(store)).slot(0)
            await append(slot, text(0))
            faulty.gate.clear()
            outcomes = [begin_append(slot, text(number))[1] for number in range(1, 4)]
            await asyncio.sleep(0.2)
            assert not any(outcome.future.done() for outcome in outcomes)
            shutil.copytree(tmp_path / "a", tmp_path / "b")
            async with store_on(tmp_path / "b", storage) as other:
                assert await contents(other, found(other)) == text(0)
            faulty.gate.set()
        await storage.close()

    run(scenario())


@pytest.mark.parametrize("fault", ["lost answer", "conflict", "away"])
def test_unknown_outcomes_are_settled(tmp_path: Path, fault: str) -> None:
    """A lost answer, a conflict that left nothing, and an absence: each append is acknowledged once, in order."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "bucket")
        faulty = Faulty(storage)
        async with store_on(tmp_path / "a", faulty) as store:  # type: ignore[arg-type]
            slot = (await make(store)).slot(0)
            faulty.faults = [fault, "", fault, fault]
            concerns: list[str] = []
            faulty.told = lambda: concerns.extend(store.containers[0].concerns())
            for number in range(10):
                await append(slot, text(number))
            assert faulty.met.count(fault) == 3
            assert bool(concerns) is (fault != "conflict"), "an operator is told while the store does not answer"
            assert all(
                "the log of container 0 is held up: the object store does not take it" in one for one in concerns
            )
            assert store.containers[0].concerns() == []
        async with store_on(tmp_path / "b", storage) as store:
            assert await contents(store, found(store)) == b"".join(text(number) for number in range(10))
        await storage.close()

    run(scenario())


def test_an_owner_that_slept_acknowledges_nothing(tmp_path: Path) -> None:
    """Another machine takes over while puts of the first are on their way: they fail, whatever comes after."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "bucket")
        faulty = Faulty(storage)
        sleeper = Store.open(
            tmp_path / "a" / "store",
            OBJECTS,
            policy_from,
            SystemClock(),
            LongTermStorage(storage=faulty, cluster_id=CLUSTER, head_of=head_of),  # type: ignore[arg-type]
        )
        store = await sleeper
        slot = (await make(store)).slot(0)
        await append(slot, text(0))
        faulty.gate.clear()
        _, late = begin_append(slot, text(1))
        async with store_on(tmp_path / "b", storage) as other:
            theirs = found(other)
            await append(theirs, text(2))
            faulty.gate.set()
            with pytest.raises(StorageFailure, match="taken over"):
                await late.future
            await append(theirs, text(3))
            assert await contents(other, theirs) == b"".join([text(0), text(2), text(3)])
        await store.close(clean=False)
        await storage.close()

    run(scenario())


@pytest.mark.parametrize("harm", ["missing", "header", "bytes", "cut off"])
def test_a_damaged_log_object_is_refused_by_name(tmp_path: Path, harm: str) -> None:
    """Nothing is fenced or changed, and once the object is back the store starts with everything."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "bucket")
        async with store_on(tmp_path / "a", storage) as store:
            slot = (await make(store)).slot(0)
            for number in range(8):
                await append(slot, text(number))
        keys = [info.key async for info in storage.list("log/0/00000000000000000001/")]
        key = keys[len(keys) // 2]
        size = (await storage.stat(key) or pytest.fail("no object")).size
        whole = await storage.get_range(key, 0, size)
        harmed = {
            "header": bytes([whole[0] ^ 1]) + whole[1:],
            "bytes": whole[:-1] + bytes([whole[-1] ^ 1]),
            "cut off": whole[:-1],
        }
        await storage.delete(key)
        if harm in harmed:
            await storage.put(key, harmed[harm])
        with pytest.raises(StorageFailure, match=rf"{key} .*\. (Nothing was changed; r|R)estore the object"):
            async with store_on(tmp_path / "b", storage):
                pass
        await storage.put(key, whole)
        async with store_on(tmp_path / "c", storage) as store:
            assert await contents(store, found(store)) == b"".join(text(number) for number in range(8))
        await storage.close()

    run(scenario())
