"""Transactions of a slot: where committed readers stop, what they skip, which writers are stale."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.clock import ManualClock
from core.errors import SequenceGap, StaleWriterEpoch
from core.log.format import IN_TRANSACTION
from core.streams.live import Slot
from core.streams.saving import encode_slot
from core.streams.transactions import ROWS_PER_STEP, SlotTransactions, overlapping
from tests.core.support import (
    SMALL,
    Gate,
    append,
    append_in_transaction,
    begin_append,
    end_of,
    maintenance_of,
    make,
    open_store,
    owner_of,
    retention_of,
    run,
    until,
)
from tests.core.transaction_script import DONE, aborted, play

pytestmark = pytest.mark.slow


def played(tmp_path: Path, script: str, look: Callable[[Slot], Any], *, restart: bool = False) -> Any:
    """The view of a new slot after a script, in the same process or the next one."""

    async def scenario() -> Any:
        store = await open_store(tmp_path)
        await play((await make(store)).slot(0), script)
        if restart:
            await store.close(clean=False)
            store = await open_store(tmp_path)
        found = look(store.streams.get("s").slot(0))  # type: ignore[union-attr]
        await store.close()
        return found

    return run(scenario())


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize(
    ("script", "stable_end", "skipped"),
    [
        (". . .", 3, []),
        (". a .", 1, []),
        ("a a+", 2, []),
        ("a a-", 2, [(0, 1, 1)]),
        ("a b b+ .", 0, []),
        ("a b a+ .", 1, []),
        ("a b a+ b+ .", 5, []),
        ("a b b- a-", 4, [(1, 2, 2), (0, 3, 1)]),
        ("a . a- a a-", 5, [(0, 2, 1), (3, 4, 1)]),
        ("a a- a", 2, [(0, 1, 1)]),
        ("a+ . a-", 1, []),
        ("a b c b- a+ .", 2, [(1, 3, 2)]),
    ],
)
def test_stable_end(tmp_path: Path, script: str, stable_end: int, skipped: list[Any], restart: bool) -> None:
    """The oldest open transaction holds it, aborted ones are listed by their markers; a restart changes neither."""
    expected = (stable_end, stable_end, skipped)
    assert expected == played(tmp_path, script, lambda s: (s.stable_end, s.stable_bytes, aborted(s)), restart=restart)


def test_stable_bytes_are_those_before_stable_end(tmp_path: Path) -> None:
    """Entries of different sizes are counted up to the first one of the transaction, in flight or not."""

    async def scenario() -> None:
        store = await open_store(tmp_path)
        slot = (await make(store)).slot(0)
        await append(slot, b"x" * 100, 5)
        await append_in_transaction(slot, b"x" * 20, (1, 0, 0))
        await append(slot, b"x" * 3)
        assert (slot.stable_end, slot.stable_bytes) == (5, 100)
        begin_append(slot, b"in flight")
        assert (slot.stable_end, slot.stable_bytes, slot.durable_bytes) == (5, 100, 123)
        await store.close()

    run(scenario())


def test_released_by_a_durable_marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A marker in flight holds the transaction that it ends, and the watchers hear when it is durable."""

    async def scenario() -> None:
        store = await open_store(tmp_path)
        slot = (await make(store)).slot(0)
        await play(slot, ". a")
        gate, heard = Gate(monkeypatch), []

        class Watcher:
            def slot_appended(self, slot: Slot, size: int) -> None:
                heard.append((slot.durable_end, slot.stable_end))

            def slot_settled(self, slot: Slot, size: int) -> None:
                heard.append((slot.durable_end, slot.stable_end))

        slot.watch(Watcher())
        ended = owner_of(slot).end_transactions([end_of(slot, 1, committed=False)], [DONE])
        await until(gate.waiting.is_set)
        assert (slot.end, slot.durable_end, slot.stable_end, aborted(slot)) == (3, 2, 1, [])
        assert not slot.has_open_transaction(1)
        assert not heard

        gate.open.set()
        await ended
        assert (slot.stable_end, aborted(slot)) == (3, [(1, 2, 1)])
        assert heard[-1] == (3, 3)
        await store.close()

    run(scenario())


def test_begun_in_flight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction whose first entry is not durable holds nothing back that is."""

    async def scenario() -> None:
        store = await open_store(tmp_path)
        slot = (await make(store)).slot(0)
        await play(slot, ". .")
        gate = Gate(monkeypatch)
        outcome = begin_append(slot, b"x", writer=(1, 0, 0), flags=IN_TRANSACTION)[1]
        await until(gate.waiting.is_set)
        assert (slot.durable_end, slot.stable_end, slot.stable_bytes) == (2, 2, 2)
        assert slot.has_open_transaction(1)
        gate.open.set()
        await outcome.future
        assert (slot.durable_end, slot.stable_end) == (3, 2)
        await store.close()

    run(scenario())


def test_next_transaction_before_the_marker_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer goes on at once: its next transaction is open while the marker of the one before is on its way."""

    async def scenario() -> None:
        store = await open_store(tmp_path)
        slot = (await make(store)).slot(0)
        await play(slot, "a")
        gate = Gate(monkeypatch)
        first = owner_of(slot).end_transactions([end_of(slot, 1, committed=True)], [DONE])
        begin_append(slot, b"x", writer=(1, 0, 1), flags=IN_TRANSACTION)
        second = owner_of(slot).end_transactions([end_of(slot, 1, committed=False)], [DONE])
        begin_append(slot, b"x", writer=(1, 0, 2), flags=IN_TRANSACTION)
        assert (slot.stable_end, slot.durable_end) == (0, 1)
        gate.open.set()
        await asyncio.gather(first, second)
        await owner_of(slot).log.synced(owner_of(slot).log.next_lsn - 1)
        assert (slot.stable_end, aborted(slot)) == (4, [(2, 3, 1)])
        await store.close()

    run(scenario())


# Writers


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize(
    ("epoch", "sequence", "expected"),
    [
        pytest.param(0, 1, None, id="the same epoch goes on"),
        pytest.param(0, 2, SequenceGap, id="a gap is one"),
        pytest.param(1, 0, None, id="a new epoch"),
        pytest.param(1, 1, SequenceGap, id="a new epoch begins at 0"),
    ],
)
def test_writer_after_its_marker(
    tmp_path: Path, epoch: int, sequence: int, expected: type[Exception] | None, restart: bool
) -> None:
    """A marker of the writer's own epoch (transactions before KIP-890) changes nothing for it."""
    assert expected is played(tmp_path, "a a+", lambda slot: refusal(slot, 1, epoch, sequence), restart=restart)


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize(
    ("epoch", "sequence", "expected"),
    [
        pytest.param(0, 1, StaleWriterEpoch, id="the old epoch is stale"),
        pytest.param(0, 0, StaleWriterEpoch, id="and what was sent in it no duplicate"),
        pytest.param(4, 0, StaleWriterEpoch, id="and all between"),
        pytest.param(5, 0, None, id="the marker's own begins at 0"),
        pytest.param(5, 1, SequenceGap, id="and only there"),
    ],
)
def test_writer_after_a_marker_of_a_later_epoch(
    tmp_path: Path, epoch: int, sequence: int, expected: type[Exception] | None, saved: bool
) -> None:
    """The marker fences: as soon as it is appended, when it is durable, and after restarts."""

    async def scenario() -> list[type[Exception] | None]:
        found = []
        store = await open_store(tmp_path)
        slot = (await make(store)).slot(0)
        await play(slot, "a")
        ended = owner_of(slot).end_transactions([end_of(slot, 1, committed=True, epoch=5)], [DONE])
        found.append(refusal(slot, 1, epoch, sequence))
        await ended
        found.append(refusal(slot, 1, epoch, sequence))
        for _ in range(2):
            await store.close(clean=saved)
            store = await open_store(tmp_path)
            found.append(refusal(store.streams.get("s").slot(0), 1, epoch, sequence))  # type: ignore[union-attr]
        await store.close()
        return found

    assert [expected] * 4 == run(scenario())


def refusal(slot: Slot, writer_id: int, epoch: int, sequence: int) -> type[Exception] | None:
    """The refusal of a batch of one record; None when it is the next one."""
    try:
        assert owner_of(slot).check_writer(slot, writer_id, epoch, sequence, 1) is None
    except (SequenceGap, StaleWriterEpoch) as refused:
        return type(refused)
    return None


def test_fence_in_flight_is_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint leaves out the epoch of a marker that is not durable."""

    async def scenario() -> None:
        store = await open_store(tmp_path)
        slot = (await make(store)).slot(0)
        await play(slot, "a")
        before = encode_slot(slot)
        gate = Gate(monkeypatch)
        ended = owner_of(slot).end_transactions([end_of(slot, 1, committed=True, epoch=5)], [DONE])
        assert before == encode_slot(slot)
        gate.open.set()
        await ended
        assert before != encode_slot(slot)
        await store.close()

    run(scenario())


def test_writers_expire_but_for_open_transactions(tmp_path: Path) -> None:
    """A day after its last entry a writer is forgotten; one whose transaction is open never is."""

    async def scenario() -> None:
        clock = ManualClock()
        store = await open_store(tmp_path, clock=clock)
        slot = (await make(store)).slot(0)
        await play(slot, "a b b-")
        await append(slot, b"x", writer=(9, 0, 0))
        retention = retention_of(store)
        clock.advance(SMALL.writer_expiration_ms / 1000 - 1)
        await retention.enforce()
        assert {1, 2, 9} == set(slot.writers or ())
        clock.advance(2)
        await retention.enforce()
        assert {1} == set(slot.writers or ())

        await play(slot, "a+")
        await retention.enforce()
        assert {1} == set(slot.writers or ())
        clock.advance(SMALL.writer_expiration_ms / 1000 + 1)
        await retention.enforce()
        assert not slot.writers
        await store.close()

    run(scenario())


# Starts that move


@pytest.mark.parametrize("restart", [False, True])
def test_start_beyond_an_open_transaction(tmp_path: Path, restart: bool) -> None:
    """DeleteRecords may cut an open transaction: committed readers stop at the start, and see on when it has ended."""

    async def scenario() -> None:
        store = await open_store(tmp_path)
        slot = (await make(store)).slot(0)
        await play(slot, ". a . a .")
        await store.hosted(slot).truncate(slot, 3)
        assert (slot.start, slot.stable_end, slot.stable_bytes) == (3, 3, 3)
        if restart:
            await store.close(clean=False)
            store = await open_store(tmp_path)
            slot = store.streams.get("s").slot(0)  # type: ignore[union-attr]
            assert (slot.start, slot.stable_end, slot.stable_bytes) == (3, 3, 3)
        await store.hosted(slot).truncate(slot, 5)
        assert (slot.start, slot.stable_end, slot.stable_bytes) == (5, 5, 5)
        await play(slot, ".")
        assert (slot.stable_end, slot.stable_bytes) == (5, 5)
        await play(slot, "a-")
        assert (slot.stable_end, slot.stable_bytes, aborted(slot, 5, 7)) == (7, 7, [(1, 6, 1)])
        await store.close()

    run(scenario())


def test_retention_stops_at_an_open_transaction(tmp_path: Path) -> None:
    """Policies take nothing from an open transaction on, however old it is."""

    async def scenario() -> None:
        store = await open_store(tmp_path)
        slot = (await make(store, retention_bytes=0)).slot(0)
        await play(slot, ". . a . .")
        retention = retention_of(store)
        await retention.enforce()
        assert (slot.start, slot.end) == (2, 5)
        await play(slot, "a+")
        await retention.enforce()
        assert (slot.start, slot.stable_end) == (6, 6)
        await store.close()

    run(scenario())


@pytest.mark.parametrize(
    ("start", "left"),
    [
        (0, [(0, 2, 1), (3, 5, 2)]),
        (2, [(0, 2, 1), (3, 5, 2)]),
        (3, [(3, 5, 2)]),
        (5, [(3, 5, 2)]),
        (6, []),
        (7, []),
    ],
)
def test_trims_drop_aborted_transactions(tmp_path: Path, start: int, left: list[Any]) -> None:
    """An aborted transaction is known until the start is behind its marker."""

    async def scenario() -> None:
        store = await open_store(tmp_path)
        slot = (await make(store)).slot(0)
        await play(slot, "a . a- b . b- .")
        held = slot.aborted_rows
        everything = list(overlapping(held, 0, 7))
        await store.hosted(slot).truncate(slot, start)
        assert left == aborted(slot)
        assert everything == list(overlapping(held, 0, 7))
        await store.close(clean=False)

        store = await open_store(tmp_path)
        assert left == aborted(store.streams.get("s").slot(0))  # type: ignore[union-attr]
        await store.close()

    run(scenario())


def test_checkpoint_with_open_transaction(tmp_path: Path) -> None:
    """Entries saved by a checkpoint are not replayed; a replayed marker ends their transaction."""

    async def scenario() -> None:
        store = await open_store(tmp_path)
        slot = (await make(store)).slot(0)
        await play(slot, ". a b b-")
        await maintenance_of(store).checkpoint()
        await play(slot, "a-")
        await store.close(clean=False)
        store = await open_store(tmp_path)
        slot = store.streams.get("s").slot(0)  # type: ignore[union-attr]
        assert (slot.stable_end, aborted(slot)) == (5, [(2, 3, 2), (1, 4, 1)])
        await store.close()

    run(scenario())


def test_markers_are_no_batches_of_their_writers(tmp_path: Path) -> None:
    """A marker has no sequence: the last five batches are those of the writer."""

    async def scenario() -> None:
        store = await open_store(tmp_path)
        slot = (await make(store)).slot(0)
        await play(slot, "a a+ " * 7)
        bases = [batch.base for batch in (slot.writers or {})[1].batches]
        assert bases == [4, 6, 8, 10, 12]
        with pytest.raises(SequenceGap):
            owner_of(slot).check_writer(slot, 1, 0, 0, 1)
        await store.close()

    run(scenario())


def test_saved_in_steps() -> None:
    """Whatever happens between its steps, the saved state is that of the first; no step has more than its rows."""
    known = SlotTransactions()
    for writer in range(3 * ROWS_PER_STEP):
        known.began(writer, writer, 0)
    known.ending(0)
    known.ended(0, 3 * ROWS_PER_STEP, committed=False)
    durable_end = 2 * ROWS_PER_STEP
    at_once = known.encode(durable_end)

    steps = known.encoding(durable_end)
    for count in range(3):
        next(steps)
        known.began(-1 - count, durable_end + 10_000 + count, 0)
        known.ending(1 + count)
        known.ended(1 + count, 3 * ROWS_PER_STEP + 1 + count, committed=False)
        known.forget_before(3 * ROWS_PER_STEP + 1)
    with pytest.raises(StopIteration) as done:
        next(steps)

    assert done.value.value == at_once
    assert known.encode(durable_end) != at_once
