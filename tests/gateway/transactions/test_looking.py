"""Tools' requests: transactions, producers, and markers of an administrator."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from kio.schema.errors import ErrorCode

from core.container.container import Container
from core.container.ports import TransactionEnd
from gateway.apis import write_txn_markers
from gateway.transactions.transaction import Identity
from tests.gateway.apis.harness import KEYS, Admin, admin_of, new_name
from tests.gateway.harness import Client
from tests.gateway.transactions.client import (
    INVALID_PRODUCER_EPOCH,
    INVALID_REQUEST,
    NONE,
    TRANSACTIONAL_ID_NOT_FOUND,
    UNKNOWN_TOPIC_OR_PARTITION,
    Producer,
    state,
    visible,
)


def test_describe(admin: Admin, topic: str, producer: Producer) -> None:
    """State, time-out, beginning, producer and partitions; ids that are not there have an error each."""
    producer.init(timeout_ms=12_345)
    producer.write(topic, b"a", partition=1)
    asked = [producer.name, "not-there", "", producer.name]
    described = admin.ask("DescribeTransactions", 0, transactional_ids=asked).transaction_states

    assert [(d.transactional_id, d.error_code) for d in described] == [
        (producer.name, NONE),
        ("not-there", TRANSACTIONAL_ID_NOT_FOUND),
        ("", INVALID_REQUEST),
    ]
    first = described[0]
    assert (first.transaction_state, first.transaction_timeout) == ("Ongoing", 12_345)
    assert (first.producer_id, first.producer_epoch) == producer.who
    assert [(t.topic, list(t.partitions)) for t in first.topics] == [(topic, [1])]
    assert 0 <= admin.broker.clock.wall_ms() - first.transaction_start_time < 60_000
    producer.end()
    ended = state(admin, producer.name)
    assert (ended.transaction_state, list(ended.topics), ended.transaction_start_time) == ("CompleteCommit", [], -1)


@pytest.mark.parametrize("version", range(2))
def test_list(admin: Admin, topic: str, version: int) -> None:
    """By state and by producer; states that nobody knows are named."""
    going, done = Producer(admin, new_name()), Producer(admin, new_name())
    going.write(topic, b"a")
    done.write(topic, b"b", partition=1)
    done.end()

    def listed(states: list[str], *producers: Producer) -> tuple[set[str], list[str]]:
        answer = admin.ask(
            "ListTransactions",
            version,
            state_filters=states,
            producer_id_filters=[p.who.producer_id for p in producers],
        )
        assert answer.error_code == NONE
        return {t.transactional_id for t in answer.transaction_states}, list(answer.unknown_state_filters)

    assert {going.name, done.name} <= listed([])[0]
    assert listed([], going, done) == ({going.name, done.name}, [])
    assert listed(["Ongoing"], going, done) == ({going.name}, [])
    assert listed(["CompleteCommit", "Nonsense"], going, done) == ({done.name}, ["Nonsense"])
    assert listed(["Nonsense"], going, done) == (set(), ["Nonsense"])
    assert listed(["PrepareEpochFence"], going, done) == (set(), [])


def test_list_by_duration(admin: Admin, topic: str, producer: Producer) -> None:
    """Only transactions that have been under way for longer."""
    producer.write(topic, b"a")
    began = state(admin, producer.name).transaction_start_time

    def listed(duration: int) -> bool:
        answer = admin.ask(
            "ListTransactions",
            1,
            state_filters=[],
            producer_id_filters=[producer.who.producer_id],
            duration_filter=duration,
        )
        return bool(answer.transaction_states)

    assert listed(-1)
    assert not listed(3_600_000)
    assert not listed(2**63 - 1)
    while admin.broker.clock.wall_ms() <= began:
        assert state(admin, producer.name).transaction_state == "Ongoing"
    assert listed(0)
    producer.end()
    assert (listed(0), listed(-1)) == (False, True)


def test_describe_producers(admin: Admin, topic: str, producer: Producer) -> None:
    """The producers of a partition, and the offsets at which their transactions began."""

    def described(partition: int) -> Any:
        asked = [{"name": topic, "partition_indexes": [partition]}]
        return admin.ask("DescribeProducers", 0, topics=asked).topics[0].partitions[0]

    admin.produce(topic, 1, 2)
    producer.write(topic, b"a", b"b")
    (found,) = described(0).active_producers
    assert (found.producer_id, found.producer_epoch) == producer.who
    assert (found.last_sequence, found.last_timestamp, found.current_txn_start_offset) == (1, 1_700_000_000_001, 2)
    producer.end()
    (found,) = described(0).active_producers
    assert (found.producer_epoch, found.last_sequence, found.current_txn_start_offset) == (producer.who.epoch, -1, -1)
    assert (described(1).error_code, list(described(1).active_producers)) == (NONE, [])
    assert described(3).error_code == UNKNOWN_TOPIC_OR_PARTITION


def test_the_coordinators_epoch_outlives_a_restart(tmp_path: Path) -> None:
    """An administrator's tool sends it with a marker, so it never falls, and is told of whoever was marked."""
    with admin_of(tmp_path) as admin:
        topic = admin.create()
        producer = Producer(admin, new_name())

        def told() -> int:
            asked = [{"name": topic, "partition_indexes": [0]}]
            (found,) = admin.ask("DescribeProducers", 0, topics=asked).topics[0].partitions[0].active_producers
            assert (found.producer_id, found.producer_epoch) == producer.who
            return int(found.coordinator_epoch)

        producer.write(topic, b"a")
        assert told() == -1, "no marker has come"
        producer.end()
        before = told()
        admin.restart()
        assert told() >= before >= 0


# Markers of an administrator


def mark(
    admin: Admin,
    who: Identity,
    *where: tuple[str, int],
    version: int = 1,
    committed: bool = False,
    transaction_version: int = 0,
) -> list[int]:
    marker = marker_of(who, *where, committed=committed, transaction_version=transaction_version)
    (answer,) = admin.ask("WriteTxnMarkers", version, markers=[marker]).markers
    assert answer.producer_id == who.producer_id
    return [p.error_code for t in answer.topics for p in t.partitions]


def marker_of(
    who: Identity, *where: tuple[str, int], committed: bool = False, transaction_version: int = 0
) -> dict[str, Any]:
    return {
        "producer_id": who.producer_id,
        "producer_epoch": who.epoch,
        "transaction_result": committed,
        "topics": [{"name": topic, "partition_indexes": [partition]} for topic, partition in where],
        "coordinator_epoch": 0,
        "transaction_version": transaction_version,
    }


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("committed", [True, False])
def test_markers(admin: Admin, topic: str, version: int, committed: bool) -> None:
    """They end the transaction in the partitions that they name, once."""
    producer = Producer(admin, new_name())
    for partition in (0, 1):
        producer.write(topic, b"a", partition=partition)
    asked = [(topic, 0), ("not-there", 0), (topic, 3)]
    for _ in range(2):
        codes = mark(admin, producer.who, *asked, version=version, committed=committed)
        assert codes == [NONE, UNKNOWN_TOPIC_OR_PARTITION, UNKNOWN_TOPIC_OR_PARTITION]
        assert [visible(admin, topic, n) for n in range(2)] == [2, 0]
        assert admin.slot(topic).end == 2
        assert len(admin.slot(topic).aborted_in(0, 2)) == (not committed)


def test_markers_while_coordinators_load(tmp_path: Path) -> None:
    """Nobody knows then which coordinators were replaced: a marker is to be sent again, and changes nothing."""
    with admin_of(tmp_path) as admin:
        topic, producer = admin.create(), Producer(admin, new_name())
        producer.write(topic, b"a")
        container_id = admin.slot(topic).container_id
        admin.run(admin.broker.transactions.release(container_id))

        assert mark(admin, producer.who, (topic, 0)) == [ErrorCode.not_leader_or_follower]
        assert admin.slot(topic).has_open_transaction(producer.who.producer_id)

        admin.run(admin.broker.transactions.load_in(container_id))
        admin.run(admin.broker.transactions.start_in(container_id))
        assert mark(admin, producer.who, (topic, 0)) == [NONE]


@pytest.mark.parametrize("version", [1, 2])
def test_stale_markers(admin: Admin, topic: str, version: int) -> None:
    """A marker of an epoch that is behind is refused and changes nothing."""
    producer = Producer(admin, new_name())
    producer.init()
    producer.write(topic, b"a")
    stale = Identity(producer.who.producer_id, producer.who.epoch - 1)

    assert mark(admin, stale, (topic, 0), version=version) == [INVALID_PRODUCER_EPOCH]
    assert visible(admin, topic) == 0


def test_a_transaction_that_begins_between_two_steps(admin: Admin, topic: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Markers come in steps: one that is behind the partition's epoch by its own step is refused there, and the new
    transaction goes on."""
    producer = Producer(admin, new_name())
    for partition in (0, 1):
        producer.write(topic, b"a", partition=partition)
    marker = marker_of(producer.who, (topic, 0), (topic, 1))
    first, goes_on = asyncio.Event(), asyncio.Event()
    end = Container.end_transactions

    async def after(logged: asyncio.Future[None]) -> None:
        await logged
        await goes_on.wait()

    def held(container: Container, ends: Sequence[TransactionEnd], operations: Any) -> asyncio.Future[None]:
        monkeypatch.setattr(Container, "end_transactions", end)
        first.set()
        return asyncio.ensure_future(after(end(container, ends, operations)))

    async def sent() -> tuple[Client, tuple[int, int, int]]:
        client = await Client.connect(admin.broker)
        correlation = client.send(KEYS["WriteTxnMarkers"], 1, {"markers": [marker]})
        await first.wait()
        return client, correlation

    async def answered(client: Client, correlation: tuple[int, int, int]) -> list[int]:
        goes_on.set()
        (told,) = (await client.receive(correlation)).markers
        client.close()
        return [p.error_code for t in told.topics for p in t.partitions]

    monkeypatch.setattr(write_txn_markers, "ENDS_AT_ONCE", 1)
    monkeypatch.setattr(Container, "end_transactions", held)
    sending = admin.run(sent())
    producer.init()
    producer.write(topic, b"b", partition=1)

    assert admin.run(answered(*sending)) == [NONE, INVALID_PRODUCER_EPOCH]
    producer.end()
    assert len(admin.slot(topic, 1).aborted_in(0, admin.slot(topic, 1).end)) == 1


def test_markers_of_the_second_version(admin: Admin, topic: str, producer: Producer) -> None:
    """They have an epoch above that of the transaction; one that comes again is fine (KIP-1228)."""
    producer.write(topic, b"a")
    above = Identity(producer.who.producer_id, producer.who.epoch + 1)

    assert mark(admin, producer.who, (topic, 0), version=2, transaction_version=2) == [INVALID_PRODUCER_EPOCH]
    assert visible(admin, topic) == 0
    assert mark(admin, above, (topic, 0), version=2, transaction_version=2) == [NONE]
    assert mark(admin, above, (topic, 0), version=2, transaction_version=2) == [NONE]
    assert visible(admin, topic) == admin.slot(topic).end == 2
