"""Random schedules over the writer, the takeover and the removal that serve, on a store that misbehaves.

Puts are delayed, lost, stored without an answer, stored after the caller gave up, refused with a conflict that left
nothing, or refused because the caller's own put is there. Owners sleep and wake. Whatever happens, a later taker finds
every group that was acknowledged, with the same bytes, and can go on; and mistakes that are planted here are found.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from core.errors import StorageFailure
from core.log.format import FILE_HEADER_SIZE, KIND_UPDATE, Buffer, FileHeader, decode_frame, encode_frame
from core.log.interface import LogReports, LogWriter, SyncStats
from core.log.log_file import LogFile, LogPosition
from core.log.objects import writer as writing
from core.log.objects.format import Stretch, log_prefix
from core.log.objects.home import remove_before
from core.log.objects.manifest import Manifest, StateFile, files_prefix, manifest_key, newest_manifest
from core.log.objects.protocol import Outcome, Owned, Place, Takeover
from core.log.objects.reading import read_bytes, take_over
from core.log.objects.writer import ObjectLog, ObjectWriter
from core.log.slabs import FileImage
from tests.core.log.objects.test_protocol import NUMBER, AcknowledgesAtOnce, searched
from tests.faults.settings import scaled
from tier2.storage import (
    AlreadyExists,
    Corrupt,
    Data,
    ObjectInfo,
    ObjectNotFound,
    ObjectStat,
    Storage,
    Unavailable,
)

pytestmark = pytest.mark.slow

T = TypeVar("T")
CONTAINER = 7
OWNERS_MAX = 4
TURNS = 30
"""Of the loop, after which nothing moves any more without another rule."""
HOW = ("comes", "comes", "comes", "answer lost", "never arrives", "comes late", "conflict", "refused as its own")


@dataclass
class Put:
    """A put that its owner has sent, and that has not come to the store yet."""

    key: str
    data: bytes
    done: asyncio.Future[None]


class Objects:
    """All that the store has."""

    def __init__(self) -> None:
        self.stored: dict[str, bytes] = {}
        self.states: dict[str, dict[int, bytes]] = {}  # what a checkpoint's file stands for, by its key

    def put_new(self, key: str, data: bytes) -> bool:
        return self.stored.setdefault(key, data) is data


class Door:
    """The store as one owner sees it. Its puts come when the schedule says so; its other calls when it is awake."""

    def __init__(self, objects: Objects, *, sequence_only: bool) -> None:
        self._objects = objects
        self._sequence_only = sequence_only
        self.is_taking = True
        self.steps = asyncio.Semaphore(0)  # of a taker
        self.is_free = False  # a taker that needs no leave
        self.sent: list[Put] = []

    def _name(self, key: str) -> str:
        if not self._sequence_only or not key.startswith("log/"):
            return key
        return f"{log_prefix(CONTAINER)}{0:020d}/{key.rpartition('/')[2]}"

    async def _leave(self) -> None:
        if self.is_taking and not self.is_free:
            await self.steps.acquire()

    async def put_new(self, key: str, data: Data, *, token: str = "") -> ObjectStat:
        assert isinstance(data, bytes)
        if self.is_taking:
            await self._leave()
            if not self._objects.put_new(self._name(key), data):
                raise AlreadyExists(key)
        else:
            put = Put(self._name(key), data, asyncio.get_running_loop().create_future())
            self.sent.append(put)
            await put.done
        return ObjectStat(size=len(data), etag="", modified_ms=0, token=token)

    async def put(self, key: str, data: Data, *, token: str = "") -> ObjectStat:
        assert isinstance(data, bytes)
        self._objects.stored[key] = data
        return ObjectStat(size=len(data), etag="", modified_ms=0, token=token)

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        await self._leave()
        data = self._objects.stored.get(self._name(key))
        if data is None:
            raise ObjectNotFound(key)
        if len(data) < start + length:
            raise Corrupt(key, len(data), "ends here")
        return data[start : start + length]

    async def list(self, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        await self._leave()
        for key, data in sorted(self._objects.stored.items()):
            if key.startswith(prefix) and key > after:
                yield ObjectInfo(key=key, size=len(data), modified_ms=0)

    async def delete(self, key: str) -> None:
        self._objects.stored.pop(key, None)

    async def delete_many(self, keys: Sequence[str]) -> None:
        for key in keys:
            await self.delete(key)


class Cache:
    """The files: written at once, never full."""

    is_full = False
    hindrance = ""
    next_room = 1 << 30

    def __init__(self, size: int, reports: LogReports) -> None:
        self._reports = reports
        self.stats = SyncStats()

    async def start(self) -> None:
        pass

    def can_grow(self, size: int) -> bool:
        return True

    def roll(self, header: FileHeader, image: FileImage, old: LogFile | None) -> int:
        return self.next_room

    def write(self, buffers: list[Buffer], end: LogPosition) -> None:
        asyncio.get_running_loop().call_soon(self._reports.on_written, end)

    def sync(self) -> None:
        pass

    async def close(self) -> None:
        pass


@dataclass
class Owner:
    """One machine that owns the log, or tries to, or did."""

    number: int
    door: Door
    objects: Objects
    taking: asyncio.Task[Owned] | None = None
    stretches: dict[Place, Stretch] = field(default_factory=dict)
    writer: LogWriter | None = None
    epoch: int = 0
    next_lsn: int = 0
    file_lsn: int = 0
    position: int = 0
    written: dict[int, bytes] = field(default_factory=dict)  # by LSN: what it has read and written
    stored_lsn: int = 0  # up to here it has read or was told that it is stored
    acknowledged: dict[int, bytes] = field(default_factory=dict)
    starts: dict[int, Place] = field(default_factory=dict)  # of files, by first LSN
    failed: StorageFailure | None = None
    manifest: Manifest | None = None
    pending: Manifest | None = None  # its files are stored, and itself is on its way
    checkpoints: int = 0

    # LogReports

    def on_filled(self, lsn: int) -> None:
        assert lsn < self.next_lsn

    def on_written(self, end: LogPosition) -> None:
        raise AssertionError("nothing is durable by the file alone")

    def on_synced(self, lsn: int) -> None:
        raise AssertionError("nothing is durable by the file alone")

    def on_written_and_synced(self, end: LogPosition) -> None:
        assert self.failed is None, "acknowledged after a failure"
        for lsn in range(self.stored_lsn + 1, end.lsn + 1):
            self.acknowledged[lsn] = self.written[lsn]
        self.stored_lsn = end.lsn

    def on_rolled(self, old: LogFile) -> None:
        pass

    def on_failed(self, error: StorageFailure) -> None:
        self.failed = error

    # Life

    async def begin(self) -> None:
        """Serve what was taken over."""
        assert self.taking is not None
        owned = self.taking.result()
        manifest = await newest_manifest(self.storage, CONTAINER)
        for file in () if manifest is None else manifest.files:
            await self.storage.get_range(file.key, 0, file.size)
            self.written |= self.objects.states[file.key]
        for group in owned.groups:
            stretch = self.stretches[group.place]
            data = memoryview(await read_bytes(self.storage, CONTAINER, group, stretch))
            position = 0
            if stretch.position == 0:
                self.starts[group.place.lsn] = group.place
                position = FILE_HEADER_SIZE
            while position < len(data):
                frame = decode_frame(data, position, stretch.file_id)
                self.written[frame.lsn] = bytes(data[position : frame.end])
                position = frame.end
        self.door.is_taking = False
        self.epoch, self.next_lsn, self.stored_lsn = owned.place.epoch, owned.place.lsn, owned.place.lsn - 1
        settings = ObjectLog(storage=self.storage, container=CONTAINER, place=owned.place, linger_s=0.0)
        self.writer = ObjectWriter(settings, 1 << 20, self, Cache)
        await self.writer.start()
        self.roll()

    @property
    def storage(self) -> Storage:
        return self.door  # type: ignore[return-value]

    def roll(self) -> None:
        assert self.writer is not None
        self.file_lsn, self.position = self.next_lsn, FILE_HEADER_SIZE
        self.starts[self.file_lsn] = Place(self.epoch, self.file_lsn)
        header = FileHeader(
            container=CONTAINER, first_lsn=self.file_lsn, file_id=self.number + 1, epoch=self.epoch, created_ms=0
        )
        self.writer.roll(header, None, None)  # type: ignore[arg-type]

    def append(self) -> None:
        assert self.writer is not None
        body = b"by owner %d" % self.number
        data = encode_frame(self.next_lsn, self.stored_lsn, self.number + 1, KIND_UPDATE, body)
        self.written[self.next_lsn] = data
        self.position += len(data)
        self.writer.write([data[:3], data[3:]], LogPosition(self.next_lsn, self.file_lsn, self.position))
        self.next_lsn += 1


class Schedules(RuleBasedStateMachine):
    """One container's log under several owners, only one of which owns it."""

    sequence_only: ClassVar[bool] = False
    deletes_fences: ClassVar[bool] = False
    replaced: ClassVar[dict[str, object]] = {}  # in the writer's module
    removes: ClassVar[Callable[[Storage, int, Manifest], Coroutine[Any, Any, None]]] = staticmethod(remove_before)

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        for name, value in {"PAUSE_S": 0.0, **self.replaced}.items():
            self.patch.setattr(writing, name, value)
        self.loop = asyncio.new_event_loop()
        self.objects = Objects()
        self.owners: list[Owner] = []
        self.late: list[Put] = []
        self.finish(self.new_owner())

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        async def and_all_that_follows() -> T:
            done = await work
            for _ in range(TURNS):
                await asyncio.sleep(0)
            return done

        return self.loop.run_until_complete(and_all_that_follows())

    async def nothing(self) -> None:
        pass

    def new_owner(self) -> Owner:
        async def make() -> Owner:
            owner = Owner(len(self.owners), Door(self.objects, sequence_only=self.sequence_only), self.objects)
            takeover = Takeover(f"{owner.number:032x}")
            owner.taking = asyncio.create_task(take_over(owner.storage, CONTAINER, takeover, owner.stretches))
            return owner

        owner = self.do(make())
        self.owners.append(owner)
        return owner

    def finish(self, owner: Owner) -> None:
        """Let a taker run to its end."""
        owner.door.is_free = True
        owner.door.steps.release()
        assert owner.taking is not None

        async def taken() -> None:
            assert owner.taking is not None
            async with asyncio.timeout(5):
                await owner.taking
            await owner.begin()

        try:
            self.do(taken())
        except (StorageFailure, ObjectNotFound, TimeoutError) as error:
            raise AssertionError(f"a taker cannot go on: {error}") from error

    def one(self, number: int, *, serving: bool) -> Owner | None:
        those = [one for one in self.owners if (one.writer is not None) is serving and one.failed is None]
        return those[-1 - number % len(those)] if those else None

    # Rules

    @precondition(lambda self: len(self.owners) < OWNERS_MAX)
    @rule(at_once=st.booleans())
    def another_takes_over(self, at_once: bool) -> None:
        owner = self.new_owner()
        if at_once:
            self.finish(owner)

    @rule(number=NUMBER, steps=st.integers(1, 5))
    def a_taker_goes_on(self, number: int, steps: int) -> None:
        owner = self.one(number, serving=False)
        if owner is None or owner.taking is None:
            return
        for _ in range(steps):
            owner.door.steps.release()
            self.do(self.nothing())
        if owner.taking.done():
            error = owner.taking.exception()
            if isinstance(error, ObjectNotFound):  # the log was cut meanwhile: a start begins anew
                owner.failed = StorageFailure(str(error))
            elif error is not None:
                raise AssertionError(f"a taker cannot go on: {error}") from error
            else:
                owner.door.is_free = True
                try:
                    self.do(owner.begin())
                except ObjectNotFound as gone:
                    owner.failed = StorageFailure(str(gone))

    @rule(number=NUMBER, count=st.integers(1, 3))
    def groups_are_written(self, number: int, count: int) -> None:
        async def write(owner: Owner) -> None:
            for _ in range(count):
                owner.append()
                await asyncio.sleep(0)

        if (owner := self.one(number, serving=True)) is not None:
            self.do(write(owner))

    @rule(number=NUMBER)
    def a_file_begins(self, number: int) -> None:
        owner = self.one(number, serving=True)
        if owner is not None and owner.next_lsn > owner.file_lsn:
            owner.roll()

    @rule(number=NUMBER, which=NUMBER, how=st.sampled_from(HOW))
    def a_put_arrives(self, number: int, which: int, how: str) -> None:
        owner = self.one(number, serving=True)
        if owner is None or not owner.door.sent:
            return
        put = owner.door.sent.pop(which % len(owner.door.sent))
        if put.done.done():
            return
        error: Exception | None = None
        match how:
            case "comes":
                error = None if self.objects.put_new(put.key, put.data) else AlreadyExists(put.key)
            case "answer lost":
                self.objects.put_new(put.key, put.data)
                error = Unavailable("no answer")
            case "never arrives":
                error = Unavailable("no connection")
            case "comes late":
                self.late.append(put)
                error = Unavailable("no answer in time")
            case "conflict":
                error = AlreadyExists(put.key)
            case "refused as its own":
                self.objects.put_new(put.key, put.data)
                error = AlreadyExists(put.key)

        async def answer() -> None:
            if error is None:
                put.done.set_result(None)
            else:
                put.done.set_exception(error)

        self.do(answer())

    @rule(number=NUMBER, count=st.integers(1, 4), which=NUMBER)
    def groups_are_written_and_arrive(self, number: int, count: int, which: int) -> None:
        self.groups_are_written(number, count)
        for _ in range(2):
            self.a_put_arrives(number, which, "comes")

    @precondition(lambda self: self.late)
    @rule(which=NUMBER)
    def a_late_put_arrives(self, which: int) -> None:
        put = self.late.pop(which % len(self.late))
        self.objects.put_new(put.key, put.data)

    @rule(number=NUMBER, which=NUMBER, is_late=st.booleans())
    def a_checkpoint_is_stored(self, number: int, which: int, is_late: bool) -> None:
        """One lets the log begin with a file, before which all is stored. It may come late, and find others."""
        owner = self.one(number, serving=True)
        if owner is None or owner.pending is not None:
            return
        begun = 0 if owner.manifest is None else owner.manifest.start.lsn
        starts = [place for lsn, place in sorted(owner.starts.items()) if begun < lsn <= owner.stored_lsn + 1]
        if starts:
            owner.checkpoints += 1
            key = f"{files_prefix(CONTAINER)}{owner.epoch:020d}/{owner.checkpoints:010d}/state"
            start, state = starts[which % len(starts)], StateFile("state", key, 1, 0)
            self.objects.stored[key] = b"."
            self.objects.states[key] = {lsn: data for lsn, data in owner.written.items() if lsn < start.lsn}
            owner.pending = Manifest(start, owner.epoch, owner.stored_lsn, (state,))
            if not is_late:
                self.a_checkpoint_comes(owner)

    def a_checkpoint_comes(self, owner: Owner) -> None:
        if owner.pending is not None:
            owner.manifest, owner.pending = owner.pending, None
            self.objects.stored[manifest_key(CONTAINER, owner.manifest)] = owner.manifest.encode()

    @rule(number=NUMBER)
    def a_late_checkpoint_comes(self, number: int) -> None:
        """Also of an owner that knows that it was deposed."""
        self.a_checkpoint_comes(self.owners[number % len(self.owners)])

    @rule(which=NUMBER, other=NUMBER)
    def a_checkpoint_comes_when_another_has_stored_one(self, which: int, other: int) -> None:
        """The former owner's log begins later than its successor's next one, and is cut there by both."""
        owner = self.one(0, serving=True)
        if owner is None or len(self.owners) >= OWNERS_MAX:
            return
        for _ in range(2):
            self.groups_are_written_and_arrive(0, 1, 0)
            self.a_file_begins(0)
        self.a_checkpoint_is_stored(0, which, True)
        self.another_takes_over(True)
        self.groups_are_written_and_arrive(0, 1, 0)
        self.a_checkpoint_is_stored(0, other, False)
        self.the_log_is_cut(0)
        self.a_checkpoint_comes(owner)
        self.the_log_is_cut(1)

    @rule(number=NUMBER)
    def the_log_is_cut(self, number: int) -> None:
        owner = self.one(number, serving=True)
        if owner is None or owner.manifest is None or owner.pending is not None:
            return
        self.do(self.removes(owner.storage, CONTAINER, owner.manifest))
        if self.deletes_fences:
            for key in [one for one in self.objects.stored if one.startswith(log_prefix(CONTAINER))]:
                if int(key.rpartition("/")[2]) < owner.manifest.start.lsn:
                    del self.objects.stored[key]

    @rule(number=NUMBER, which=NUMBER)
    def a_checkpoint_is_stored_and_the_log_cut(self, number: int, which: int) -> None:
        owner = self.one(number, serving=True)
        if owner is not None and owner.next_lsn > owner.file_lsn:
            owner.roll()
        self.a_checkpoint_is_stored(number, -1 - which, False)
        self.the_log_is_cut(number)

    def teardown(self) -> None:
        try:
            last = self.new_owner()
            self.finish(last)
            found = last.written
            told: dict[int, bytes] = {}
            for owner in self.owners:
                twice = told.keys() & owner.acknowledged.keys()
                assert not twice, f"acknowledged twice: {sorted(twice)}"
                told |= owner.acknowledged
            missing = {lsn for lsn, data in told.items() if found.get(lsn) != data}
            assert not missing, f"acknowledged, and lost: {sorted(missing)}"
            self.groups_are_written_and_arrive(0, 1, 0)
            assert last.acknowledged, f"the only owner cannot go on: {last.failed}"
        finally:
            self.do(self.end())
            self.loop.close()
            self.patch.undo()

    async def end(self) -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture(autouse=True)
def quiet() -> Any:
    """Each refused put is told; here that would be thousands of lines."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def machine(**planted: object) -> Any:
    return type("Planted", (Schedules,), planted)


def believes_every_refusal(found: object, token: str) -> Outcome:
    """ "Taken" counts as stored, whoever has the place."""
    return Outcome.STORED


async def remove_of_all_former_owners(storage: Storage, container: int, manifest: Manifest) -> None:
    """As if nobody who was deposed could store a checkpoint any more."""
    named, own = {file.key for file in manifest.files}, f"{files_prefix(container)}{manifest.epoch + 1:020d}"
    for key in [info.key async for info in storage.list(files_prefix(container)) if info.key < own]:
        if key not in named:
            await storage.delete(key)
    await remove_before(storage, container, manifest)


def test_no_schedule_loses_or_doubles_what_was_acknowledged() -> None:
    searched(Schedules, scaled(400, 40_000))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("planted", "what"),
    [
        ({"deletes_fences": True}, "lost|twice|cannot go on"),
        ({"sequence_only": True}, "cannot go on|lost|twice"),
        ({"replaced": {"Window": AcknowledgesAtOnce}}, "lost|twice|cannot go on"),
        ({"replaced": {"outcome": believes_every_refusal}}, "lost|twice|cannot go on"),
        ({"removes": staticmethod(remove_of_all_former_owners)}, "cannot go on"),
    ],
    ids=["deletes fences", "names by sequence", "acknowledges out of order", "believes every refusal", "removes files"],
)
def test_a_planted_mistake_is_found(planted: dict[str, object], what: str) -> None:
    with pytest.raises(AssertionError, match=what):
        searched(machine(**planted), 2000)
