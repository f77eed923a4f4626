"""Idempotent writers: a batch is appended once, however often it is sent, and nothing is appended out of order."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from core.errors import SequenceGap, StaleWriterEpoch, StoreError
from core.streams.live import Slot
from core.streams.saving import encode_slot, load_slot
from core.streams.writers import BATCHES_KEPT, SEQUENCE_MAX, Duplicate, WriterState, new_batch, sequence_after
from tests.core.support import (
    Gate,
    append,
    append_in_transaction,
    begin_append,
    container_of,
    end_of,
    make,
    open_store,
    run,
)

pytestmark = pytest.mark.slow

Sent = tuple[int, int, int]  # epoch, first sequence, count
WRITER = 7


def state_after(*batches: Sent) -> WriterState:
    """A writer that appended these, from offset 0 on."""
    state = WriterState(batches[0][0], 0)
    base = 0
    for epoch, first, count in batches:
        state.record(new_batch(epoch, first, base, count, 1_000 + base), 0, base)
        base += count
    return state


FIVE: list[Sent] = [(0, 0, 10), (0, 10, 10), (0, 20, 1), (0, 21, 9), (0, 30, 10)]


@pytest.mark.parametrize(
    ("before", "sent", "expected"),
    [
        pytest.param(FIVE, (0, 40, 3), None, id="the next one"),
        pytest.param(FIVE, (0, 30, 10), Duplicate(30, 40, 1_030), id="the last one again"),
        pytest.param(FIVE, (0, 0, 10), Duplicate(0, 10, 1_000), id="the fifth last again"),
        pytest.param([*FIVE, (0, 40, 1)], (0, 0, 10), SequenceGap, id="the sixth last is forgotten"),
        pytest.param(FIVE, (0, 41, 1), SequenceGap, id="one too far"),
        pytest.param(FIVE, (0, 30, 9), SequenceGap, id="same beginning, other end"),
        pytest.param(FIVE, (0, 29, 1), SequenceGap, id="inside of an old one"),
        pytest.param(FIVE, (1, 0, 5), None, id="new epoch from zero"),
        pytest.param(FIVE, (1, 40, 5), SequenceGap, id="new epoch that does not begin at zero"),
        pytest.param([(3, 0, 1)], (2, 1, 1), StaleWriterEpoch, id="stale epoch"),
        pytest.param([(3, 0, 1)], (2, 0, 1), StaleWriterEpoch, id="stale epoch from zero"),
        pytest.param([(3, 0, 1), (4, 0, 1)], (3, 0, 1), StaleWriterEpoch, id="a duplicate of an old epoch"),
        pytest.param([(0, 77, 3)], (0, 80, 1), None, id="any first sequence is the beginning"),
        pytest.param([(0, SEQUENCE_MAX - 1, 2)], (0, 0, 4), None, id="after the maximum comes zero"),
        pytest.param([(0, SEQUENCE_MAX, 3)], (0, 2, 1), None, id="a batch across the wrap"),
        pytest.param([(0, SEQUENCE_MAX, 3)], (0, SEQUENCE_MAX, 3), Duplicate(0, 3, 1_000), id="that batch again"),
        pytest.param([(0, SEQUENCE_MAX, 3)], (0, 3, 1), SequenceGap, id="a gap after the wrap"),
    ],
)
def test_check(before: list[Sent], sent: Sent, expected: object) -> None:
    """The kind of a writer's batch, given those before it."""
    state = state_after(*before)
    epoch, first, count = sent
    if isinstance(expected, type):
        with pytest.raises(expected):
            state.check(1, epoch, first, count)
    else:
        assert expected == state.check(1, epoch, first, count)


@given(st.integers(0, SEQUENCE_MAX), st.integers(0, SEQUENCE_MAX))
def test_sequence_after_wraps(sequence: int, count: int) -> None:
    """Sequences are numbers modulo 2^31."""
    assert (sequence + count) % (SEQUENCE_MAX + 1) == sequence_after(sequence, count)


@dataclass
class Model:
    """All batches for ever, in a plain list."""

    batches: list[tuple[int, int, int, int]] = field(default_factory=list)  # epoch, first, count, base
    kept: int = BATCHES_KEPT  # more where more are in flight

    def expect(self, epoch: int, first: int, count: int) -> Duplicate | type[StoreError] | None:
        newest = self.batches[-1]
        if epoch < newest[0]:
            return StaleWriterEpoch
        if epoch > newest[0]:
            return None if first == 0 else SequenceGap
        if first == (newest[1] + newest[2]) % 2**31:
            return None
        for own_epoch, own_first, own_count, base in self.batches[-self.kept :]:
            if (own_epoch, own_first, own_count) == (epoch, first, count):
                return Duplicate(base, base + count, base)
        return SequenceGap


class Writers(RuleBasedStateMachine):
    """A writer that sends next, again, wrong, with new and old epochs, against the model."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.state: WriterState | None = None
        self.base = 0
        self.durable_end = 0

    @precondition(lambda self: self.state is None)
    @rule(
        epoch=st.integers(0, 3), first=st.sampled_from([0, 5, SEQUENCE_MAX - 20, SEQUENCE_MAX]), count=st.integers(1, 9)
    )
    def begin(self, epoch: int, first: int, count: int) -> None:
        self.state = WriterState(epoch, 0)
        self._append(epoch, first, count)

    @precondition(lambda self: self.state is not None)
    @rule(count=st.integers(1, 9))
    def send_next(self, count: int) -> None:
        epoch, first, length, _ = self.model.batches[-1]
        self._send(epoch, (first + length) % 2**31, count)

    @precondition(lambda self: self.state is not None)
    @rule(back=st.integers(1, 8), stretch=st.integers(-1, 1))
    def send_again(self, back: int, stretch: int) -> None:
        epoch, first, count, _ = self.model.batches[-min(back, len(self.model.batches))]
        self._send(epoch, first, max(1, count + stretch))

    @precondition(lambda self: self.state is not None)
    @rule(step=st.integers(-2, 2), first=st.sampled_from([0, 1]), count=st.integers(1, 3))
    def send_other_epoch(self, step: int, first: int, count: int) -> None:
        self._send(max(0, self.model.batches[-1][0] + step), first, count)

    @rule(share=st.sampled_from([0.3, 1.0]))
    def sync(self, share: float) -> None:
        waiting = [batch[3] + batch[2] for batch in self.model.batches if batch[3] >= self.durable_end]
        self.durable_end = max([self.durable_end, *waiting[: round(share * len(waiting))]])

    def _send(self, epoch: int, first: int, count: int) -> None:
        assert self.state is not None
        self.model.kept = len(self.state.batches)
        expected = self.model.expect(epoch, first, count)
        if isinstance(expected, type):
            with pytest.raises(expected):
                self.state.check(1, epoch, first, count)
            return
        assert expected == self.state.check(1, epoch, first, count)
        if expected is None:
            self._append(epoch, first, count)

    def _append(self, epoch: int, first: int, count: int) -> None:
        assert self.state is not None
        self.state.record(new_batch(epoch, first, self.base, count, self.base), 0, self.durable_end)
        self.model.batches.append((epoch, first, count, self.base))
        self.base += count
        in_flight = sum(batch[3] >= self.durable_end for batch in self.model.batches)
        assert len(self.state.batches) <= max(BATCHES_KEPT, in_flight + 1)

    @invariant()
    def keeps_five(self) -> None:
        if self.state is not None:
            newest = self.state.batches[-BATCHES_KEPT:]
            assert [b[3] for b in self.model.batches[-BATCHES_KEPT:]] == [b.base for b in newest]

    @invariant()
    def keeps_where_it_goes_on(self) -> None:
        """Should a crash take what is in flight, the newest durable batch is known."""
        if self.state is not None:
            durable = [b[3] for b in self.model.batches if b[3] < self.durable_end]
            saved = [batch.base for batch in self.state.durable_batches(self.durable_end)]
            assert durable[-1:] == saved[-1:]
            assert saved == durable[len(durable) - len(saved) :]
            assert len(saved) <= BATCHES_KEPT


TestWriters = Writers.TestCase
TestWriters.settings = settings(max_examples=50, stateful_step_count=30)


@pytest.mark.parametrize("in_flight", [4, 5, 6, 12])
@pytest.mark.parametrize("marked", [False, True], ids=["idempotent", "transactional"])
def test_all_that_is_remembered_is_in_flight_at_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_flight: int, marked: bool
) -> None:
    """A crash that takes what was in flight at a checkpoint leaves a writer that goes on where it was durable."""

    async def scenario() -> None:
        store = await open_store(tmp_path / "a")
        slot = (await make(store)).slot(0)
        if marked:
            await append_in_transaction(slot, b"x", (WRITER, 0, 0))
            await container_of(store).end_transactions([end_of(slot, WRITER, committed=True)], [])
        before = 1 if marked else 0
        for sequence in range(before, before + 7):
            await append(slot, b"x", writer=(WRITER, 0, sequence))
        gate = Gate(monkeypatch)
        for sequence in range(before + 7, before + 7 + in_flight):
            begin_append(slot, b"x", writer=(WRITER, 0, sequence))
        state = Slot(container_of(store), slot.stream, 0)
        load_slot(state, encode_slot(slot))
        gate.open.set()
        await container_of(store).all_durable()

        assert state.end == before * 2 + 7
        assert state.writers is not None
        known = state.writers[WRITER]
        assert known.check(WRITER, 0, before + 7, 1) is None
        assert known.check(WRITER, 0, before + 6, 1) == Duplicate(state.end - 1, state.end, 0)
        with pytest.raises(SequenceGap):
            known.check(WRITER, 0, before + 8, 1)
        await store.close()

    run(scenario())


def test_new_epoch_is_in_flight_at_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that had begun its next epoch goes on in the one that was durable."""

    async def scenario() -> None:
        store = await open_store(tmp_path)
        slot = (await make(store)).slot(0)
        for sequence in range(3):
            await append(slot, b"x", writer=(WRITER, 4, sequence))
        gate = Gate(monkeypatch)
        for sequence in range(6):
            begin_append(slot, b"x", writer=(WRITER, 5, sequence))
        state = Slot(container_of(store), slot.stream, 0)
        load_slot(state, encode_slot(slot))
        gate.open.set()
        await container_of(store).all_durable()

        assert state.writers is not None
        assert state.writers[WRITER].check(WRITER, 4, 2, 1) == Duplicate(2, 3, 0)
        assert state.writers[WRITER].check(WRITER, 4, 3, 1) is None
        assert state.writers[WRITER].check(WRITER, 5, 0, 1) is None
        await store.close()

    run(scenario())
