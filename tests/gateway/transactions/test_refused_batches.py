"""What producers had sent behind a batch that was refused for a passing reason."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.clock import ManualClock
from core.container.forgetting import SILENT_MS_MIN
from core.errors import SequenceGap
from core.streams.writers import SEQUENCE_MAX, Duplicate, WriterState, new_batch
from gateway.records.record_batch import BatchHeader, read_header
from gateway.transactions.places import Place
from gateway.transactions.refused_batches import FOLLOWERS_MAX, PRODUCERS_MAX, UNDER_WAY_MAX, RefusedBatches
from tests.gateway.harness import batch

HERE, BESIDE = Place(1, 0), Place(1, 1)
OUT_OF_ORDER, NOT_LEADER, NOT_ENOUGH_REPLICAS, POLICY_VIOLATION, STORAGE_ERROR = 45, 6, 19, 44, 56


def sent(sequence: int, *, writer: int = 7, epoch: int = 0) -> BatchHeader:
    """A batch of one record."""
    return read_header(batch(b"a", producer_id=writer, producer_epoch=epoch, base_sequence=sequence))


def test_a_batch_behind_a_refused_one_gets_its_code() -> None:
    """Where the refused one should have come, and nowhere else."""
    refused = RefusedBatches()
    refused.note(HERE, sent(10), NOT_ENOUGH_REPLICAS)

    assert refused.code_behind(HERE, sent(12), 10) == NOT_ENOUGH_REPLICAS
    assert refused.code_behind(HERE, sent(12), 11) is None, "the refused one was taken meanwhile"
    assert refused.code_behind(BESIDE, sent(12), 10) is None
    assert refused.code_behind(HERE, sent(12, writer=8), 10) is None
    assert refused.code_behind(HERE, sent(12, epoch=1), 10) is None


def test_all_that_were_under_way_may_be_refused() -> None:
    """The first ones are taken when they come again, and another one is missing then."""
    refused = RefusedBatches()
    for sequence in range(UNDER_WAY_MAX):
        refused.note(HERE, sent(sequence), NOT_LEADER)

    assert [refused.code_behind(HERE, sent(9), missing) for missing in (0, 2, 4)] == [NOT_LEADER] * 3


@pytest.mark.parametrize("code", [OUT_OF_ORDER, POLICY_VIOLATION])
def test_a_batch_that_does_not_come_again_explains_no_gap(code: int) -> None:
    refused = RefusedBatches()
    refused.note(HERE, sent(10), code)

    assert refused.code_behind(HERE, sent(11), 10) is None


def test_a_batch_without_a_producer_id_is_not_remembered() -> None:
    refused = RefusedBatches()
    refused.note(HERE, read_header(batch(b"a")), NOT_LEADER)

    assert not refused._refused


def test_a_producer_that_gave_up_a_batch_hears_of_the_gap() -> None:
    """After as many refusals as it can have had under way; if the batch comes and is refused again, they begin anew."""
    refused = RefusedBatches()
    refused.note(HERE, sent(10), NOT_LEADER)
    for _ in range(FOLLOWERS_MAX):
        assert refused.code_behind(HERE, sent(11), 10) == NOT_LEADER
    refused.note(HERE, sent(10), STORAGE_ERROR)
    for _ in range(FOLLOWERS_MAX):
        assert refused.code_behind(HERE, sent(11), 10) == STORAGE_ERROR

    assert refused.code_behind(HERE, sent(11), 10) is None
    assert refused.code_behind(HERE, sent(11), 10) is None


def test_a_new_producer_begins_with_what_was_refused() -> None:
    """A partition would take anything from it: what was sent behind the refused batch would be stored before it."""
    refused = RefusedBatches()
    refused.check_first(HERE, sent(3))
    refused.note(HERE, sent(0), NOT_LEADER)
    refused.note(HERE, sent(1), NOT_LEADER)

    with pytest.raises(SequenceGap) as gap:
        refused.check_first(HERE, sent(1))
    assert refused.code_behind(HERE, sent(1), gap.value.expected) == NOT_LEADER
    refused.check_first(HERE, sent(0))
    refused.check_first(BESIDE, sent(1))


def test_a_new_producer_begins_with_the_first_of_those_that_were_refused() -> None:
    """Whichever came here first: what is sent to a new leader may overtake what the old one has not answered."""
    refused = RefusedBatches()
    for sequence in range(UNDER_WAY_MAX, 2 * UNDER_WAY_MAX):
        refused.note(HERE, sent(sequence), NOT_LEADER)

    refused.check_first(HERE, sent(0))
    refused.note(HERE, sent(0), NOT_LEADER)
    with pytest.raises(SequenceGap) as gap:
        refused.check_first(HERE, sent(UNDER_WAY_MAX))
    assert gap.value.expected == 0
    refused.check_first(HERE, sent(0))


def test_sequences_wrap() -> None:
    refused = RefusedBatches()
    refused.note(HERE, sent(0), NOT_LEADER)
    refused.check_first(HERE, sent(SEQUENCE_MAX))

    refused.note(HERE, sent(SEQUENCE_MAX), NOT_LEADER)
    with pytest.raises(SequenceGap):
        refused.check_first(HERE, sent(0))


def test_what_nobody_sends_again_by_now_is_forgotten() -> None:
    """A producer that was silent for long is unknown to its partition, too, and begins anywhere."""
    clock = ManualClock()
    refused = RefusedBatches(clock.monotonic_s)
    refused.note(HERE, sent(0), NOT_LEADER)
    clock.advance(SILENT_MS_MIN / 1000 - 1)
    refused.note(HERE, sent(1), NOT_LEADER)
    with pytest.raises(SequenceGap):
        refused.check_first(HERE, sent(9))
    clock.advance(SILENT_MS_MIN / 1000)

    refused.check_first(HERE, sent(9))
    assert refused.code_behind(HERE, sent(9), 1) is None


def test_the_memory_is_bounded() -> None:
    """The producer that was refused last stays, the one refused longest ago is forgotten."""
    refused = RefusedBatches()
    for writer in range(PRODUCERS_MAX):
        refused.note(HERE, sent(0, writer=writer), NOT_LEADER)
    refused.note(HERE, sent(0, writer=0), NOT_LEADER)
    refused.note(HERE, sent(0, writer=PRODUCERS_MAX), NOT_LEADER)
    for sequence in range(2 * UNDER_WAY_MAX):
        refused.note(HERE, sent(sequence, writer=0), NOT_LEADER)

    assert len(refused._refused) == PRODUCERS_MAX
    assert len(refused._refused[HERE, 0, 0].codes) == UNDER_WAY_MAX
    assert refused.code_behind(HERE, sent(1, writer=1), 0) is None
    assert refused.code_behind(HERE, sent(1, writer=2), 0) == NOT_LEADER


class Partition:
    """Takes a producer's batches as a Produce does; while `is_away` it takes none."""

    def __init__(self) -> None:
        self.is_away = False
        self.loses_answers = False  # of what it stores
        self.stored: list[int] = []
        self._refused = RefusedBatches()
        self._writer: WriterState | None = None

    def produce(self, one: BatchHeader) -> int:
        code = self._code_of(one)
        self._refused.note(HERE, one, code)
        return code

    def _code_of(self, one: BatchHeader) -> int:
        if self.is_away:
            return NOT_LEADER
        try:
            if self._writer is None:
                self._refused.check_first(HERE, one)
            elif isinstance(self._writer.check(7, one.producer_epoch, one.base_sequence, 1), Duplicate):
                return 0
        except SequenceGap as gap:
            return self._refused.code_behind(HERE, one, gap.expected) or OUT_OF_ORDER
        offset = len(self.stored)
        if self._writer is None:
            self._writer = WriterState(0, 0)
        self._writer.record(new_batch(0, one.base_sequence, offset, 1, 0), 0, offset)
        self.stored.append(one.base_sequence)
        return STORAGE_ERROR if self.loses_answers else 0


class Producer:
    """Has some batches under way. When one is refused it sends no others until all are answered, then all again, in
    order: as librdkafka does."""

    def __init__(self) -> None:
        self.under_way: deque[int] = deque()
        self.answers: deque[tuple[int, int]] = deque()
        self.next = 0
        self._again: list[int] = []

    def send(self) -> None:
        out = len(self.under_way) + len(self.answers)
        if self._again and out:
            return
        for sequence in sorted(self._again):
            self.under_way.append(sequence)
        out += len(self._again)
        self._again.clear()
        if out < UNDER_WAY_MAX:
            self.under_way.append(self.next)
            self.next += 1

    def hear(self) -> None:
        sequence, code = self.answers.popleft()
        if code:
            self._again.append(sequence)


STEPS = ("send", "serve", "hear", "leaves", "comes", "loses answers", "answers")


@given(st.lists(st.sampled_from(STEPS), max_size=200))
def test_no_producer_hears_of_a_gap(steps: list[str]) -> None:
    """Whatever is refused and stored meanwhile: all is stored once and in order, and no batch is out of order."""
    partition, producer = Partition(), Producer()

    def serve() -> None:
        sequence = producer.under_way.popleft()
        code = partition.produce(sent(sequence))
        assert code != OUT_OF_ORDER, f"batch {sequence}, stored are {partition.stored}"
        producer.answers.append((sequence, code))

    for step in steps:
        match step:
            case "send":
                producer.send()
            case "serve" if producer.under_way:
                serve()
            case "hear" if producer.answers:
                producer.hear()
            case "leaves" | "comes":
                partition.is_away = step == "leaves"
            case "loses answers" | "answers":
                partition.loses_answers = step == "loses answers"
    partition.is_away = partition.loses_answers = False
    for _ in range(4):
        while producer.under_way:
            serve()
        while producer.answers:
            producer.hear()
        producer.send()
    while producer.under_way:
        serve()
    assert partition.stored == list(range(producer.next))
