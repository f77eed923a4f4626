"""Compaction of transactional topics: against a dict of last committed values, read as Kafka's consumers read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.tiering.filters import CompactionScope
from gateway.records.compaction import Compactor
from gateway.records.record_batch import CONTROL, DELETE_HORIZON, NONE, TRANSACTIONAL, ZSTD, BatchHeader, read_header
from gateway.records.records import Record, build_batch, iter_records
from tests.gateway.records.test_compaction import crc_is_right, keys, values
from tier2.chunk_format import AbortedTransaction

pytestmark = pytest.mark.slow

NOW_MS = 1_700_000_000_000
DAY_MS = 86_400_000
COMMIT, ABORT = b"\x00\x00\x00\x01", b"\x00\x00\x00\x00"
VALUE = b"\x00\x00\x00\x00\x00\x07"

Pairs = Sequence[tuple[bytes, bytes | None]]


@dataclass
class Run:
    """Batches as one chunk holds them, and the aborted transactions that it lists."""

    first: int
    end: int
    batches: list[bytes]
    aborted: list[AbortedTransaction]


@dataclass
class Partition:
    """A partition whose stable part is in runs, and the records that committed readers should end up with."""

    runs: list[Run] = field(default_factory=list)
    fresh: list[bytes] = field(default_factory=list)
    end: int = 0
    clean_end: int = 0
    due_ms: int | None = None
    open: dict[int, tuple[int, list[Record]]] = field(default_factory=dict)
    sequences: dict[int, int] = field(default_factory=dict)
    last_of: dict[int, int] = field(default_factory=dict)  # writer: last offset of its last batch
    aborted: list[AbortedTransaction] = field(default_factory=list)
    committed: list[Record] = field(default_factory=list)
    outcome: dict[int, int] = field(default_factory=dict)  # base offset of a transaction's batch: its marker's offset

    def append(self, pairs: Pairs, writer: int = -1, codec: int = NONE) -> int:
        """A batch, of the writer's transaction if one is named."""
        base = self.end
        made = [Record(base + n, NOW_MS + base + n, key, value, ()) for n, (key, value) in enumerate(pairs)]
        sequence = self.sequences.get(writer, 0) if writer >= 0 else -1
        self.fresh.append(
            bytes(
                build_batch(
                    made,
                    codec=codec,
                    producer_id=writer,
                    producer_epoch=0 if writer >= 0 else -1,
                    base_sequence=sequence,
                    transactional=writer >= 0,
                )
            )
        )
        self.end += len(made)
        if writer < 0:
            self.committed += made
            return base
        self.sequences[writer] = sequence + len(made)
        self.last_of[writer] = self.end - 1
        self.open.setdefault(writer, (base, []))[1].extend(made)
        return base

    def finish(self, writer: int, *, commit: bool) -> int:
        """The marker of the writer's transaction."""
        marker = self.end
        record = Record(marker, NOW_MS + marker, COMMIT if commit else ABORT, VALUE, ())
        attributes = CONTROL | TRANSACTIONAL
        self.fresh.append(bytes(build_batch([record], producer_id=writer, producer_epoch=0, attributes=attributes)))
        self.end += 1
        first, records = self.open.pop(writer)
        if commit:
            self.committed = sorted(self.committed + records, key=lambda one: one.offset)
        else:
            self.aborted.append(
                AbortedTransaction(writer_id=writer, first=first, last=marker, stable_end=self.stable_end)
            )
        self.outcome |= {record.offset: marker for record in records}
        return marker

    @property
    def stable_end(self) -> int:
        return min((first for first, _ in self.open.values()), default=self.end)

    def tier(self) -> None:
        """All that is stable goes into a run."""
        batches = [one for one in self.fresh if read_header(one).last_offset < self.stable_end]
        if batches:
            first, end = read_header(batches[0]).base_offset, read_header(batches[-1]).last_offset + 1
            self.runs.append(Run(first, end, batches, self.overlapping(first, end)))
            self.fresh = self.fresh[len(batches) :]

    def overlapping(self, first: int, end: int) -> list[AbortedTransaction]:
        return [one for one in self.aborted if one.first < end and one.last >= first]

    def compact(self, now_ms: int = NOW_MS, tombstone_ms: int = DAY_MS, keys_max: int = 1 << 30) -> None:
        """One round, as the store runs it: one run comes out for each that went in."""
        if not self.runs:
            return
        upto, last_end = self.runs[-1].end, self.clean_end
        scope = CompactionScope(
            begin=self.clean_end, end=upto, now_ms=now_ms, tombstone_ms=tombstone_ms, writers=self.last_of
        )
        compactor = Compactor(scope)
        for run in self.runs:
            compactor.run_begins(run.aborted)
            for batch in run.batches:
                header = read_header(batch)
                if header.base_offset >= upto:
                    continue
                if header.base_offset >= self.clean_end:
                    if compactor.held >= keys_max:
                        upto = header.base_offset
                        continue
                    compactor.learn(memoryview(batch))
                last_end = header.last_offset + 1
        compactor.end_at(last_end)
        for run in self.runs:
            compactor.run_begins(run.aborted)
            kept = [compactor.keep(memoryview(b)) if read_header(b).base_offset < upto else b for b in run.batches]
            run.batches = [bytes(one) for one in kept if one is not None]
            run.aborted = [one for one in run.aborted if one.last >= upto or compactor.has_left(one)]
        self.clean_end, self.due_ms = upto, compactor.due_ms

    @property
    def batches(self) -> list[bytes]:
        return [batch for run in self.runs for batch in run.batches]

    def headers(self) -> list[BatchHeader]:
        return [read_header(batch) for batch in self.batches]

    def answer(self, offset: int, batches_max: int) -> tuple[list[bytes], list[AbortedTransaction]]:
        """Some batches from an offset on, and the transactions that a fetch lists beside them."""
        found: list[bytes] = []
        listed: dict[int, AbortedTransaction] = {}
        for run in self.runs:
            some = [one for one in run.batches if read_header(one).last_offset >= offset][: batches_max - len(found)]
            if some:
                found += some
                end = read_header(some[-1]).last_offset + 1
                listed |= {one.last: one for one in run.aborted if one.first < end and one.last >= offset}
        return found, list(listed.values())


def committed_records(partition: Partition, batches_max: int) -> list[Record]:
    """The records of a consumer with read_committed, fetch by fetch."""
    offset, records = 0, list[Record]()
    while True:
        batches, listed = partition.answer(offset, batches_max)
        if not batches:
            return records
        records += delivered(batches, [(one.first, one.writer_id) for one in listed])
        offset = read_header(batches[-1]).last_offset + 1


def delivered(batches: Sequence[bytes], aborted: Sequence[tuple[int, int]]) -> list[Record]:
    """The records that a read_committed consumer takes from one answer, less the listed aborted transactions."""
    records, waiting, skipped = list[Record](), sorted(aborted), set[int]()
    for batch in batches:
        header = read_header(batch)
        while waiting and waiting[0][0] <= header.last_offset:
            skipped.add(waiting.pop(0)[1])
        if header.is_control:
            if next(iter(iter_records(batch))).key == ABORT:
                skipped.discard(header.producer_id)
        elif not (header.is_transactional and header.producer_id in skipped):
            records += iter_records(batch)
    return records


def last_values(records: Sequence[Record]) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for record in records:
        assert record.key is not None
        if record.value is None:
            found.pop(record.key, None)
        else:
            found[record.key] = record.value
    return found


pairs = st.lists(st.tuples(keys, values), min_size=1, max_size=4)
writes = st.tuples(st.sampled_from([-1, 1, 2, 3]), pairs, st.sampled_from([NONE, ZSTD]))
ends = st.tuples(st.sampled_from([1, 2, 3]), st.booleans())
rounds = st.sampled_from([3, 1 << 30])


@settings(max_examples=400, deadline=None)
@given(st.lists(writes | ends | rounds | st.none(), min_size=1, max_size=40), st.sampled_from([1, 3, 1000]))
def test_like_a_dict(steps: list[object], batches_max: int) -> None:
    """After any rounds a committed reader ends with the last committed value of each key, in fetches of any size."""
    partition, now_ms = Partition(), NOW_MS
    for step in [*steps, (1, True), (2, False), (3, True), None]:
        if step is None:
            partition.tier()
        elif isinstance(step, int):
            now_ms += DAY_MS * 2 // 3
            partition.compact(now_ms, keys_max=step)
            check_markers(partition)
        elif len(step) == 3:  # type: ignore[arg-type]
            writer, some, codec = step  # type: ignore[misc]
            partition.append(some, writer, codec)
        elif step[0] in partition.open:  # type: ignore[index]
            partition.finish(step[0], commit=step[1])  # type: ignore[index]
    written = {record.offset: record for record in partition.committed}

    found = committed_records(partition, batches_max)
    assert last_values(partition.committed) == last_values(found)
    assert all(written[record.offset] == record for record in found)
    assert all(crc_is_right(batch) for batch in partition.batches)


def check_markers(partition: Partition) -> None:
    """Nothing of a transaction is left without its marker; none is listed of which nothing is left."""
    headers = partition.headers()
    markers = {header.base_offset for header in headers if header.is_control}
    for header in headers:
        if header.is_transactional and not header.is_control and header.last_offset < partition.clean_end:
            assert partition.outcome[header.last_offset] in markers | {b.base_offset for b in fresh_markers(partition)}
    for run in partition.runs:
        assert all(one.last >= partition.clean_end or one.last in markers for one in run.aborted)


def fresh_markers(partition: Partition) -> list[BatchHeader]:
    return [header for header in map(read_header, partition.fresh) if header.is_control]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([1, 2]), pairs, st.booleans()), min_size=1, max_size=15))
def test_nothing_else_stays(transactions: list[tuple[int, Pairs, bool]]) -> None:
    """When the writers have gone and time has passed, one record of each key is left, and its marker."""
    partition = Partition()
    for writer, some, commit in transactions:
        partition.append([(key, value or b"-") for key, value in some], writer)
        partition.finish(writer, commit=commit)
        partition.tier()
    partition.last_of = {}
    for day in range(1, 4):
        partition.compact(NOW_MS + 2 * DAY_MS * day)
    records = committed_records(partition, 1000)

    assert sorted(record.key or b"" for record in records) == sorted(last_values(partition.committed))
    needed = {partition.outcome[record.offset] for record in records} | {partition.end - 1}
    assert {header.base_offset for header in partition.headers() if header.is_control} == needed
    assert all(one.last == partition.end - 1 for run in partition.runs for one in run.aborted)
    assert sum(header.is_transactional and not header.is_control for header in partition.headers()) <= len(records)


def aborted_then_committed() -> Partition:
    partition = Partition()
    partition.append([(b"a", b"1")])
    partition.append([(b"a", b"2"), (b"b", b"2")], 7)
    partition.finish(7, commit=False)  # offset 3
    partition.append([(b"c", b"3")], 7)
    partition.finish(7, commit=True)  # offset 5
    partition.append([(b"z", b"")])
    partition.tier()
    return partition


def test_aborted_data_goes() -> None:
    """In the first round, and hides no older value; the marker gets its horizon at once and leaves behind it."""
    partition = aborted_then_committed()
    partition.compact(NOW_MS, tombstone_ms=1000)

    assert [header.base_offset for header in partition.headers()] == [0, 3, 4, 5, 6]
    marker = partition.headers()[1]
    assert (marker.base_timestamp, partition.due_ms) == (NOW_MS + 1000, NOW_MS + 1000)
    assert marker.attributes & DELETE_HORIZON
    (record,) = iter_records(partition.batches[1])
    assert (record.key, record.value, record.timestamp) == (ABORT, VALUE, NOW_MS + 3)
    assert partition.runs[0].aborted == partition.aborted

    partition.compact(NOW_MS + 999)
    assert 3 in {header.base_offset for header in partition.headers()}
    partition.compact(NOW_MS + 1000)
    assert [header.base_offset for header in partition.headers()] == [0, 4, 5, 6]
    assert partition.runs[0].aborted == []
    assert last_values(committed_records(partition, 1000)) == {b"a": b"1", b"c": b"3", b"z": b""}


def test_marker_waits_for_a_round_without_data() -> None:
    """A marker never leaves in the round that removes the last of its transaction, even without retention."""
    partition = aborted_then_committed()
    partition.compact(NOW_MS, tombstone_ms=0)
    assert 3 in {header.base_offset for header in partition.headers()}

    partition.compact(NOW_MS, tombstone_ms=0)
    assert 3 not in {header.base_offset for header in partition.headers()}


def test_data_that_comes_back() -> None:
    """Recovery may find an older chunk in place of a lost one: a marker whose time is up waits for that data, too."""
    partition = Partition()
    partition.append([(b"a", b"1")], 7)
    partition.append([(b"b", b"1")], 8)
    partition.finish(7, commit=False)
    partition.tier()
    partition.finish(8, commit=True)
    partition.append([(b"z", b"")])
    partition.tier()
    partition.last_of = {}
    older = replace(partition.runs[0])
    partition.compact(NOW_MS, tombstone_ms=0)
    assert partition.headers()[1].attributes & DELETE_HORIZON
    partition.runs[0] = older

    partition.compact(NOW_MS, tombstone_ms=0)
    assert 2 in {header.base_offset for header in partition.headers()}
    partition.compact(NOW_MS, tombstone_ms=0)
    assert [header.base_offset for header in partition.headers()] == [1, 3, 4]


def test_last_batch_of_an_active_writer() -> None:
    """The last batch stays as a header though its transaction was aborted, so its marker stays, and is listed."""
    partition = Partition()
    partition.append([(b"a", b"1")], 7)
    partition.finish(7, commit=False)
    partition.append([(b"z", b"")])
    partition.tier()
    for day in range(4):
        partition.compact(NOW_MS + day * DAY_MS, tombstone_ms=0)

    header, marker, _ = partition.headers()
    assert (header.record_count, header.last_offset, header.producer_id, header.is_transactional) == (0, 0, 7, True)
    assert not marker.attributes & DELETE_HORIZON
    assert partition.runs[0].aborted == partition.aborted
    assert partition.due_ms is None


def test_commit_marker() -> None:
    """A marker stays while a record of its transaction does; after a later value took its place, until the horizon."""
    partition = Partition()
    partition.append([(b"a", b"1")], 7)
    partition.finish(7, commit=True)
    partition.append([(b"z", b"")])
    partition.tier()
    partition.last_of = {}
    partition.compact(NOW_MS, tombstone_ms=0)
    assert not partition.headers()[1].attributes & DELETE_HORIZON

    partition.append([(b"a", b"2")])
    partition.tier()
    partition.compact(NOW_MS, tombstone_ms=1000)
    assert [header.base_offset for header in partition.headers()] == [1, 2, 3]
    partition.compact(NOW_MS + 1000)
    assert [header.base_offset for header in partition.headers()] == [2, 3]


def test_marker_at_the_end() -> None:
    """The last entry of a round stays, whatever it is, and is no reason for another round."""
    partition = Partition()
    partition.append([(b"a", b"1")], 7)
    partition.finish(7, commit=False)
    partition.tier()
    partition.last_of = {}
    for day in range(4):
        partition.compact(NOW_MS + day * DAY_MS, tombstone_ms=0)

    assert [header.base_offset for header in partition.headers()] == [1]
    assert partition.due_ms is None


def test_transaction_across_runs() -> None:
    """Data in one run and its marker in another: both know of it, until nothing of it is left."""
    partition = Partition()
    partition.append([(b"a", b"1")])
    partition.append([(b"a", b"2")], 7)
    partition.append([(b"b", b"2")], 8)
    partition.finish(7, commit=False)
    partition.tier()
    partition.append([(b"a", b"4")], 8)
    partition.finish(8, commit=False)
    partition.append([(b"z", b"")])
    partition.tier()
    partition.last_of = {}
    assert [len(run.aborted) for run in partition.runs] == [1, 2]

    partition.compact(NOW_MS, tombstone_ms=0)
    assert last_values(committed_records(partition, 1)) == {b"a": b"1", b"z": b""}
    partition.compact(NOW_MS, tombstone_ms=0)
    assert [header.base_offset for header in partition.headers()] == [0, 6]
    assert [len(run.aborted) for run in partition.runs] == [0, 0]
