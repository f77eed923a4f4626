"""Compaction of record batches, against a dict of last values, and Kafka's rules one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from core.tiering.filters import CompactionScope
from gateway.records.compaction import Compactor
from gateway.records.record_batch import DELETE_HORIZON, GZIP, HEADER, LZ4, NONE, SNAPPY, ZSTD, read_header
from gateway.records.records import Record, build_batch, iter_records, seal_batch

pytestmark = pytest.mark.slow

NOW_MS = 1_700_000_000_000
DAY_MS = 86_400_000


@dataclass
class Partition:
    """Batches as long-term storage holds them, and how far they have been compacted."""

    batches: list[bytes] = field(default_factory=list)
    end: int = 0
    clean_end: int = 0
    due_ms: int | None = None

    def append(self, records: Sequence[tuple[bytes | None, bytes | None]], **options: object) -> int:
        """A batch of these keys and values; its base offset."""
        base = self.end
        made = [
            Record(base + delta, NOW_MS + base + delta - 5, key, value, [("h", value)] if delta % 3 == 2 else ())
            for delta, (key, value) in enumerate(records)
        ]
        self.batches.append(bytes(build_batch(made, **options)))  # type: ignore[arg-type]
        self.end = base + len(records)
        return base

    def compact(
        self,
        now_ms: int = NOW_MS,
        tombstone_ms: int = DAY_MS,
        writers: Mapping[int, int] | None = None,
        keys_max: int = 1 << 30,
        end: int | None = None,
        stamp_ms: int = 0,
    ) -> None:
        """One round, as the store runs it."""
        upto = self.end if end is None else end
        scope = CompactionScope(
            begin=self.clean_end,
            end=upto,
            now_ms=now_ms,
            tombstone_ms=tombstone_ms,
            writers=writers or {},
            stamp_ms=stamp_ms,
        )
        compactor = Compactor(scope)
        last_end = self.clean_end
        for batch in self.batches:
            header = read_header(batch)
            if header.base_offset >= upto:
                break
            if header.base_offset >= self.clean_end:
                if compactor.held >= keys_max:
                    upto = header.base_offset
                    break
                compactor.learn(memoryview(batch))
            last_end = header.last_offset + 1
        compactor.end_at(last_end)
        kept = []
        for batch in self.batches:
            left = compactor.keep(memoryview(batch)) if read_header(batch).base_offset < upto else batch
            if left is not None:
                kept.append(bytes(left))
        self.batches, self.clean_end, self.due_ms = kept, upto, compactor.due_ms

    def records(self) -> list[Record]:
        return [record for batch in self.batches for record in iter_records(batch)]

    def values(self) -> dict[bytes, bytes]:
        """The final view of a reader of everything."""
        found: dict[bytes, bytes] = {}
        for record in self.records():
            assert record.key is not None
            if record.value is None:
                found.pop(record.key, None)
            else:
                found[record.key] = record.value
        return found


def crc_is_right(batch: bytes) -> bool:
    return crc32c(batch[21:]) == int.from_bytes(batch[17:21], "big")


def pairs(partition: Partition) -> list[tuple[int, bytes | None, bytes | None]]:
    return [(record.offset, record.key, record.value) for record in partition.records()]


keys = st.integers(0, 9).map(lambda number: b"key %d" % number)
values = st.none() | st.binary(max_size=40)
batches = st.tuples(
    st.lists(st.tuples(keys, values), min_size=1, max_size=8),
    st.sampled_from([NONE, GZIP, SNAPPY, LZ4, ZSTD]),
    st.sampled_from([None, NOW_MS - 7]),
    st.booleans(),
)
steps = st.lists(batches | st.integers(0, 3), min_size=1, max_size=25)


@settings(max_examples=300, deadline=None)
@given(steps)
def test_like_a_dict(steps: list[object]) -> None:
    """After any rounds a reader of everything ends with the last value of each key, and offsets are what they were."""
    partition, everything = Partition(), Partition()
    written: dict[int, Record] = {}
    now_ms = NOW_MS
    for step in steps:
        if isinstance(step, int):
            # Time passes: two of them, and every tombstone that was seen before may go.
            now_ms += DAY_MS * 2 // 3
            partition.compact(now_ms, keys_max=100 if step else 3)
            assert all(crc_is_right(batch) for batch in partition.batches)
        else:
            records, codec, append_time, intact = step  # type: ignore[misc]
            options = {"codec": codec, "log_append_time": append_time, "transactional": intact, "producer_id": 5}
            for one in (partition, everything):
                base = one.append(records, **options)
            written |= {record.offset: record for record in iter_records(partition.batches[-1])}
            assert base == read_header(partition.batches[-1]).base_offset

    assert partition.values() == everything.values()
    assert all(written[record.offset] == record for record in partition.records())
    bounds = {read_header(b).base_offset: read_header(b).last_offset for b in everything.batches}
    headers = [read_header(batch) for batch in partition.batches]
    assert all(bounds[header.base_offset] == header.last_offset for header in headers)
    assert [header.base_offset for header in headers] == sorted({header.base_offset for header in headers})
    if partition.clean_end:
        assert partition.clean_end - 1 in {header.last_offset for header in headers}


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.tuples(keys, st.binary(max_size=9)), min_size=1, max_size=5), min_size=1, max_size=20))
def test_nothing_else_stays(written: list[list[tuple[bytes, bytes]]]) -> None:
    """A round without bounds leaves one record for each key."""
    partition = Partition()
    for records in written:
        partition.append(records)
    partition.compact()

    assert sorted(record.key or b"" for record in partition.records()) == sorted(partition.values())


def test_batch_that_loses_nothing() -> None:
    """A batch of which everything stays keeps its bytes."""
    partition = Partition()
    partition.append([(b"a", b"1"), (b"b", b"2")], codec=GZIP)
    before = list(partition.batches)
    partition.compact()

    assert partition.batches == before


def test_header_of_a_rebuilt_batch() -> None:
    """The rest of a batch keeps its codec, writer, sequence, offsets and its own largest timestamp."""
    partition = Partition()
    partition.append(
        [(b"a", b"1"), (b"b", b"2"), (b"a", b"3"), (b"b", b"4")],
        codec=ZSTD,
        producer_id=7,
        producer_epoch=2,
        base_sequence=11,
    )
    before = read_header(partition.batches[0])
    partition.append([(b"b", b"5")])
    partition.compact()
    after = read_header(partition.batches[0])

    assert (after.codec, after.producer_id, after.producer_epoch, after.base_sequence) == (ZSTD, 7, 2, 11)
    assert (after.base_offset, after.last_offset, after.record_count) == (before.base_offset, before.last_offset, 1)
    assert (after.base_timestamp, after.max_timestamp) == (before.base_timestamp, NOW_MS + 2 - 5)
    assert pairs(partition) == [(2, b"a", b"3"), (4, b"b", b"5")]


def test_tombstone_life() -> None:
    """A tombstone stays from the round that first saw it for delete.retention.ms; the horizon is in its batch."""
    partition = Partition()
    partition.append([(b"a", b"1"), (b"b", b"2")])
    partition.append([(b"a", None), (b"c", b"3")], codec=LZ4)
    partition.append([(b"z", b"0")])
    partition.compact(NOW_MS, tombstone_ms=1000)
    horizon = read_header(partition.batches[1])
    stamps = [record.timestamp for record in partition.records()]

    assert pairs(partition) == [(1, b"b", b"2"), (2, b"a", None), (3, b"c", b"3"), (4, b"z", b"0")]
    assert horizon.attributes & DELETE_HORIZON
    assert (horizon.base_timestamp, partition.due_ms) == (NOW_MS + 1000, NOW_MS + 1000)
    assert stamps == [NOW_MS + offset - 5 for offset in (1, 2, 3, 4)]

    partition.compact(NOW_MS + 999, tombstone_ms=5)
    assert (2, b"a", None) in pairs(partition)
    assert read_header(partition.batches[1]).base_timestamp == NOW_MS + 1000
    partition.compact(NOW_MS + 1000)
    assert pairs(partition) == [(1, b"b", b"2"), (3, b"c", b"3"), (4, b"z", b"0")]
    assert partition.due_ms is None


def test_tombstone_seen_while_a_stop_is_not_believed() -> None:
    """A horizon begins at the wall clock's time: when the stop is believed, it has not passed already."""
    partition = Partition()
    partition.append([(b"a", None)])
    partition.append([(b"z", b"0")])
    partition.compact(NOW_MS, tombstone_ms=1000, stamp_ms=NOW_MS + 30 * DAY_MS)
    partition.compact(NOW_MS + 30 * DAY_MS + 999)
    assert (0, b"a", None) in pairs(partition)
    partition.compact(NOW_MS + 30 * DAY_MS + 1000)
    assert (0, b"a", None) not in pairs(partition)


def test_longest_retention() -> None:
    """A tombstone may be meant to stay for ever."""
    partition = Partition()
    partition.append([(b"a", None)])
    partition.compact(tombstone_ms=2**63 - 1)
    partition.compact(NOW_MS + 1000 * DAY_MS)

    assert pairs(partition) == [(0, b"a", None)]


def test_last_batches_stay() -> None:
    """The last batch of a writer, and the last of the round, stay as headers; emptied ones between them go."""
    partition = Partition()
    for number in range(3):
        partition.append([(b"a", b"%d" % number)], producer_id=9, producer_epoch=1, base_sequence=number)
    partition.append([(b"a", b"x")], producer_id=10, producer_epoch=0, base_sequence=0)
    partition.append([(b"a", b"3")])
    partition.append([(b"a", None)])
    partition.compact(NOW_MS, tombstone_ms=0, writers={9: 2, 10: 77})
    partition.compact(NOW_MS, writers={9: 2, 10: 77})
    header, last = map(read_header, partition.batches)

    assert pairs(partition) == []
    assert (header.base_offset, header.last_offset, header.record_count, header.size) == (2, 2, 0, 61)
    assert (header.producer_id, header.producer_epoch, header.base_sequence) == (9, 1, 2)
    assert (last.base_offset, last.record_count) == (5, 0)
    assert all(crc_is_right(batch) for batch in partition.batches)

    partition.append([(b"b", b"1")])
    partition.compact()
    assert [read_header(batch).base_offset for batch in partition.batches] == [6]


def test_what_cannot_be_judged() -> None:
    """Damaged batches stay whole, and so does every tombstone behind them."""
    partition = Partition()
    for key in (b"a", b"b"):
        partition.append([(key, b"1")])
        damaged = bytearray(partition.batches[-1])
        damaged[-3] = 200  # a length
        seal_batch(damaged)
        partition.batches[-1] = bytes(damaged)
    whole = list(partition.batches)
    partition.append([(b"a", None), (b"b", None), (b"c", b"1")])
    partition.append([(b"c", b"2")])
    partition.compact(NOW_MS, tombstone_ms=0)
    partition.compact(NOW_MS + DAY_MS)

    assert partition.batches[:2] == whole
    assert [record.key for batch in partition.batches[2:] for record in iter_records(batch)] == [b"a", b"b", b"c"]


def test_bomb() -> None:
    """A batch that grows beyond the bounds when it is opened is not opened."""
    partition = Partition()
    partition.append([(b"a", bytes(65 << 20))], codec=ZSTD)
    bomb = partition.batches[0]
    assert len(bomb) < 100_000
    partition.append([(b"a", b"1")])
    partition.compact()

    assert partition.batches[0] == bomb


def test_records_without_key() -> None:
    """Records without a key from before the topic was compacted are removed."""
    partition = Partition()
    partition.append([(None, b"1"), (b"a", b"2")])
    partition.append([(None, b"3")])
    partition.append([(b"b", b"4")])
    partition.compact()

    assert pairs(partition) == [(1, b"a", b"2"), (3, b"b", b"4")]


def test_beyond_the_end() -> None:
    """Nothing at or behind the round's end is touched, nor counts."""
    partition = Partition()
    partition.append([(b"a", b"1")])
    partition.append([(b"a", b"2")])
    partition.append([(b"a", b"3")])
    partition.compact(end=2)

    assert pairs(partition) == [(1, b"a", b"2"), (2, b"a", b"3")]


def test_a_time_beyond_all_numbers_ends_no_round() -> None:
    """A record's distance from the base may lead beyond 64 bits; its batch keeps the largest time that there is."""
    partition = Partition()
    partition.append([(b"a", b"1"), (b"b", b"2"), (b"c", b"3")])
    batch = bytearray(partition.batches[0])
    header = read_header(batch)._replace(base_timestamp=2**63 - 2, max_timestamp=2**63 - 1)
    HEADER.pack_into(batch, 0, *header)
    seal_batch(batch)
    partition.batches[0] = bytes(batch)
    partition.append([(b"a", b"newer")])
    partition.compact()

    kept = read_header(partition.batches[0])
    assert (kept.record_count, kept.max_timestamp) == (2, 2**63 - 1)
