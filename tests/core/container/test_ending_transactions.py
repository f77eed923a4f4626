"""The end of transactions: markers in many slots and operations on tables, as one step or not at all."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any

import pytest

from core.container.container import STEP_OPERATIONS_MAX
from core.errors import StorageFailure, StorageFull
from core.log.format import IN_TRANSACTION
from core.log.records import Put
from core.store import Store
from core.streams.live import Slot
from core.streams.saving import encode_slot
from tests.core.support import (
    KIB,
    append,
    append_in_transaction,
    before_syncs,
    begin_append,
    container_of,
    end_of,
    make,
    open_store,
    owner_of,
    read_all,
    run,
    until,
)
from tests.core.transaction_script import aborted, play


def test_end_of_several_slots_and_tables(tmp_path: Path) -> None:
    """One step: a marker in every slot, made for its place, and operations by the thousand."""

    async def scenario() -> None:
        store = await open_store(tmp_path)
        stream = await make(store, slots=3)
        for number in range(3):
            await play(stream.slot(number), ". " * number + "a")
        puts = [Put("t", b"%d" % n, b"x") for n in range(2 * STEP_OPERATIONS_MAX + 1)]
        await container_of(store).end_transactions([end_of(stream.slot(n), 1, committed=True) for n in range(3)], puts)

        assert [stream.slot(n).stable_end for n in range(3)] == [2, 3, 4]
        epoch = container_of(store).epoch
        markers = [(await read_all(store, stream.slot(n), n + 1))[0] for n in range(3)]
        assert [b"marker at %d in epoch %d" % (n + 1, epoch) for n in range(3)] == markers
        assert len(puts) == len(store.table("t"))
        await store.close()

    run(scenario())


def test_no_marker_without_a_transaction(tmp_path: Path) -> None:
    """A slot in which the writer has nothing open is left alone; the operations are applied all the same."""

    async def scenario() -> None:
        store = await open_store(tmp_path)
        stream = await make(store, slots=3)
        await play(stream.slot(0), "a a+")
        await play(stream.slot(1), "b")
        ends = [end_of(stream.slot(number), 1, committed=True, epoch=9) for number in range(3)]
        await container_of(store).end_transactions(ends, [Put("t", b"k", b"v")])

        assert [stream.slot(number).end for number in range(3)] == [2, 1, 0]
        assert stream.slot(1).has_open_transaction(2)
        assert not stream.slot(2).writers
        assert store.table("t").get(b"k") == b"v"
        await store.close()

    run(scenario())


def test_marker_of_a_sealed_stream(tmp_path: Path) -> None:
    """A stream that takes no more entries still takes the ends of its transactions."""

    async def scenario() -> None:
        store = await open_store(tmp_path)
        stream = await make(store)
        await play(stream.slot(0), "a")
        await store.seal_stream(stream)
        await play(stream.slot(0), "a-")
        assert (stream.slot(0).stable_end, aborted(stream.slot(0))) == (2, [(0, 1, 1)])
        await store.close()

    run(scenario())


def test_storage_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller that ends a transaction hears of it once, and nothing of the step is seen."""

    async def scenario() -> None:
        store = await open_store(tmp_path)
        slot = (await make(store)).slot(0)
        await play(slot, ". a")
        unheard = []

        def fail(_: int) -> None:
            raise OSError(5, "Input/output error")

        before_syncs(monkeypatch, fail)
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
        puts = [Put("t", b"%d" % n, b"x") for n in range(STEP_OPERATIONS_MAX + 1)]
        with pytest.raises(StorageFailure):
            await owner_of(slot).end_transactions([end_of(slot, 1, committed=True)], puts)
        assert (slot.stable_end, slot.durable_end, len(store.table("t"))) == (1, 2, 0)
        await store.close()
        assert not unheard

    run(scenario())


@pytest.mark.slow
def test_full_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ends have a reserve where appends are refused; when it is used up they change nothing, and go on with room."""

    async def scenario() -> None:
        store = await open_store(tmp_path)
        stream = await make(store, slots=2)
        log, slots, writers = container_of(store).log, [stream.slot(0), stream.slot(1)], range(1, 50)
        await until(lambda: log.can_roll)
        for writer, slot in itertools.product(writers, slots):
            await append_in_transaction(slot, b"x", (writer, 0, 0))

        def no_room(*_: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as full:
            full.setattr("core.log.spares.allocate_spare", no_room)
            for size in (4 * KIB, 1):
                with pytest.raises(StorageFull):
                    await append_for_ever(slots[0], size)

            with pytest.raises(StorageFull):
                begin_append(slots[1], b"x", writer=(99, 0, 0), flags=IN_TRANSACTION)
            assert not slots[1].has_open_transaction(99)
            ended = 0
            for writer in writers:
                before = snapshot(store, slots)
                try:
                    await end_everywhere(slots, writer)
                except StorageFull:
                    break
                ended = writer
            assert 1 <= ended < writers[-1]
            assert before == snapshot(store, slots)

        await until(lambda: not log.disk_full)
        for writer in writers[ended:]:
            await end_everywhere(slots, writer)
            await until(lambda: log.can_roll)
        await store.close(clean=False)
        store = await open_store(tmp_path)
        assert (store.table("t").get(b"k") or b"").startswith(b"%d " % writers[-1])
        for slot in store.streams.get("s").written_slots():  # type: ignore[union-attr]
            assert list(writers) == [writer for _, _, writer in aborted(slot)]
        await store.close()

    run(scenario())


async def append_for_ever(slot: Slot, size: int) -> None:
    log = owner_of(slot).log
    while True:
        await append(slot, bytes(size))
        await until(lambda: log.can_roll or log.disk_full)


async def end_everywhere(slots: list[Slot], writer_id: int) -> None:
    ends = [end_of(slot, writer_id, committed=False, epoch=1) for slot in slots]
    await owner_of(slots[0]).end_transactions(ends, [Put("t", b"k", b"%d " % writer_id + b"x" * 8 * KIB)])


def snapshot(store: Store, slots: list[Slot]) -> Any:
    """The state that a refused step must not touch."""
    log = container_of(store).log
    states = [(s.end, encode_slot(s), dict(s.transactions.open) if s.transactions else None) for s in slots]
    fences = [{w: state.epoch for w, state in (s.writers or {}).items()} for s in slots]
    return log.next_lsn, log.position, len(log.open), states, fences, dict(store.table("t").items())
