"""A slot that moves to another container, while it is written and read: nothing that it knew is lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from core import freezing
from core.container.container import Container
from core.errors import CannotMove, NotHosted, NotMovedYet, SequenceGap, SlotMoves, StorageFull, UnknownStream
from core.log.records import Operation
from core.store import Store
from core.streams import handing
from core.streams.live import Slot, Stream
from core.streams.slot_format import SavedSlot, decode_slot
from core.streams.state import StreamState
from core.streams.writers import Duplicate
from tests.core.cluster.several import check_copies, open_several, places_of
from tests.core.support import (
    KIB,
    append,
    append_in_transaction,
    end_of,
    forget_bytes,
    owner_of,
    read_all,
    run,
    until,
)

pytestmark = pytest.mark.slow


async def opened(directory: Path) -> tuple[Store, Stream, int, int]:
    """A store with a stream of four slots; slot 1 lies in the first container returned, and not in the second."""
    store = await open_several(directory)
    stream = await store.create_stream("s", slots=4)
    source = stream.slot(1).container_id
    return store, stream, source, (source + 1) % 4


async def again(store: Store, directory: Path, *, clean: bool) -> tuple[Store, Stream]:
    await store.close(clean=clean)
    store = await open_several(directory)
    (stream,) = store.streams
    return store, stream


async def entries(store: Store, stream: Stream) -> list[bytes]:
    return await read_all(store, stream.slot(1))


async def fill(slot: Slot, count: int) -> list[bytes]:
    """Entries of 4 KiB, over several log files."""
    written = []
    for n in range(count):
        written.append(b"%d " % n + b"." * 4 * KIB)
        await append(slot, written[-1])
        await until(lambda: owner_of(slot).log.can_roll)
    return written


@pytest.mark.parametrize("clean", [True, False])
def test_there_and_back(tmp_path: Path, clean: bool) -> None:
    """All entries come along, in order; appends go on behind them; the other slots stay. So it is after a start."""

    async def scenario() -> None:
        store, stream, source, target = await opened(tmp_path)
        expected = [b"%d" % n for n in range(5)]
        for payload in expected:
            await append(stream.slot(1), payload)
        others = [place for number, place in enumerate(places_of(stream)) if number != 1]
        for to in (target, source, target):
            before = stream.slot(1)
            moved = await store.move_slot(stream, 1, to)
            assert (moved.source, moved.target) == (before.container_id, to)
            assert (before.has_moved, stream.slot(1).container_id) == (True, to)
            assert await entries(store, stream) == expected
            check_copies(store)
            expected.append(b"in %d" % to)
            assert await append(stream.slot(1), expected[-1]) == len(expected) - 1
            store, stream = await again(store, tmp_path, clean=clean)
            assert stream.slot(1).container_id == to
            assert await entries(store, stream) == expected
            assert [place for number, place in enumerate(places_of(stream)) if number != 1] == others
            check_copies(store)
        epochs = [epoch for epoch, _ in stream.slot(1).leader_epochs]
        assert epochs == sorted(set(epochs))
        assert all(not one.container.arrivals for one in store.containers.values())
        await store.close()

    run(scenario())


def test_asked_twice(tmp_path: Path) -> None:
    """A slot that lies where it is wanted has moved; two who ask at once wait for one move."""

    async def scenario() -> None:
        store, stream, _, target = await opened(tmp_path)
        await append(stream.slot(1), b"x")
        first, second = await asyncio.gather(*(store.move_slot(stream, 1, target) for _ in range(2)))
        assert first is second
        before = stream.state
        assert (await store.move_slot(stream, 1, target)).copied_bytes == 0
        assert stream.state is before
        await store.close()

    run(scenario())


def test_what_comes_to_lie_beside_it_meanwhile(tmp_path: Path) -> None:
    """Something that must not be left behind comes while entries are copied: the slot stays, and goes on."""

    async def scenario() -> None:
        store, stream, source, target = await opened(tmp_path)
        await append(stream.slot(1), b"x")
        store.on_move(lambda slot: "it is needed here" if owner_of(slot).is_leaving(slot) else None)
        with pytest.raises(CannotMove, match="it is needed here"):
            await store.move_slot(stream, 1, target)
        await append(stream.slot(1), b"y")
        assert stream.slot(1).container_id == source
        assert await entries(store, stream) == [b"x", b"y"]
        assert all(not one.container.arrivals for one in store.containers.values())
        await store.close()

    run(scenario())


def test_idempotent_writers_go_on(tmp_path: Path) -> None:
    """A writer's sequence goes on without a gap; what it sends again is known; what skips a sequence is refused."""

    async def scenario() -> None:
        store, stream, _, target = await opened(tmp_path)
        for sequence in range(7):
            await append(stream.slot(1), b"x", writer=(7, 3, sequence))
        known = store.known_writers.count
        await store.move_slot(stream, 1, target)
        assert store.known_writers.count == known
        store, stream = await again(store, tmp_path, clean=False)
        assert store.known_writers.count == known
        slot, owner = stream.slot(1), owner_of(stream.slot(1))
        assert isinstance(owner.check_writer(slot, 7, 3, 6, 1), Duplicate)
        assert owner.check_writer(slot, 7, 3, 7, 1) is None
        with pytest.raises(SequenceGap):
            owner.check_writer(slot, 7, 3, 8, 1)
        await store.close()

    run(scenario())


def test_a_state_that_comes_as_foreseen_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slot may have tens of thousands of writers, and appends are refused while its state is made."""
    made = list[int]()

    def decoded(value: bytes) -> SavedSlot:
        made.append(len(value))
        return decode_slot(value)

    monkeypatch.setattr(handing, "decode_slot", decoded)

    async def scenario() -> None:
        store, stream, _, target = await opened(tmp_path)
        for writer in range(20):
            await append(stream.slot(1), b"x", writer=(writer, 0, 0))
        await store.move_slot(stream, 1, target)
        assert len(made) == 1
        slot = stream.slot(1)
        assert all(isinstance(owner_of(slot).check_writer(slot, writer, 0, 0, 1), Duplicate) for writer in range(20))
        await store.close()

    run(scenario())


def test_transactions_come_along(tmp_path: Path) -> None:
    """An open transaction goes on and ends in the new container; committed readers skip what was aborted before."""

    async def scenario() -> None:
        store, stream, _, target = await opened(tmp_path)
        await append_in_transaction(stream.slot(1), b"dropped", (5, 0, 0))
        await owner_of(stream.slot(1)).end_transactions([end_of(stream.slot(1), 5, committed=False)], [])
        await append_in_transaction(stream.slot(1), b"open", (6, 0, 0))
        await append(stream.slot(1), b"behind")
        before = stream.slot(1)
        told = before.aborted_in(0, 100)
        assert (len(told), before.stable_end, before.durable_end) == (1, 2, 4)
        await store.move_slot(stream, 1, target)
        for clean in (False, True):
            slot = stream.slot(1)
            assert (slot.aborted_in(0, 100), slot.stable_end, slot.durable_end) == (told, 2, 4)
            assert slot.has_open_transaction(6)
            store, stream = await again(store, tmp_path, clean=clean)
        slot = stream.slot(1)
        await owner_of(slot).end_transactions([end_of(slot, 6, committed=True)], [])
        assert slot.stable_end == slot.durable_end == 5
        assert slot.aborted_in(0, 100) == told
        await store.close()

    run(scenario())


def test_the_old_container_ends_nothing_of_it(tmp_path: Path) -> None:
    """A marker for a slot that has left, or is about to leave, is refused by the container that had it: by the step as
    a whole."""

    async def scenario() -> None:
        store, stream, source, target = await opened(tmp_path)
        await append_in_transaction(stream.slot(1), b"open", (6, 0, 0))
        old = owner_of(stream.slot(1))
        old.freeze(stream.slot(1), target)
        with pytest.raises(SlotMoves):
            old.end_transactions([end_of(stream.slot(1), 6, committed=True)], [])
        old.thaw(stream.slot(1))
        await store.move_slot(stream, 1, target)
        with pytest.raises(SlotMoves if stream.slot(1).container_id == source else Exception):
            old.end_transactions([end_of(stream.slot(1), 6, committed=True)], [])
        assert stream.slot(1).has_open_transaction(6)
        await store.close()

    run(scenario())


def test_written_and_read_meanwhile(tmp_path: Path) -> None:
    """A writer that tries again what is refused, and a reader at the tail: nothing is lost, doubled or reordered."""

    async def scenario() -> None:
        store, stream, source, target = await opened(tmp_path)
        is_over, sent, refused = False, 0, 0

        async def write() -> None:
            nonlocal sent, refused
            while not is_over:
                try:
                    await append(stream.slot(1), b"%d" % sent, writer=(9, 0, sent))
                except SlotMoves:
                    refused += 1
                except StorageFull:
                    pass  # the test's log files are small
                else:
                    sent += 1
                await asyncio.sleep(0)

        writing = asyncio.create_task(write())
        for to in (target, source) * 5:
            await until(lambda wanted=sent + 20: sent > wanted or writing.done())
            await store.move_slot(stream, 1, to)
            for one in store.containers.values():
                await one.maintenance.index_files()
        is_over = True
        await writing
        assert await entries(store, stream) == [b"%d" % n for n in range(sent)]
        store, stream = await again(store, tmp_path, clean=False)
        assert await entries(store, stream) == [b"%d" % n for n in range(sent)]
        await store.close()

    run(scenario())


def test_frozen_until_the_target_has_it(tmp_path: Path) -> None:
    """The source has applied that the slot is gone, the target not yet that it is there: nothing is appended to the
    object that callers still find."""

    async def scenario() -> None:
        store, stream, _, target = await opened(tmp_path)
        home = store.containers[stream.state.container]
        number = next(number for number in range(4) if stream.slot(number).container_id == home.id)
        await append(stream.slot(number), b"x")
        container: Container = store.containers[target].container
        real, tried = container.change_stream, []

        async def late(changed: Stream, state: StreamState) -> None:
            old = changed.slot(number)
            assert old.has_moved
            with pytest.raises(SlotMoves):
                owner_of(old).append(old, b"lost", 1, 0)
            tried.append(old)
            await real(changed, state)

        container.change_stream = late  # type: ignore[method-assign]
        await store.move_slot(stream, number, target)
        assert len(tried) == 1
        assert await read_all(store, stream.slot(number)) == [b"x"]
        assert stream.slot(number) is not tried[0]
        with pytest.raises(SlotMoves):  # a caller may have held it over the whole move
            home.container.append(tried[0], b"lost", 1, 0)
        await store.close()

    run(scenario())


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_history_over_several_log_files(tmp_path: Path, where: str) -> None:
    """History that is only on the disk by now is copied as well, and the log that it came from lets go of it."""

    async def scenario() -> None:
        store, stream, source, target = await opened(tmp_path)
        written = await fill(stream.slot(1), 60)
        for one in store.containers.values():
            await one.maintenance.index_files()
            await one.maintenance.checkpoint()
        if where == "disk":
            forget_bytes(stream.slot(1).columns)
        files = len(store.containers[source].container.files.complete)
        assert files > 2
        await store.move_slot(stream, 1, target)
        assert await entries(store, stream) == written
        old = store.containers[source]
        await old.maintenance.index_files()
        await old.maintenance.checkpoint()
        await old.maintenance.truncate()
        assert not old.container.files.complete
        store, stream = await again(store, tmp_path, clean=False)
        assert await entries(store, stream) == written
        await store.close()

    run(scenario())


def test_a_sidecar_is_written_while_the_slot_leaves(tmp_path: Path) -> None:
    """No row of a slot that has left is registered: it would lead the slot, once it is back, to a file that is gone."""

    async def scenario() -> None:
        store, stream, source, target = await opened(tmp_path)
        written = await fill(stream.slot(1), 30)
        old = store.containers[source]
        real, left = old.maintenance.thread.run, asyncio.Event()

        async def run_late(function, *args):  # type: ignore[no-untyped-def]
            found = await real(function, *args)
            if function.__name__ == "write_sidecar" and not left.is_set():
                left.set()
                await store.move_slot(stream, 1, target)
            return found

        old.maintenance.thread.run = run_late  # type: ignore[method-assign]
        await old.maintenance.index_files()
        assert left.is_set()
        old.maintenance.thread.run = real  # type: ignore[method-assign]
        await old.maintenance.index_files()
        await old.maintenance.checkpoint()
        assert not await old.has_remains((stream.id, 1))
        await store.move_slot(stream, 1, source)
        for _ in range(2):
            assert await entries(store, stream) == written
            await old.maintenance.index_files()
            await old.maintenance.checkpoint()
            await old.maintenance.truncate()
            store, stream = await again(store, tmp_path, clean=False)
            old = store.containers[source]
        await store.close()

    run(scenario())


def test_rows_of_a_former_stay_go_without_the_new_ones(tmp_path: Path) -> None:
    """The log gives up a file with entries of a former stay. Rows of the present one have the same keys: they stay."""

    async def scenario() -> None:
        store, stream, source, target = await opened(tmp_path)
        written = await fill(stream.slot(1), 30)
        for one in store.containers.values():
            await one.maintenance.index_files()
        await store.move_slot(stream, 1, target)
        await store.move_slot(stream, 1, source)
        written += await fill(stream.slot(1), 20)
        back = store.containers[source]
        for _ in range(2):
            await back.maintenance.index_files()
            await back.maintenance.checkpoint()
            await back.maintenance.truncate()
        assert await entries(store, stream) == written
        forget_bytes(stream.slot(1).columns)
        assert await entries(store, stream) == written
        store, stream = await again(store, tmp_path, clean=False)
        assert await entries(store, stream) == written
        await store.close()

    run(scenario())


def test_trimmed_meanwhile(tmp_path: Path) -> None:
    """The start moves up while the slot is copied: it is where it was told to be, and nothing before it comes back."""

    async def scenario() -> None:
        store, stream, source, target = await opened(tmp_path)
        for n in range(9):
            await append(stream.slot(1), b"%d" % n)
        real, container = store.containers[target].container.update, store.containers[target].container

        async def trim_first(*operations: Operation) -> None:
            await real(*operations)
            if stream.slot(1).start == 0:
                await store.containers[source].truncate(stream.slot(1), 4)

        container.update = trim_first  # type: ignore[method-assign]
        moved = await asyncio.gather(store.move_slot(stream, 1, target), return_exceptions=True)
        container.update = real  # type: ignore[method-assign]
        if isinstance(moved[0], NotMovedYet):
            await store.move_slot(stream, 1, target)
        store, stream = await again(store, tmp_path, clean=False)
        assert (stream.slot(1).start, stream.slot(1).container_id) == (4, target)
        assert await entries(store, stream) == [b"%d" % n for n in range(4, 9)]
        await store.close()

    run(scenario())


def test_a_frozen_slot_is_not_trimmed(tmp_path: Path) -> None:
    """What DeleteRecords was told to be gone must not come back: a slot that is about to leave refuses it."""

    async def scenario() -> None:
        store, stream, source, target = await opened(tmp_path)
        await append(stream.slot(1), b"x")
        old = store.containers[source]
        old.container.freeze(stream.slot(1), target)
        with pytest.raises(SlotMoves):
            await old.truncate(stream.slot(1), 1)
        old.container.thaw(stream.slot(1))
        assert await old.truncate(stream.slot(1), 1) == 1
        await store.close()

    run(scenario())


def test_what_cannot_move(tmp_path: Path) -> None:
    """Each refusal says why, and leaves the slot as it was."""

    async def scenario() -> None:
        store, stream, _, target = await opened(tmp_path)
        await append(stream.slot(1), b"x")
        with pytest.raises(CannotMove, match="has 4 slots"):
            await store.move_slot(stream, 9, target)
        with pytest.raises(NotHosted, match="container 7 is not open"):
            await store.move_slot(stream, 1, 7)
        store.on_move(lambda slot: "a group lies beside it" if slot.number == 1 else None)
        with pytest.raises(CannotMove, match="a group lies beside it"):
            await store.move_slot(stream, 1, target)
        await store.seal_stream(stream)
        with pytest.raises(CannotMove, match="sealed"):
            await store.move_slot(stream, 2, stream.slot(1).container_id)
        check_copies(store)
        await append_is_refused(stream)
        await store.delete_stream(stream)
        with pytest.raises(UnknownStream):
            await store.move_slot(stream, 1, target)
        await store.close()

    async def append_is_refused(stream: Stream) -> None:
        assert stream.slot(1).durable_end == 1

    run(scenario())


def test_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a decision the slot stays, takes appends, and the target keeps nothing of it."""

    async def scenario() -> None:
        store, stream, source, target = await opened(tmp_path)
        small = await store.create_stream("small", slots=1, config={"one": ""})
        elsewhere = (small.slot(0).container_id + 1) % 4

        async def refuse(*_: object) -> None:
            raise StorageFull("the registry has no room")

        for one, number, to in ((stream, 1, target), (small, 0, elsewhere)):
            await append(one.slot(number), b"first")
            with monkeypatch.context() as patch:
                patch.setattr(store, "decide_move", refuse)
                with pytest.raises(StorageFull):
                    await store.move_slot(one, number, to)
            check_copies(store)
            await append(one.slot(number), b"second")
            assert await read_all(store, one.slot(number)) == [b"first", b"second"]
            assert not store.containers[to].container.arrivals
            assert not store.containers[to].container.outcomes.beside
            await store.move_slot(one, number, to)
            assert await read_all(store, one.slot(number)) == [b"first", b"second"]
        assert source != target
        await store.close()

    run(scenario())


def test_never_settles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If what is left cannot be copied in time, appends go on, and the move is given up in the end."""

    async def scenario() -> None:
        store, stream, source, target = await opened(tmp_path)
        await append(stream.slot(1), b"x")
        monkeypatch.setattr(freezing, "FREEZE_S", 0.0)
        monkeypatch.setattr(freezing, "PAUSE_S", 0.0)
        with pytest.raises(NotMovedYet, match=f"frozen {freezing.PASSES_MAX} times"):
            await store.move_slot(stream, 1, target)
        await append(stream.slot(1), b"y")
        assert stream.slot(1).container_id == source
        check_copies(store)
        await store.close()

    run(scenario())


def test_deleted_meanwhile(tmp_path: Path) -> None:
    """A stream that is deleted while a slot of it is copied is gone everywhere."""

    async def scenario() -> None:
        store, stream, _, target = await opened(tmp_path)
        await append(stream.slot(1), b"x")
        container: Container = store.containers[target].container
        real = container.all_durable

        def deleting() -> asyncio.Future[None]:
            if not deleted:
                deleted.append(asyncio.create_task(store.delete_stream(stream)))
            return real()

        deleted: list[asyncio.Task[None]] = []
        container.all_durable = deleting  # type: ignore[method-assign]
        with pytest.raises(UnknownStream):
            await store.move_slot(stream, 1, target)
        await deleted[0]
        assert all(not one.container.streams for one in store.containers.values())
        assert all(not one.container.outcomes.beside for one in store.containers.values())
        await store.close()
        store = await open_several(tmp_path)
        assert not list(store.streams)
        await store.close()

    run(scenario())


def test_changed_meanwhile(tmp_path: Path) -> None:
    """Configuration and growth of a stream do not take back a slot's arrival, nor does it theirs."""

    async def scenario() -> None:
        store, stream, _, target = await opened(tmp_path)
        await append(stream.slot(1), b"x")
        container: Container = store.containers[target].container
        real, changes = container.all_durable, 0

        async def change() -> None:
            await store.update_stream(stream, config={"retention_ms": "5000"})
            await store.grow_stream(stream, 8)

        changed: list[asyncio.Task[None]] = []

        def changing() -> asyncio.Future[None]:
            if not changed:
                changed.append(asyncio.create_task(change()))
            return real()

        container.all_durable = changing  # type: ignore[method-assign]
        await store.move_slot(stream, 1, target)
        await changed[0]
        check_copies(store)
        store, stream = await again(store, tmp_path, clean=False)
        assert (stream.slot_count, stream.slot(1).container_id, stream.config) == (8, target, {"retention_ms": "5000"})
        assert await entries(store, stream) == [b"x"]
        assert changes == 0
        await store.close()

    run(scenario())
