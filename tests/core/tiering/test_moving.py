"""A slot with history in chunks moves to another container: it brings all of it, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from core import freezing, moving
from core.clock import SystemClock
from core.copying import Move
from core.errors import CannotMove, NotMovedYet, SlotMoves, StorageFailure, StorageFull
from core.store import Store
from core.streams.live import Slot, Stream
from core.streams.removed import Removed
from core.streams.state import StreamState
from core.tiering.context import LongTermStorage
from core.tiering.snapshots.recover import recover_store
from tests.core.cluster.several import check_copies
from tests.core.support import DEADLINE_S, KIB, append_in_transaction, forget_bytes, policy_from, read_all, run, until
from tests.core.tiering.support import AGEING, CLUSTER, TIERING, fill, runs_of, storage_in
from tests.core.transactional import Transactional
from tests.tier2.chunks import head_of
from tier2.storage import Storage

pytestmark = pytest.mark.slow

TWO = replace(TIERING, container_ids=(0, 1))
TWO_AGEING = replace(AGEING, container_ids=(0, 1))


@asynccontextmanager
async def opened(directory: Path, storage: Storage, config=TWO, *, clean: bool = True) -> AsyncIterator[Store]:  # type: ignore[no-untyped-def]
    long_term = LongTermStorage(storage=storage, cluster_id=CLUSTER, head_of=head_of)
    store = await Store.open(directory, config, policy_from, SystemClock(), long_term)
    try:
        yield store
    finally:
        await store.close(clean=clean)


def whole(store: Store, slot: Slot) -> bool:
    """Whether the runs of a slot follow one another, and lie in chunks of its own container."""
    runs = runs_of(store, slot)
    ends = [slot.start, *(run.end for run in runs)]
    return [run.first for run in runs] == ends[:-1] and {run.chunk.container for run in runs} == {slot.container_id}


async def whole_of(store: Store, slot: Slot) -> bytes:
    """All entries; chunks give them in pieces."""
    return b"".join(await read_all(store, slot))


async def objects(storage: Storage, container: int) -> list[str]:
    return [info.key async for info in storage.list(f"chunks/{container}/")]


def test_history_in_chunks_and_in_the_log(tmp_path: Path) -> None:
    """Entries from chunks, from the log, and of both come along; chunks of the old container are deleted."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "tier2")
        async with opened(tmp_path / "store", storage, clean=False) as store:
            stream = await store.create_stream("s", slots=1)
            slot = stream.slot(0)
            written = await fill(slot, 300 * KIB)
            await until(lambda: slot.tiered_end > slot.end // 2)
            source = store.hosted(slot)
            await until(lambda: not source.container.files.complete or source.container.files.complete[0].first_lsn > 1)
            tiered = slot.tiered_end
            target = 1 - slot.container_id
            await store.move_slot(stream, 0, target)
            assert slot.has_moved
            slot = stream.slot(0)
            assert slot.tiered_end >= tiered
            assert whole(store, slot)
            assert await whole_of(store, slot) == b"".join(written)
            written += await fill(slot, 50 * KIB)
            assert await whole_of(store, slot) == b"".join(written)
            async with asyncio.timeout(30):
                while await objects(storage, source.id):  # noqa: ASYNC110 - a deletion has no event
                    await asyncio.sleep(0.02)
            assert not list(source.catalog.iter_runs(stream.id, 0, -1))
            assert await whole_of(store, slot) == b"".join(written)
        async with opened(tmp_path / "store", storage) as store:
            (stream,) = store.streams
            slot = stream.slot(0)
            check_copies(store)
            assert whole(store, slot)
            assert await whole_of(store, slot) == b"".join(written)
            await store.move_slot(stream, 0, 1 - slot.container_id)
            assert await whole_of(store, stream.slot(0)) == b"".join(written)
        await storage.close()

    run(scenario())


def test_aborted_transactions_in_chunks(tmp_path: Path) -> None:
    """Committed readers skip what they skipped before, also where only chunks knew of it."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "tier2")
        async with opened(tmp_path / "store", storage, TWO_AGEING, clean=False) as store:
            stream = await store.create_stream("s", slots=1)
            slot, random = stream.slot(0), Random(4)
            script = Transactional(store, slot)
            for writer in range(30):
                for _ in range(random.randrange(1, 3)):
                    await script.append(writer, body=4 * KIB)
                await script.append(body=KIB)
                await script.end(writer, committed=random.random() < 0.5)
            source = store.hosted(slot)
            await until(lambda: slot.tiered_end > 60)
            await until(lambda: not source.container.files.complete)
            expected = await skipped(store, slot)
            assert len(expected) > 5
            await store.move_slot(stream, 0, 1 - slot.container_id)
            assert await skipped(store, stream.slot(0)) == expected
            assert await whole_of(store, stream.slot(0)) == b"".join(script.written)
        async with opened(tmp_path / "store", storage, TWO_AGEING) as store:
            (stream,) = store.streams
            assert await skipped(store, stream.slot(0)) == expected
        await storage.close()

    run(scenario())


def test_tiering_while_nobody_knows_whether_the_slot_leaves(tmp_path: Path) -> None:
    """Its target fails with the decision, and the slot stays: its entries go into chunks, though no further one comes
    that would tell of them; and a snapshot has had it all the time."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "tier2")
        async with opened(tmp_path / "store", storage, clean=False) as store:
            stream = await store.create_stream("s", slots=2)
            home = store.containers[stream.state.container].container
            number = next(n for n in range(2) if stream.slot(n).container_id != home.id)
            slot = stream.slot(number)
            source = store.hosted(slot)
            await fill(slot, 4 * KIB)
            real, captured = home.change_stream, list[tuple[int, int]]()

            async def fail(changed: Stream, state: StreamState) -> None:
                home.change_stream = real  # type: ignore[method-assign]
                home.log._writer.write = lambda buffers, end: None  # type: ignore[method-assign]
                change = asyncio.ensure_future(real(changed, state))
                await until(lambda: slot.has_moved)
                assert source.tier is not None
                await source.tier.writer._plan()
                snapshot, _ = await source.tier.snapshots._capture()
                captured.extend((one.slot, one.durable_end) for one in snapshot.slots)
                home.log.on_failed(StorageFailure("the disk is gone"))
                await change

            home.change_stream = fail  # type: ignore[method-assign]
            with pytest.raises(NotMovedYet):
                await store.move_slot(stream, number, home.id)
            assert stream.slot(number) is slot
            assert captured == [(number, slot.end)]
            assert source.tier is not None
            source.tier.writer.hurry(slot)
            await until(lambda: slot.tiered_end == slot.end)
            with contextlib.suppress(StorageFailure):
                await store.close(clean=False)
        await storage.close()

    run(scenario())


def test_a_start_looks_for_what_has_come(tmp_path: Path) -> None:
    """A slot whose move was decided, of which the target's log is still to hear: the next start puts all of it into
    chunks, though nothing more is appended."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "tier2")
        async with opened(tmp_path / "store", storage, clean=False) as store:
            streams = [await store.create_stream(f"s{number}", slots=1) for number in range(4)]
            stream = next(one for one in streams if one.slot(0).container_id == store.home.id)
            written = await fill(stream.slot(0), 20 * KIB)
            target = store.containers[1 - store.home.id]

            async def nothing() -> None:
                """No chunk is made before the end."""

            async def no_room(changed: Stream, state: StreamState) -> None:
                raise StorageFull("no room for its copy of the stream")

            assert target.tier is not None
            target.tier.writer._plan = nothing  # type: ignore[method-assign]
            target.container.change_stream = no_room  # type: ignore[method-assign]
            await store.move_slot(stream, 0, target.id)
            assert stream.state.container_of_slot(0) == target.id
            name = stream.name
        async with opened(tmp_path / "store", storage, TWO_AGEING) as store:
            slot = next(one for one in store.streams if one.name == name).slot(0)
            assert slot.container_id == target.id
            await until(lambda: slot.tiered_end == slot.end > 0)
            assert whole(store, slot)
            assert await whole_of(store, slot) == b"".join(written)
        await storage.close()

    run(scenario())


def test_what_has_come_is_named_where_it_pins_the_log(tmp_path: Path) -> None:
    """An open transaction of a slot whose move was decided, of which the target's log is still to hear: it may be the
    one that takes the room."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "tier2")
        async with opened(tmp_path / "store", storage, clean=False) as store:
            stream = await store.create_stream("s", slots=1)
            await append_in_transaction(stream.slot(0), bytes(KIB), (7, 0, 0))
            target = store.containers[1 - stream.slot(0).container_id]

            async def no_room(changed: Stream, state: StreamState) -> None:
                raise StorageFull("no room for its copy of the stream")

            target.container.change_stream = no_room  # type: ignore[method-assign]
            await store.move_slot(stream, 0, target.id)
            assert stream.state.container_of_slot(0) == target.id
            assert target.tier is not None
            pins = target.tier.pins
            pins._look_at = 0.0  # now
            await pins.look()
            assert [(pin.place, pin.reason) for pin in pins.named] == [("s-0", "transaction")]
        await storage.close()

    run(scenario())


async def skipped(store: Store, slot: Slot) -> set[tuple[int, int, int]]:
    """The aborted transactions that committed readers of all of it are told of."""
    found: set[tuple[int, int, int]] = set()
    offset = slot.start
    while offset < slot.stable_end:
        read = await store.hosted(slot).reader.read(slot, offset, slot.stable_end, 16 * KIB, True)
        found.update((row.last, row.first, row.writer_id) for row in read.aborted)
        offset = read.end
    return found


def test_a_freeze_that_is_taken_back_settles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The target has the state of then, when no transaction was open. One that begins afterwards is copied, too: the
    target puts nothing of it into chunks while it is open."""
    monkeypatch.setattr(freezing, "FREEZE_S", 0.05)

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "tier2")
        async with opened(tmp_path / "store", storage, clean=False) as store:
            stream = await store.create_stream("s", slots=1)
            slot = stream.slot(0)
            script = Transactional(store, slot)
            source, target = store.hosted(slot).container, store.containers[1 - slot.container_id].container
            freeze, thaw, synced, pass_over = source.freeze, source.thaw, target.synced, moving.pass_over
            begun: list[asyncio.Task[int]] = []
            is_checked = False
            await script.append(5, body=KIB)

            async def end_the_first(move: Move) -> float:
                took_s = await pass_over(move)
                if 5 in script.open:
                    assert move.barrier is not None
                    await script.end(5, committed=True)
                return took_s

            async def late() -> None:
                await synced()
                if source.is_leaving(slot) and not is_checked:
                    await asyncio.Event().wait()

            def thawed(slot: Slot) -> None:
                thaw(slot)
                if not begun:
                    begun.append(asyncio.create_task(script.append(6, body=KIB)))

            def frozen(slot: Slot, to: int) -> None:
                nonlocal is_checked
                arriving = target.arriving((stream.id, 0))
                assert arriving is not None
                if begun and begun[0].done() and arriving.end > begun[0].result():
                    assert arriving.stable_end <= begun[0].result()
                    is_checked = True
                    monkeypatch.setattr(freezing, "FREEZE_S", DEADLINE_S)  # the next ones may be slow
                freeze(slot, to)

            monkeypatch.setattr(moving, "pass_over", end_the_first)
            monkeypatch.setattr(target, "synced", late)
            monkeypatch.setattr(source, "thaw", thawed)
            monkeypatch.setattr(source, "freeze", frozen)
            await store.move_slot(stream, 0, target.id)
            assert is_checked
            assert stream.slot(0).has_open_transaction(6)
            assert await whole_of(store, stream.slot(0)) == b"".join(script.written)
        await storage.close()

    run(scenario())


def test_a_transaction_that_is_aborted_and_forgotten_meanwhile(tmp_path: Path) -> None:
    """It was open when its entries were copied. Then it was aborted, chunks took them, and the log let go of them, so
    that only chunks know of it, before anybody looked again: readers in the new container skip it."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "tier2")
        async with opened(tmp_path / "store", storage, TWO_AGEING, clean=False) as store:
            stream = await store.create_stream("s", slots=1)
            slot = stream.slot(0)
            script = Transactional(store, slot)
            target = store.containers[1 - slot.container_id].container
            await script.append(body=KIB)
            first = await script.append(5, body=4 * KIB)
            for _ in range(20):
                await script.append(body=4 * KIB)
            real, is_late = target.all_durable, asyncio.Event()

            async def late() -> None:
                await real()
                arriving = target.arriving((stream.id, 0))
                if arriving is None or arriving.end <= first or is_late.is_set():
                    return
                is_late.set()
                await script.end(5, committed=False)
                assert slot.aborted_in(first, first + 1)
                for _ in range(60):
                    await script.append(body=4 * KIB)
                await until(lambda: not slot.aborted_in(first, first + 1))

            target.all_durable = lambda: asyncio.ensure_future(late())  # type: ignore[method-assign]
            await store.move_slot(stream, 0, target.id)
            assert is_late.is_set()
            (known,) = await skipped(store, stream.slot(0))
            assert known == script.aborted[0]
            assert await whole_of(store, stream.slot(0)) == b"".join(script.written)
        await storage.close()

    run(scenario())


@pytest.mark.parametrize("is_in_chunks", [True, False], ids=["in chunks of the source", "in its log"])
def test_the_target_goes_on_with_chunks_once_a_transaction_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_in_chunks: bool
) -> None:
    """It was open when its entries were copied, and the target looked away from them. What is settled by now goes into
    chunks, though nothing is appended to the slot any more."""
    monkeypatch.setattr(moving, "TIERED_S_MAX", DEADLINE_S)

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "tier2")
        async with opened(tmp_path / "store", storage, TWO_AGEING if is_in_chunks else TWO, clean=False) as store:
            stream = await store.create_stream("s", slots=1)
            slot = stream.slot(0)
            script = Transactional(store, slot)
            target = store.containers[1 - slot.container_id]
            pass_over = moving.pass_over
            await script.append(5, body=KIB)

            async def looked_away_from(move: Move) -> float:
                took_s = await pass_over(move)
                if 5 in script.open:
                    assert move.barrier is not None
                    await script.end(5, committed=True)
                    await until(lambda: slot.tiered_end > 0 or not is_in_chunks)
                if move.barrier is not None:
                    await until(lambda: move.arrived not in target.container.untiered)
                return took_s

            monkeypatch.setattr(moving, "pass_over", looked_away_from)
            await store.move_slot(stream, 0, target.id)
            slot = stream.slot(0)
            assert target.tier is not None
            target.tier.writer.hurry(slot)
            await until(lambda: slot.tiered_end == slot.end)
        await storage.close()

    run(scenario())


def test_a_lost_disk_after_a_move(tmp_path: Path) -> None:
    """Long-term storage alone gives back, in the new container, at least what it had before the move."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "tier2")
        async with opened(tmp_path / "store", storage, clean=False) as store:
            stream = await store.create_stream("s", slots=2)
            slot = stream.slot(1)
            written = await fill(slot, 200 * KIB)
            await until(lambda: slot.tiered_end > slot.end // 2)
            tiered, target = slot.tiered_end, 1 - slot.container_id
            await store.move_slot(stream, 1, target)
            hosted = store.containers[target]
            await hosted.tier.snapshots.take() if hosted.tier is not None else None
        await recover_store(
            tmp_path / "again", TWO, storage, CLUSTER, head_of, lambda tables, bounds: tables, lambda *_: None
        )
        async with opened(tmp_path / "again", storage) as store:
            (stream,) = store.streams
            slot = stream.slot(1)
            assert slot.container_id == target
            assert slot.durable_end >= tiered
            assert await whole_of(store, slot) == b"".join(written[: slot.durable_end])
            check_copies(store)
        await storage.close()

    run(scenario())


def test_chunks_that_come_to_be_all_the_time(tmp_path: Path) -> None:
    """The source makes none of the slot while the target's are compared with them: else a slot that is written all the
    time would be frozen again and again. It has as many in the target when it is there, and goes on to get more."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "tier2")
        async with opened(tmp_path / "store", storage, TWO_AGEING, clean=False) as store:
            stream = await store.create_stream("s", slots=1)
            written, is_over = await fill(stream.slot(0), 100 * KIB), False
            compared, held = list[int](), list[int]()
            decide = store.decide_move

            async def write() -> None:
                while not is_over:
                    with contextlib.suppress(SlotMoves):
                        written.extend(await fill(stream.slot(0), 1))
                    await asyncio.sleep(0)

            async def decided(*arguments) -> None:  # type: ignore[no-untyped-def]
                source, arrived = stream.slot(0), store.containers[1 - stream.slot(0).container_id].container
                arriving = arrived.arriving((stream.id, 0))
                assert arriving is not None
                assert arriving.tiered_end >= source.tiered_end
                await until(lambda: source.tiered_end >= held[-1])  # what was on its way then has come
                compared.append(source.tiered_end)
                await decide(*arguments)

            store.decide_move = decided  # type: ignore[method-assign]
            writing = asyncio.create_task(write())
            for _ in range(4):
                slot = stream.slot(0)
                await until(lambda slot=slot: slot.tiered_end > 50)
                tier = store.hosted(slot).tier
                assert tier is not None
                hold = tier.writer.hold

                def holding(slot: Slot, hold=hold) -> int:  # type: ignore[no-untyped-def]
                    held.append(hold(slot))
                    return held[-1]  # type: ignore[no-any-return]

                tier.writer.hold = holding  # type: ignore[method-assign]
                await store.move_slot(stream, 0, 1 - slot.container_id)
                assert compared == held
                tier.writer.hold = hold  # type: ignore[method-assign]
            is_over = True
            await writing
            assert len(compared) == 4
            assert await whole_of(store, stream.slot(0)) == b"".join(written)
        await storage.close()

    run(scenario())


def test_a_slot_whose_chunks_retention_has_taken(tmp_path: Path) -> None:
    """What it once had in chunks is gone: nothing of that is looked for in the target."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "tier2")
        async with opened(tmp_path / "store", storage, clean=False) as store:
            stream = await store.create_stream("s", slots=1)
            slot = stream.slot(0)
            written = await fill(slot, 100 * KIB)
            await until(lambda: slot.untiered_bytes < TWO.chunk_bytes)  # no other chunk is due
            start = slot.tiered_end
            await store.hosted(slot).truncate(slot, start)
            written = written[start:]
            await store.move_slot(stream, 0, 1 - slot.container_id)
            assert stream.slot(0).start == start
            assert await whole_of(store, stream.slot(0)) == b"".join(written)
        await storage.close()

    run(scenario())


def test_a_compacted_slot_where_no_chunks_are_rewritten(tmp_path: Path) -> None:
    """Offsets without a record cannot be copied through a log, and nobody here copies chunks: the refusal says so."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "tier2")
        async with opened(tmp_path / "store", storage) as store:
            stream: Stream = await store.create_stream("s", slots=1)
            slot = stream.slot(0)
            await fill(slot, 4 * KIB)
            slot.removed = Removed.of_runs([(0, 2, 100)])
            with pytest.raises(CannotMove, match="compaction"):
                await store.move_slot(stream, 0, 1 - slot.container_id)
        await storage.close()

    run(scenario())


def test_the_log_lets_go_of_a_file_while_it_is_copied(tmp_path: Path) -> None:
    """A file is gone that a read was about to open: chunks have its entries, so the copying goes on with these."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "tier2")
        async with opened(tmp_path / "store", storage, clean=False) as store:
            stream = await store.create_stream("s", slots=1)
            slot = stream.slot(0)
            written = await fill(slot, 300 * KIB)
            source = store.hosted(slot)
            await until(lambda: slot.tiered_end > slot.end // 2)
            rows = next(one for one in slot.columns if not one.file.gone)
            file = rows.file
            await until(lambda: file.gone or slot.tiered_end >= rows.end)
            forget_bytes(slot.columns)
            if not file.gone:
                file.path.unlink()
            await store.move_slot(stream, 0, 1 - source.id)
            assert await whole_of(store, stream.slot(0)) == b"".join(written)
        await storage.close()

    run(scenario())
