"""Transactional Produce in every version: refusals and repeated batches (SEMANTICS 13, 16-18)."""

from __future__ import annotations

import pytest

from gateway.records.record_batch import read_header
from gateway.transactions.transaction import Identity
from tests.gateway.apis.harness import Admin
from tests.gateway.harness import fetch_body, split, values
from tests.gateway.transactions.client import (
    INVALID_PRODUCER_EPOCH,
    INVALID_RECORD,
    INVALID_TXN_STATE,
    NONE,
    NOT_AUTHORIZED,
    OUT_OF_ORDER,
    TRANSACTION_ABORTABLE,
    UNKNOWN_TOPIC_OR_PARTITION,
    Producer,
    state,
    visible,
)


@pytest.mark.parametrize("version", range(3, 12))
def test_write_without_adding(admin: Admin, topic: str, producer: Producer, version: int) -> None:
    """Before version 12 only partitions that were added take transactional batches."""
    outside = TRANSACTION_ABORTABLE if version >= 11 else INVALID_TXN_STATE
    assert producer.write(topic, b"a", version=version) == outside
    assert producer.add((topic, 1)) == [NONE]
    assert producer.write(topic, b"a", version=version) == outside
    assert producer.write(topic, b"a", partition=1, version=version) == NONE
    assert producer.end(version=3) == NONE
    assert producer.write(topic, b"b", partition=1, version=version) == outside
    assert (admin.slot(topic).end, visible(admin, topic, 1)) == (0, 2)


def test_write_adds(admin: Admin, topic: str, producer: Producer) -> None:
    """From version 12 on a partition takes part by being written to."""
    assert producer.write(topic, b"a") == NONE
    assert producer.write(topic, b"b", partition=2) == NONE
    assert [list(t.partitions) for t in state(admin, producer.name).topics] == [[0, 2]]
    assert (visible(admin, topic), producer.end(), visible(admin, topic)) == (0, NONE, 2)


def test_write_by_topic_id(admin: Admin, topic: str, producer: Producer) -> None:
    """Version 13 names topics by id."""
    data = [
        {
            "topic_id": admin.stream(topic).uuid,
            "partition_data": [{"index": 1, "records": producer.batch(topic, b"a")}],
        }
    ]
    body = {"transactional_id": producer.name, "acks": -1, "timeout": 1_000, "topic_data": data}
    (answer,) = admin.ask("Produce", 13, **body).responses[0].partition_responses

    assert (answer.error_code, producer.end(), visible(admin, topic, 1)) == (NONE, NONE, 2)


@pytest.mark.parametrize("version", [3, 11, 12])
def test_write_without_an_id(admin: Admin, topic: str, producer: Producer, version: int) -> None:
    """A transactional batch needs a transactional id and a producer id."""
    assert producer.write(topic, b"a", version=version, name="") == NOT_AUTHORIZED
    assert producer.add((topic, 0)) == [NONE]
    assert producer.write(topic, b"a", version=version, who=Identity(-1, -1), base_sequence=-1) == INVALID_RECORD
    assert admin.slot(topic).end == 0


@pytest.mark.parametrize("version", [3, 11, 12])
@pytest.mark.parametrize("names_id", [True, False])
def test_plain_write_within_a_transaction(
    admin: Admin, topic: str, producer: Producer, version: int, names_id: bool
) -> None:
    """A producer that has a transaction open in a partition writes nothing else there."""
    producer.write(topic, b"a")
    plain = {"transactional": False, "version": version, "name": None if names_id else ""}

    assert producer.write(topic, b"b", **plain) == INVALID_TXN_STATE
    assert producer.write(topic, b"b", partition=1, **plain) == NONE
    assert producer.end() == NONE
    assert producer.write(topic, b"b", **plain) == NONE
    assert admin.slot(topic).end == 3


@pytest.mark.parametrize("version", [3, 11, 12])
def test_control_batches(admin: Admin, topic: str, producer: Producer, version: int) -> None:
    """Clients write no markers, in a transaction or not."""
    producer.add((topic, 0))

    assert producer.write(topic, b"a", version=version, attributes=0x20) == INVALID_RECORD
    assert producer.write(topic, b"a", version=version, attributes=0x20, transactional=False) == INVALID_RECORD
    assert admin.slot(topic).end == 0


@pytest.mark.parametrize("version", [11, 12])
def test_duplicates(admin: Admin, topic: str, producer: Producer, version: int) -> None:
    """A batch that comes again is answered as before, within its transaction; a gap is an error."""
    producer.add((topic, 0))
    first = [producer.produce(topic, producer.batch(topic, b"a", b"b"), version=version) for _ in range(2)]
    assert [(p.error_code, p.base_offset) for p in first] == [(NONE, 0)] * 2
    assert producer.write(topic, b"c", base_sequence=3, version=version) == OUT_OF_ORDER
    assert producer.write(topic, b"c", base_sequence=2, version=version) == NONE
    assert (admin.slot(topic).end, producer.end(), visible(admin, topic)) == (3, NONE, 4)


def test_the_first_batch(admin: Admin, topic: str, producer: Producer) -> None:
    """From version 12 on a transaction begins at sequence 0, so that no batch overtakes one that is tried again."""
    assert producer.write(topic, b"b", base_sequence=1) == OUT_OF_ORDER
    assert producer.write(topic, b"b", base_sequence=1, version=11) == NONE  # a state may have expired
    assert producer.write(topic, b"a", partition=1) == NONE
    assert producer.write(topic, b"b", partition=1) == NONE


def test_duplicates_after_the_end(admin: Admin, topic: str, producer: Producer) -> None:
    """Once a transaction has ended with a new epoch, a batch of it that comes again is stale, not written again."""
    before = producer.who
    producer.write(topic, b"a")
    producer.end()

    assert producer.write(topic, b"a", who=before, base_sequence=0) == INVALID_PRODUCER_EPOCH
    assert producer.write(topic, b"b", base_sequence=1) == OUT_OF_ORDER
    assert producer.write(topic, b"b") == NONE
    assert admin.slot(topic).end == 3


def test_several_partitions_in_a_request(admin: Admin, topic: str, producer: Producer) -> None:
    """Each batch is judged for itself."""
    batches = [
        (topic, 0, producer.batch(topic, b"a")),
        (topic, 1, producer.batch(topic, b"b", attributes=0x20)),
        ("not-there", 0, producer.batch(topic, b"c")),
        (topic, 2, producer.batch(topic, b"d", transactional=False)),
    ]
    answer = admin.ask("Produce", 12, **producer.produce_body(batches))
    codes = [p.error_code for t in answer.responses for p in t.partition_responses]

    assert sorted(codes) == [NONE, NONE, UNKNOWN_TOPIC_OR_PARTITION, INVALID_RECORD]
    assert [admin.slot(topic, n).end for n in range(3)] == [1, 0, 1]


@pytest.mark.parametrize(
    "configs",
    [{"message_timestamp_type": "LogAppendTime"}, {"compression_type": "gzip"}, {"cleanup_policy": "compact"}],
)
def test_topics_that_change_batches(admin: Admin, producer: Producer, configs: dict[str, str]) -> None:
    """A batch that the topic's configuration changes still belongs to its transaction."""
    topic = admin.create(**configs)
    assert producer.write(topic, b"a", b"b") == NONE
    assert (visible(admin, topic), producer.end(committed=False)) == (0, NONE)
    (aborted,) = admin.slot(topic).aborted_in(0, 3)
    assert (aborted.first, aborted.last) == (0, 2)
    records = admin.ask("Fetch", 11, **fetch_body([(topic, 0, 0)])).responses[0].partitions[0].records
    headers = [read_header(one) for one in split(records)]
    assert [(h.is_transactional, h.is_control) for h in headers] == [(True, False), (True, True)]
    assert values(records)[:2] == [(0, b"a"), (1, b"b")]
