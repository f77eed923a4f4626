"""Answers to readers of committed records: Fetch, ListOffsets, DeleteRecords (SEMANTICS 6-9, 19, 35, 37)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from gateway.fetching.sessions import FetchSet
from gateway.records.record_batch import read_header
from gateway.records.records import iter_records
from gateway.wire.message import Message
from tests.gateway.apis.harness import NOW, Admin, admin_of, new_name
from tests.gateway.harness import FETCH, Client, fetch_body, split
from tests.gateway.transactions.client import NONE, READ_COMMITTED, Producer

pytestmark = pytest.mark.slow

LONG_WAIT_MS = 60_000
"""Longer than the client waits for an answer."""


@pytest.fixture
def topic(admin: Admin) -> str:
    return admin.create(2)


@pytest.fixture
def one(admin: Admin) -> Producer:
    return Producer(admin, new_name())


@pytest.fixture
def other(admin: Admin) -> Producer:
    return Producer(admin, new_name())


def fetch(admin: Admin, topic: str, offset: int = 0, *, version: int = 12, **options: Any) -> Message:
    """One partition, as readers of committed records ask for it."""
    options = {"isolation_level": READ_COMMITTED} | options
    ids = {topic: admin.stream(topic).uuid}
    answer = admin.ask("Fetch", version, **fetch_body([(topic, 0, offset)], ids=ids, **options))
    return answer.responses[0].partitions[0]  # type: ignore[no-any-return]


def aborted(partition: Message) -> list[tuple[int, int]]:
    return [(transaction.producer_id, transaction.first_offset) for transaction in partition.aborted_transactions]


def consumed(partition: Message) -> list[bytes | None]:
    """The records that a consumer gives its application, by the list of aborted transactions."""
    waiting, skipped, values = sorted((first, who) for who, first in aborted(partition)), set(), []
    for batch in split(partition.records):
        header = read_header(batch)
        while waiting and waiting[0][0] <= header.last_offset:
            skipped.add(waiting.pop(0)[1])
        records = list(iter_records(batch))
        if header.is_control:
            if records[0].key == bytes(4):
                skipped.discard(header.producer_id)
        elif not (header.is_transactional and header.producer_id in skipped):
            values += [record.value for record in records]
    return values


# Fetch


@pytest.mark.parametrize("version", range(4, 19))
def test_open_transactions_are_not_seen(admin: Admin, topic: str, one: Producer, version: int) -> None:
    """A reader of committed records stops where the first open transaction begins; others do not."""
    admin.produce(topic, NOW)
    one.write(topic, b"a")
    admin.produce(topic, NOW)
    committed = fetch(admin, topic, version=version)
    everything = fetch(admin, topic, version=version, isolation_level=0)

    assert (committed.high_watermark, committed.last_stable_offset) == (3, 1)
    assert consumed(committed) == [b"v"]
    assert aborted(committed) == []
    assert len(split(everything.records)) == 3
    assert (everything.last_stable_offset, everything.aborted_transactions) == (1, None)


@pytest.mark.parametrize("committed", [True, False])
def test_the_end_shows_all(admin: Admin, topic: str, one: Producer, committed: bool) -> None:
    """Records behind an open transaction are seen when it ends, either way; a marker has an offset."""
    one.write(topic, b"a", b"b")
    admin.produce(topic, NOW)
    one.end(committed=committed)
    found = fetch(admin, topic)

    assert (found.high_watermark, found.last_stable_offset) == (4, 4)
    assert consumed(found) == ([b"a", b"b", b"v"] if committed else [b"v"])
    assert aborted(found) == ([] if committed else [(one.who.producer_id, 0)])
    assert [read_header(batch).last_offset for batch in split(found.records)] == [1, 2, 3]


def test_the_oldest_counts(admin: Admin, topic: str, one: Producer, other: Producer) -> None:
    """The open transaction that began first holds readers up."""
    one.write(topic, b"a")
    other.write(topic, b"b")
    other.end()
    assert fetch(admin, topic).last_stable_offset == 0
    other.write(topic, b"c")
    one.end()
    found = fetch(admin, topic)
    assert (found.last_stable_offset, consumed(found)) == (3, [b"a", b"b"])
    other.end(committed=False)
    found = fetch(admin, topic)
    assert (found.last_stable_offset, consumed(found)) == (6, [b"a", b"b"])


def history(admin: Admin, topic: str, one: Producer, other: Producer) -> tuple[int, int]:
    """0 a1, 1 b1, 2 abort of a, 3 b2, 4 v, 5 abort of b, 6 a2, 7 commit of a, 8 a3, 9 abort of a."""
    first = one.who.producer_id
    one.write(topic, b"a1")
    other.write(topic, b"b1")
    one.end(committed=False)
    other.write(topic, b"b2")
    admin.produce(topic, NOW)
    other.end(committed=False)
    one.write(topic, b"a2")
    one.end()
    one.write(topic, b"a3")
    one.end(committed=False)
    return first, other.who.producer_id


WHERE = {"a": (0, 2), "b": (1, 5), "a again": (8, 9)}


@pytest.mark.parametrize("restarted", [False, True])
def test_lists_of_aborted_transactions(tmp_path: Path, restarted: bool) -> None:
    """From any offset, with any limit: exactly those that overlap what is returned, in order."""
    with admin_of(tmp_path) as admin:
        topic = admin.create()
        a, b = history(admin, topic, Producer(admin, "a"), Producer(admin, "b"))
        if restarted:
            admin.restart()
        who = {"a": a, "b": b, "a again": a}
        sizes = [len(batch) for batch in split(fetch(admin, topic).records)]
        for offset in range(10):
            for count in range(1, 10 - offset):
                limit = sum(sizes[offset : offset + count])
                found = fetch(admin, topic, offset, partition_max_bytes=limit)
                end = offset + len(split(found.records))
                within = [name for name, (first, last) in WHERE.items() if first < end and last >= offset]

                assert end == offset + count
                assert aborted(found) == [(who[name], WHERE[name][0]) for name in within]
        assert consumed(fetch(admin, topic)) == [b"v", b"a2"]
        assert aborted(fetch(admin, topic, 10)) == []


def test_only_aborted(admin: Admin, topic: str, one: Producer) -> None:
    """A fetch that finds nothing but an aborted transaction returns it, so that its client goes on."""
    one.write(topic, b"a")
    one.end(committed=False)
    found = fetch(admin, topic)

    assert (found.error_code, consumed(found), len(split(found.records))) == (NONE, [], 2)


def test_beyond_the_stable_end(admin: Admin, topic: str, one: Producer) -> None:
    """There is nothing there yet, which is no error; beyond the end is one."""
    one.write(topic, b"a", b"b")

    for offset in (0, 1, 2):
        found = fetch(admin, topic, offset)
        assert (found.error_code, bytes(found.records), found.last_stable_offset) == (NONE, b"", 0)
    assert fetch(admin, topic, 3).error_code == 1


# Waiting


async def nothing_yet(client: Client, waiting: tuple[int, int, int]) -> asyncio.Task[Message]:
    """The answer to a fetch, which must not have come."""
    answer = asyncio.ensure_future(client.receive(waiting))
    done, _ = await asyncio.wait([answer], timeout=0.05)
    assert not done
    return answer


def waiting_fetch(topic: str, offset: int, **options: Any) -> dict[str, Any]:
    options = {"max_wait": LONG_WAIT_MS, "isolation_level": READ_COMMITTED} | options
    return fetch_body([(topic, 0, offset)], **options)


def ask_meanwhile(admin: Admin, body: dict[str, Any], steps: Sequence[Any]) -> Message:
    """Send a fetch, then take steps (each of them asks over the other connection); the fetch's answer."""
    client = admin.run(Client.connect(admin.broker))
    sent = client.send(FETCH, 12, body)
    answer = admin.run(nothing_yet(client, sent))
    for step in steps[:-1]:
        step()
        assert not answer.done()
    steps[-1]()

    async def rest() -> Message:
        return await answer

    found = admin.run(rest())
    client.close()
    return found.responses[0].partitions[0]  # type: ignore[no-any-return]


def test_a_marker_wakes(admin: Admin, topic: str, one: Producer) -> None:
    """A fetch that waits at an open transaction is answered when that ends, not before."""
    one.write(topic, b"a")
    found = ask_meanwhile(
        admin,
        waiting_fetch(topic, 0),
        [lambda: one.write(topic, b"b"), lambda: admin.produce(topic, NOW), one.end],
    )

    assert (consumed(found), found.last_stable_offset) == ([b"a", b"b", b"v"], 4)


def test_only_stable_bytes_count(admin: Admin, topic: str, one: Producer) -> None:
    """`min_bytes` are bytes of records that may be seen: those before the first open transaction."""
    one.write(topic, b"x" * 1_000)
    found = ask_meanwhile(
        admin,
        waiting_fetch(topic, 0, min_bytes=2_500),
        [
            lambda: one.write(topic, b"x" * 2_000),
            lambda: one.write(topic, b"x" * 2_000, partition=1),
            one.end,
        ],
    )

    assert len(consumed(found)) == 2


def test_bytes_after_a_transaction_count(admin: Admin, topic: str, one: Producer, other: Producer) -> None:
    """Records that settle with one transaction and records written after it add up."""
    one.write(topic, b"x" * 1_000)
    found = ask_meanwhile(
        admin,
        waiting_fetch(topic, 0, min_bytes=3_000),
        [
            one.end,
            lambda: other.write(topic, b"x" * 1_000, partition=1),
            lambda: admin.produce(topic, *[NOW] * 20),
            lambda: one.write(topic, b"x" * 2_000),
            one.end,
        ],
    )

    assert len(consumed(found)) == 22


def test_no_early_looks(admin: Admin, topic: str, one: Producer) -> None:
    """A fetch of committed records is not even looked at again for what it must not see."""
    one.write(topic, b"a")
    watched = admin.slot(topic)
    client = admin.run(Client.connect(admin.broker))
    sent = client.send(FETCH, 12, waiting_fetch(topic, 0))
    answer = admin.run(nothing_yet(client, sent))
    (waiting,) = watched.watchers or ()
    for _ in range(5):
        one.write(topic, b"b")
    assert isinstance(waiting, FetchSet)
    assert len(waiting.dirty) == 1  # there is news, and nobody has looked
    one.end()

    async def rest() -> Message:
        return await answer

    assert len(consumed(admin.run(rest()).responses[0].partitions[0])) == 6
    client.close()


def test_sessions(admin: Admin, topic: str, one: Producer) -> None:
    """A session tells of an open transaction's high watermark, and of what its end shows, each once."""

    def ask(session_id: int, epoch: int, *wanted: tuple[str, int, int]) -> Message:
        body = fetch_body(
            wanted, session_id=session_id, session_epoch=epoch, isolation_level=READ_COMMITTED, max_wait=0
        )
        return admin.ask("Fetch", 12, **body)

    first = ask(0, 0, (topic, 0, 0), (topic, 1, 0))
    session = first.session_id
    one.write(topic, b"a")
    (told,) = ask(session, 1).responses[0].partitions
    assert (told.partition_index, told.high_watermark, told.last_stable_offset) == (0, 1, 0)
    assert (bytes(told.records), aborted(told)) == (b"", [])
    assert list(ask(session, 2).responses) == []
    one.end()
    (told,) = ask(session, 3).responses[0].partitions
    assert (told.high_watermark, told.last_stable_offset, consumed(told)) == (2, 2, [b"a"])
    assert list(ask(session, 4, (topic, 0, 2)).responses) == []


def test_a_session_waits_for_a_marker(admin: Admin, topic: str, one: Producer) -> None:
    """An incremental fetch is woken by the end of a transaction as well."""
    created = fetch_body([(topic, 0, 0)], session_epoch=0, isolation_level=READ_COMMITTED)
    session = admin.ask("Fetch", 12, **created).session_id
    one.write(topic, b"a")
    told = fetch_body([], session_id=session, session_epoch=1, isolation_level=READ_COMMITTED)
    assert len(admin.ask("Fetch", 12, **told).responses) == 1  # the moved high watermark
    waiting = fetch_body([], session_id=session, session_epoch=2, isolation_level=READ_COMMITTED, max_wait=LONG_WAIT_MS)
    found = ask_meanwhile(admin, waiting, [lambda: one.write(topic, b"b"), one.end])

    assert consumed(found) == [b"a", b"b"]


# ListOffsets


def listed(
    admin: Admin, topic: str, timestamp: int, *, isolation: int = READ_COMMITTED, version: int = 8
) -> tuple[int, int]:
    """Offset and timestamp."""
    asked = [{"partition_index": 0, "timestamp": timestamp, "current_leader_epoch": -1}]
    topics = [{"name": topic, "partitions": asked}]
    answer = admin.ask("ListOffsets", version, replica_id=-1, isolation_level=isolation, topics=topics)
    (found,) = answer.topics[0].partitions
    assert found.error_code == NONE
    return found.offset, found.timestamp


@pytest.mark.parametrize("version", range(2, 12))
def test_latest(admin: Admin, topic: str, one: Producer, version: int) -> None:
    """The end is the last stable offset for who reads committed records, the high watermark for others."""
    admin.produce(topic, NOW)
    one.write(topic, b"a")
    ends = [listed(admin, topic, -1, isolation=isolation, version=version)[0] for isolation in (0, READ_COMMITTED)]
    one.end()

    assert ends == [2, 1]
    assert listed(admin, topic, -1, version=version)[0] == 3


def test_by_time(admin: Admin, topic: str, one: Producer) -> None:
    """A look-up by time finds records, never markers; nothing of an open transaction for who reads committed ones."""
    one.write(topic, b"a", timestamp=NOW)
    one.end()
    one.write(topic, b"b", timestamp=NOW + 10)
    marked_at = admin.broker.clock.wall_ms()

    assert listed(admin, topic, NOW) == (0, NOW)
    assert listed(admin, topic, NOW + 1) == (-1, -1)
    assert listed(admin, topic, NOW + 1, isolation=0) == (2, NOW + 10)
    assert listed(admin, topic, marked_at - 60_000, isolation=0) == (-1, -1)
    one.end()
    assert listed(admin, topic, NOW + 1) == (2, NOW + 10)
    assert listed(admin, topic, 0) == (0, NOW)


@pytest.mark.parametrize("restarted", [False, True])
def test_largest_timestamp(tmp_path: Path, restarted: bool) -> None:
    """The offset is that of a visible record, never of a marker or of an invisible record."""
    with admin_of(tmp_path) as admin:
        topic, producer = admin.create(), Producer(admin, "x")
        producer.write(topic, b"a", timestamp=NOW + 5)
        producer.end()
        producer.write(topic, b"b", timestamp=NOW)
        producer.end(committed=False)
        producer.write(topic, b"c", timestamp=NOW + 9)
        if restarted:
            admin.restart()

        assert listed(admin, topic, -3, isolation=0) == (4, NOW + 9)
        assert listed(admin, topic, -3) == (-1, -1)
        producer.end()
        assert listed(admin, topic, -3) == (4, NOW + 9)


def test_nothing_but_markers(admin: Admin, topic: str, one: Producer) -> None:
    """Without records there is no largest timestamp, and no offset for any time."""
    one.write(topic, b"a")
    one.end()
    delete_records(admin, topic, 1)

    assert [listed(admin, topic, timestamp) for timestamp in (-3, 0, NOW)] == [(-1, -1)] * 3


# DeleteRecords


def delete_records(admin: Admin, topic: str, before: int) -> None:
    topics = [{"name": topic, "partitions": [{"partition_index": 0, "offset": before}]}]
    (answer,) = admin.ask("DeleteRecords", 2, topics=topics, timeout=10_000).topics[0].partitions
    assert answer.error_code == NONE


def test_deleted_within_a_transaction(admin: Admin, topic: str, one: Producer) -> None:
    """Records of an open transaction may be deleted: readers then stop at the start, and go on when it ends."""
    one.write(topic, b"a", b"b")
    one.write(topic, b"c")
    delete_records(admin, topic, 2)
    found = fetch(admin, topic, 2)

    assert (found.log_start_offset, found.last_stable_offset, bytes(found.records)) == (2, 2, b"")
    assert fetch(admin, topic, 0).error_code == 1
    one.end()
    found = fetch(admin, topic, 2)
    assert (consumed(found), found.last_stable_offset) == ([b"c"], 4)


@pytest.mark.parametrize("committed", [True, False])
def test_all_deleted_within_a_transaction(admin: Admin, topic: str, one: Producer, committed: bool) -> None:
    """Also all of them: later records are committed or not, as their transaction is."""
    one.write(topic, b"a")
    delete_records(admin, topic, -1)
    assert fetch(admin, topic, 1).last_stable_offset == 1
    one.write(topic, b"b")
    assert bytes(fetch(admin, topic, 1).records) == b""
    one.end(committed=committed)

    found = fetch(admin, topic, 1)
    assert consumed(found) == ([b"b"] if committed else [])
    assert aborted(found) == ([] if committed else [(one.who.producer_id, 0)])


def test_deleted_aborted_ones(admin: Admin, topic: str, one: Producer) -> None:
    """Aborted transactions that were deleted are in no list any more."""
    one.write(topic, b"a")
    one.end(committed=False)
    one.write(topic, b"b")
    one.end(committed=False)
    delete_records(admin, topic, 2)

    assert aborted(fetch(admin, topic, 2)) == [(one.who.producer_id, 2)]
    assert len(admin.slot(topic).aborted_in(0, 4)) == 1
