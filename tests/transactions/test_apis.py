"""The APIs of transactions over the wire, in every version: errors, fencing, retries (SEMANTICS 16-18, 31, 33-36)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.transactions.transaction import Identity
from gateway.wire.record_batch import read_header
from tests.admin.harness import WAIT_SECONDS_MAX, Admin, admin_of, new_name
from tests.gateway.harness import fetch_body, split, values
from tests.transactions.client import (
    CONCURRENT_TRANSACTIONS,
    ILLEGAL_GENERATION,
    INVALID_GROUP_ID,
    INVALID_PRODUCER_EPOCH,
    INVALID_PRODUCER_ID_MAPPING,
    INVALID_RECORD,
    INVALID_REQUEST,
    INVALID_TIMEOUT,
    INVALID_TXN_STATE,
    NONE,
    NOT_AUTHORIZED,
    OFFSET_METADATA_TOO_LARGE,
    OPERATION_NOT_ATTEMPTED,
    OUT_OF_ORDER,
    PRODUCER_FENCED,
    TRANSACTION_ABORTABLE,
    TRANSACTIONAL_ID_NOT_FOUND,
    UNKNOWN_MEMBER_ID,
    UNKNOWN_TOPIC_OR_PARTITION,
    UNSTABLE_OFFSET_COMMIT,
    Producer,
)


@pytest.fixture(scope="module")
def admin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Admin]:
    with admin_of(tmp_path_factory.mktemp("broker")) as admin:
        yield admin


@pytest.fixture
def topic(admin: Admin) -> str:
    return admin.create(3)


@pytest.fixture
def producer(admin: Admin) -> Producer:
    return Producer(admin, new_name())


def visible(admin: Admin, topic: str, partition: int = 0) -> int:
    """Where committed readers stop."""
    return admin.slot(topic, partition).stable_end


def offset(admin: Admin, group: str, topic: str, *, stable: bool = False) -> tuple[int, int]:
    """Error and committed offset of partition 0."""
    asked = {"group_id": group, "topics": [{"name": topic, "partition_indexes": [0]}]}
    (answer,) = admin.ask("OffsetFetch", 8, groups=[asked], require_stable=stable).groups
    (partition,) = answer.topics[0].partitions
    return partition.error_code, partition.committed_offset


def state(admin: Admin, name: str) -> Any:
    (described,) = admin.ask("DescribeTransactions", 0, transactional_ids=[name]).transaction_states
    return described


# InitProducerId


@pytest.mark.parametrize("version", range(6))
def test_init(admin: Admin, version: int) -> None:
    """The first producer has epoch 0, the next ones the same id and rising epochs."""
    producer = Producer(admin, new_name(), version=version)
    first = producer.who
    assert producer.init(version) == NONE

    assert (first.epoch, producer.who) == (0, Identity(first.producer_id, 1))


@pytest.mark.parametrize("timeout_ms", [0, -1, 900_001, 2**31 - 1])
def test_init_time_outs(admin: Admin, producer: Producer, timeout_ms: int) -> None:
    """Nothing, or more than transaction.max.timeout.ms, is refused and fences nobody."""
    before = producer.who

    assert producer.init(timeout_ms=timeout_ms) == INVALID_TIMEOUT
    assert state(admin, producer.name).producer_epoch == before.epoch
    assert producer.init(timeout_ms=900_000) == NONE


def test_init_of_a_long_id(admin: Admin) -> None:
    """As long as a string of the protocol can be."""
    assert Producer(admin, "x" * (2**15 - 1)).who.epoch == 0


@pytest.mark.parametrize("version", [3, 4, 5])
def test_init_of_a_known_one(admin: Admin, topic: str, version: int) -> None:
    """Who says who it was gets the next epoch, and the same one again if it asks again, whatever it had under way."""
    producer = Producer(admin, new_name())
    before = producer.who
    assert producer.write(topic, b"a") == NONE
    assert producer.init(version, expected=before) == NONE
    given = producer.who
    assert producer.init(version, expected=before) == NONE

    assert producer.who == given == Identity(before.producer_id, before.epoch + 1)
    assert (visible(admin, topic), state(admin, producer.name).transaction_state) == (2, "Empty")
    assert producer.write(topic, b"b") == NONE


@pytest.mark.parametrize(("version", "code"), [(3, INVALID_PRODUCER_EPOCH), (4, PRODUCER_FENCED), (5, PRODUCER_FENCED)])
def test_init_of_a_fenced_one(admin: Admin, version: int, code: int) -> None:
    """Who was somebody else, or is stale, is fenced."""
    producer = Producer(admin, new_name())
    before = producer.who
    producer.init()

    assert producer.init(version, expected=before) == code
    assert producer.init(version, expected=Identity(before.producer_id, 9)) == code
    assert producer.init(version, expected=Identity(before.producer_id + 10_000, before.epoch)) == code


def test_init_aborts(admin: Admin, topic: str, producer: Producer) -> None:
    """What the former producer had under way is aborted before the next one is answered, with its offsets."""
    producer.write(topic, b"a")
    producer.commit_offsets("g-init", (topic, 0, 7))
    former = producer.who
    assert producer.init() == NONE

    assert producer.who == Identity(former.producer_id, former.epoch + 2)
    assert visible(admin, topic) == admin.slot(topic).durable_end == 2
    assert offset(admin, "g-init", topic, stable=True) == (NONE, -1)


# Who may not


CALLS: dict[str, tuple[range, Callable[[Producer, str, int, Identity], int]]] = {
    "AddPartitionsToTxn": (range(4), lambda p, topic, v, who: p.add((topic, 0), version=v, who=who)[0]),
    "AddPartitionsToTxn of brokers": (
        range(4, 6),
        lambda p, topic, v, who: p.verify((topic, 0), version=v, who=who, verify_only=False)[0],
    ),
    "AddOffsetsToTxn": (range(5), lambda p, topic, v, who: p.add_group("g", v, who)),
    "TxnOffsetCommit": (range(6), lambda p, topic, v, who: p.commit_offsets("g", (topic, 0, 1), version=v, who=who)[0]),
    "EndTxn": (range(6), lambda p, topic, v, who: p.end(version=v, who=who)),
    "Produce": (range(3, 13), lambda p, topic, v, who: p.write(topic, b"z", version=v, who=who, base_sequence=0)),
}
VERSIONS = [(name, version) for name, (versions, _) in CALLS.items() for version in versions]


@pytest.mark.parametrize(("name", "version"), VERSIONS)
def test_zombies(admin: Admin, topic: str, producer: Producer, name: str, version: int) -> None:
    """A fenced producer, and one that never was, do nothing in any API: told so as its version knows it."""
    former = producer.who
    producer.init()
    call = CALLS[name][1]
    knows_fence = version >= 2 and name not in ("TxnOffsetCommit", "Produce")

    assert call(producer, topic, version, former) == (PRODUCER_FENCED if knows_fence else INVALID_PRODUCER_EPOCH)
    stranger = Identity(former.producer_id + 10_000, 0)
    assert call(producer, topic, version, stranger) == INVALID_PRODUCER_ID_MAPPING
    assert (admin.slot(topic).end, state(admin, producer.name).transaction_state) == (0, "Empty")


@pytest.mark.parametrize("version", [3, 11, 12])
def test_a_zombie_on_every_partition(admin: Admin, topic: str, version: int) -> None:
    """Also where the new producer has not written yet, where the zombie never wrote, and once the new one has begun."""
    producer = Producer(admin, new_name())
    former = producer.who
    for partition in (0, 1):
        producer.write(topic, b"a", partition=partition)
    producer.init()
    ends = [admin.slot(topic, partition).end for partition in range(3)]
    sent = [producer.write(topic, b"z", partition=n, who=former, base_sequence=1, version=version) for n in range(3)]
    assert (sent, [admin.slot(topic, n).end for n in range(3)]) == ([INVALID_PRODUCER_EPOCH] * 3, ends)
    for partition in range(3):
        assert producer.add((topic, partition)) == [NONE]
    sent = [producer.write(topic, b"z", partition=n, who=former, base_sequence=0, version=version) for n in range(3)]
    assert (sent, [admin.slot(topic, n).end for n in range(3)]) == ([INVALID_PRODUCER_EPOCH] * 3, ends)


@pytest.mark.parametrize(("name", "version"), VERSIONS)
def test_no_such_id(admin: Admin, topic: str, name: str, version: int) -> None:
    """A transactional id that was never initialised has no producer; one without letters is no id."""
    producer = Producer(admin, new_name())
    known, producer.name = producer.name, new_name()
    assert CALLS[name][1](producer, topic, version, producer.who) == INVALID_PRODUCER_ID_MAPPING
    producer.name = ""
    assert CALLS[name][1](producer, topic, version, producer.who) == INVALID_REQUEST
    assert state(admin, known).transaction_state == "Empty"


# AddPartitionsToTxn


@pytest.mark.parametrize("version", range(4))
def test_add_partitions(admin: Admin, topic: str, producer: Producer, version: int) -> None:
    """All partitions take part, or none where one of them is not there; asking again changes nothing."""
    some = [(topic, 0), ("not-there", 0), (topic, 3)]
    assert producer.add(*some, version=version) == [
        OPERATION_NOT_ATTEMPTED,
        UNKNOWN_TOPIC_OR_PARTITION,
        UNKNOWN_TOPIC_OR_PARTITION,
    ]
    assert state(admin, producer.name).transaction_state == "Empty"
    for _ in range(2):
        assert producer.add((topic, 0), (topic, 2), version=version) == [NONE, NONE]
    described = state(admin, producer.name)
    assert described.transaction_state == "Ongoing"
    assert [(t.topic, list(t.partitions)) for t in described.topics] == [(topic, [0, 2])]


@pytest.mark.parametrize(("version", "outside"), [(4, INVALID_TXN_STATE), (5, TRANSACTION_ABORTABLE)])
def test_verify_partitions(topic: str, producer: Producer, version: int, outside: int) -> None:
    """Brokers may ask whether partitions take part, which makes none take part; or have them added."""
    assert producer.verify((topic, 0), version=version) == [outside]
    assert producer.verify((topic, 0), version=version, verify_only=False) == [NONE]
    assert producer.verify((topic, 0), (topic, 1), version=version) == [NONE, outside]
    for verify_only in (True, False):
        codes = producer.verify((topic, 0), ("not-there", 0), version=version, verify_only=verify_only)
        assert codes == [OPERATION_NOT_ATTEMPTED, UNKNOWN_TOPIC_OR_PARTITION]


def test_several_transactions_at_once(admin: Admin, topic: str) -> None:
    """Each is answered for itself."""
    one, other = Producer(admin, new_name()), Producer(admin, new_name())
    topics = [{"name": topic, "partitions": [0]}]
    asked = [
        {**one.identified(), "verify_only": False, "topics": topics},
        {**other.identified(who=one.who), "verify_only": False, "topics": topics},
        {**other.identified(), "verify_only": True, "topics": topics},
    ]
    answer = admin.ask("AddPartitionsToTxn", 5, transactions=asked)

    assert [
        (result.transactional_id, result.topic_results[0].results_by_partition[0].partition_error_code)
        for result in answer.results_by_transaction
    ] == [(one.name, NONE), (other.name, INVALID_PRODUCER_ID_MAPPING), (other.name, TRANSACTION_ABORTABLE)]


# Produce


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


# EndTxn


@pytest.mark.parametrize("version", range(6))
@pytest.mark.parametrize("committed", [True, False])
def test_end(admin: Admin, topic: str, version: int, committed: bool) -> None:
    """It is answered when everything has ended; from version 5 on with the producer's new epoch."""
    producer = Producer(admin, new_name())
    before = producer.who
    producer.write(topic, b"a")
    assert producer.end(committed=committed, version=version) == NONE

    described = state(admin, producer.name)
    assert described.transaction_state == ("CompleteCommit" if committed else "CompleteAbort")
    assert producer.who == Identity(before.producer_id, before.epoch + (version == 5))
    assert (described.producer_epoch, visible(admin, topic)) == (producer.who.epoch, 2)


@pytest.mark.parametrize("version", range(6))
@pytest.mark.parametrize("committed", [True, False])
def test_end_again(admin: Admin, topic: str, version: int, committed: bool) -> None:
    """The same answer, and nothing is written; the opposite is an error, and changes nothing."""
    producer = Producer(admin, new_name())
    before = producer.who
    producer.write(topic, b"a")
    producer.end(committed=committed, version=version)
    given = producer.who

    assert producer.end(committed=committed, version=version, who=before) == NONE
    assert producer.end(committed=not committed, version=version, who=before) == INVALID_TXN_STATE
    assert (producer.who, admin.slot(topic).end) == (given, 2)


@pytest.mark.parametrize("version", range(6))
def test_end_of_nothing(admin: Admin, version: int) -> None:
    """There is nothing to commit; an abort of nothing gives a new epoch from version 5 on, and is an error before."""
    producer = Producer(admin, new_name())
    before = producer.who

    assert producer.end(version=version) == INVALID_TXN_STATE
    assert producer.end(committed=False, version=version) == (NONE if version == 5 else INVALID_TXN_STATE)
    assert producer.who.epoch == before.epoch + (version == 5)


def test_a_late_end(admin: Admin, topic: str, producer: Producer) -> None:
    """An end that arrives when the next transaction has begun does nothing to that one (KIP-890)."""
    before = producer.who
    producer.write(topic, b"a")
    producer.end()
    producer.write(topic, b"b")

    assert producer.end(who=before) == PRODUCER_FENCED
    assert producer.end(who=before, committed=False) == PRODUCER_FENCED
    assert (visible(admin, topic), state(admin, producer.name).transaction_state) == (2, "Ongoing")


def test_versions_mixed(admin: Admin, topic: str, producer: Producer) -> None:
    """A producer may end one transaction without a new epoch and the next one with it."""
    for version in (4, 5, 4, 5):
        assert producer.add((topic, 0)) == [NONE]
        assert producer.write(topic, b"a", version=11) == NONE
        assert producer.end(version=version) == NONE

    assert (visible(admin, topic), producer.who.epoch) == (8, 2)


# Offsets


@pytest.mark.parametrize("version", range(6))
def test_offsets(admin: Admin, topic: str, version: int) -> None:
    """They are seen when the transaction has committed; until then who wants stable ones is told to ask again."""
    producer, group = Producer(admin, new_name()), new_name()
    assert producer.add_group(group) == NONE
    assert producer.commit_offsets(group, (topic, 0, 7), ("not-there", 0, 1), (topic, 3, 1), version=version) == [
        NONE,
        UNKNOWN_TOPIC_OR_PARTITION,
        UNKNOWN_TOPIC_OR_PARTITION,
    ]
    assert offset(admin, group, topic) == (NONE, -1)
    assert offset(admin, group, topic, stable=True) == (UNSTABLE_OFFSET_COMMIT, -1)
    assert producer.end() == NONE
    assert offset(admin, group, topic) == offset(admin, group, topic, stable=True) == (NONE, 7)


@pytest.mark.parametrize("version", range(6))
def test_offsets_without_the_group(admin: Admin, topic: str, version: int) -> None:
    """From version 5 on a group takes part by having offsets committed."""
    producer, group = Producer(admin, new_name()), new_name()
    codes = {3: INVALID_TXN_STATE, 4: TRANSACTION_ABORTABLE, 5: NONE}
    code = codes[max(version, 3)]

    assert producer.commit_offsets(group, (topic, 0, 7), version=version) == [code]
    producer.add_group(new_name())
    assert producer.commit_offsets(group, (topic, 0, 7), version=version) == [code]


def test_aborted_offsets(admin: Admin, topic: str, producer: Producer) -> None:
    """Nothing is left of them, and what was committed before stays."""
    group = new_name()
    producer.commit_offsets(group, (topic, 0, 3))
    producer.end()
    producer.commit_offsets(group, (topic, 0, 7))
    assert offset(admin, group, topic) == (NONE, 3)
    producer.end(committed=False)

    assert offset(admin, group, topic, stable=True) == (NONE, 3)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"generation_id": 1}, ILLEGAL_GENERATION),
        ({"member_id": "nobody", "generation_id": 1}, ILLEGAL_GENERATION),
    ],
)
def test_offsets_of_members_of_no_group(topic: str, producer: Producer, options: dict[str, Any], code: int) -> None:
    """Who is in a generation of a group that is not there commits nothing."""
    assert producer.commit_offsets(new_name(), (topic, 0, 7), **options) == [code]


@pytest.mark.parametrize("version", [3, 4, 5])
def test_offsets_of_members(admin: Admin, topic: str, version: int) -> None:
    """A member is checked with its generation; who names no member is trusted, for its producer is fenced."""
    producer, group = Producer(admin, new_name()), new_name()
    producer.add_group(group)
    protocols = [{"name": "range", "metadata": b""}]
    asked = {
        "group_id": group,
        "session_timeout": 10_000,
        "rebalance_timeout": 10_000,
        "member_id": "",
        "group_instance_id": None,
        "protocol_type": "consumer",
        "protocols": protocols,
    }
    member_id = admin.ask("JoinGroup", 5, **asked).member_id
    joined = admin.ask("JoinGroup", 5, **{**asked, "member_id": member_id})
    member = {"member_id": member_id, "generation_id": joined.generation_id}

    def commit(**options: Any) -> int:
        return producer.commit_offsets(group, (topic, 0, 7), version=version, **options)[0]

    assert commit(**member) == NONE
    assert commit(**{**member, "generation_id": joined.generation_id + 1}) == ILLEGAL_GENERATION
    assert commit(**{**member, "generation_id": -1}) == ILLEGAL_GENERATION
    assert commit(**{**member, "member_id": "nobody"}) == UNKNOWN_MEMBER_ID
    assert commit() == NONE


def test_offsets_with_too_much_metadata(admin: Admin, topic: str, producer: Producer) -> None:
    """As outside transactions."""
    assert producer.commit_offsets(new_name(), (topic, 0, 7), metadata="x" * 4_097) == [OFFSET_METADATA_TOO_LARGE]
    assert producer.commit_offsets(new_name(), (topic, 0, 7), metadata="x" * 4_096) == [NONE]


@pytest.mark.parametrize("version", range(5))
def test_add_group(producer: Producer, version: int) -> None:
    """A group needs a name."""
    assert producer.add_group("", version) == INVALID_GROUP_ID
    assert producer.add_group("g", version) == NONE


def test_pending_offsets_in_all_of_a_group(admin: Admin, topic: str, producer: Producer) -> None:
    """Who asks for all of a group's offsets is told of those that are only pending, if it wants stable ones."""
    group = new_name()
    producer.commit_offsets(group, (topic, 0, 7))

    def told(stable: bool) -> list[tuple[int, int]]:
        (answer,) = admin.ask(
            "OffsetFetch", 8, groups=[{"group_id": group, "topics": None}], require_stable=stable
        ).groups
        return [(p.partition_index, p.error_code) for t in answer.topics for p in t.partitions]

    assert told(False) == []
    assert told(True) == [(0, UNSTABLE_OFFSET_COMMIT)]


# Looking at transactions


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
    """Who writes to a partition, and where its transaction began."""

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


# Markers of an administrator


def mark(
    admin: Admin,
    who: Identity,
    *where: tuple[str, int],
    version: int = 1,
    committed: bool = False,
    transaction_version: int = 0,
) -> list[int]:
    marker = {
        "producer_id": who.producer_id,
        "producer_epoch": who.epoch,
        "transaction_result": committed,
        "topics": [{"name": topic, "partition_indexes": [partition]} for topic, partition in where],
        "coordinator_epoch": 0,
        "transaction_version": transaction_version,
    }
    (answer,) = admin.ask("WriteTxnMarkers", version, markers=[marker]).markers
    assert answer.producer_id == who.producer_id
    return [p.error_code for t in answer.topics for p in t.partitions]


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


@pytest.mark.parametrize("version", [1, 2])
def test_stale_markers(admin: Admin, topic: str, version: int) -> None:
    """A marker of an epoch that is behind is refused and changes nothing."""
    producer = Producer(admin, new_name())
    producer.init()
    producer.write(topic, b"a")
    stale = Identity(producer.who.producer_id, producer.who.epoch - 1)

    assert mark(admin, stale, (topic, 0), version=version) == [INVALID_PRODUCER_EPOCH]
    assert visible(admin, topic) == 0


def test_markers_of_the_second_version(admin: Admin, topic: str, producer: Producer) -> None:
    """They have an epoch above that of the transaction; one that comes again is fine (KIP-1228)."""
    producer.write(topic, b"a")
    above = Identity(producer.who.producer_id, producer.who.epoch + 1)

    assert mark(admin, producer.who, (topic, 0), version=2, transaction_version=2) == [INVALID_PRODUCER_EPOCH]
    assert visible(admin, topic) == 0
    assert mark(admin, above, (topic, 0), version=2, transaction_version=2) == [NONE]
    assert mark(admin, above, (topic, 0), version=2, transaction_version=2) == [NONE]
    assert visible(admin, topic) == admin.slot(topic).end == 2


# Finding all of it


@pytest.mark.parametrize("version", range(1, 7))
def test_find_coordinator(admin: Admin, version: int) -> None:
    """This broker coordinates every transactional id."""
    port = admin.broker._kafka[0].port
    if version < 4:
        answer = admin.ask("FindCoordinator", version, key="any", key_type=1)
    else:
        (answer,) = admin.ask("FindCoordinator", version, key_type=1, coordinator_keys=["any"]).coordinators
    assert (answer.error_code, answer.port) == (NONE, port)


@pytest.mark.parametrize("version", [3, 4])
def test_features(admin: Admin, version: int) -> None:
    """Clients learn that the second version of transactions is on."""
    answer = admin.ask("ApiVersions", version, client_software_name="test", client_software_version="1")
    finalized = {f.name: f.max_version_level for f in answer.finalized_features}
    served = {api.api_key: (api.min_version, api.max_version) for api in answer.api_keys}

    assert finalized["transaction.version"] == 2
    expected = {
        22: (0, 5),
        24: (0, 5),
        25: (0, 4),
        26: (0, 5),
        27: (1, 2),
        28: (0, 5),
        61: (0, 0),
        65: (0, 0),
        66: (0, 1),
    }
    assert {key: served[key] for key in expected} == expected


# Time-outs and restarts, with a broker of their own


def test_timed_out(tmp_path: Path) -> None:
    """A transaction that times out is aborted without anybody asking for it, and its producer is fenced."""
    with admin_of(tmp_path, "transaction.abort.timed.out.transaction.cleanup.interval.ms=20") as admin:
        topic = admin.create()
        producer = Producer(admin, "x", timeout_ms=100)
        producer.write(topic, b"a")
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        while visible(admin, topic) < 2:
            assert time.monotonic() < deadline
            assert state(admin, "x").transaction_state in ("Ongoing", "CompleteAbort")
        assert producer.write(topic, b"b") == INVALID_PRODUCER_EPOCH
        assert producer.end() == PRODUCER_FENCED
        assert producer.end(committed=False) == PRODUCER_FENCED
        assert producer.end(version=1) == INVALID_PRODUCER_EPOCH
        assert producer.init() == NONE


@pytest.mark.parametrize("committed", [True, False])
def test_over_a_restart(tmp_path: Path, committed: bool) -> None:
    """A transaction goes on after a stop, with its offsets, its fences and its duplicates."""
    with admin_of(tmp_path) as admin:
        topic = admin.create()
        zombie = Producer(admin, "x").who
        producer = Producer(admin, "x")
        records = producer.batch(topic, b"a")
        assert producer.produce(topic, records.copy()).error_code == NONE
        producer.commit_offsets("g", (topic, 0, 7))
        admin.restart()
        assert offset(admin, "g", topic, stable=True) == (UNSTABLE_OFFSET_COMMIT, -1)
        assert (visible(admin, topic), state(admin, "x").transaction_state) == (0, "Ongoing")
        again = producer.produce(topic, records.copy())
        assert (again.error_code, again.base_offset) == (NONE, 0)
        assert producer.write(topic, b"z", who=zombie, base_sequence=0) == INVALID_PRODUCER_EPOCH
        before = producer.who
        assert producer.end(committed=committed) == NONE
        given = producer.who
        admin.restart()
        assert (producer.end(committed=committed, who=before), producer.who) == (NONE, given)
        assert offset(admin, "g", topic, stable=True) == (NONE, 7 if committed else -1)
        assert len(admin.slot(topic).aborted_in(0, 2)) == (not committed)
        assert producer.write(topic, b"a", who=before, base_sequence=0) == INVALID_PRODUCER_EPOCH
        assert producer.write(topic, b"b") == NONE


def test_concurrent(admin: Admin, topic: str, producer: Producer) -> None:
    """While one end is on its way, everything else is told to wait: here, that of another container."""
    producer.write(topic, b"a")
    known = admin.broker.transactions.get(producer.name)
    assert known is not None
    prepared = known.ending(committed=True, following=known.bumped(-1), remembers=True, now_ms=1)
    admin.broker.transactions._set(prepared)
    try:
        assert producer.end() == CONCURRENT_TRANSACTIONS
        assert producer.end(committed=False) == INVALID_TXN_STATE
        assert producer.init() == CONCURRENT_TRANSACTIONS
        assert producer.add((topic, 0)) == [CONCURRENT_TRANSACTIONS]
        assert producer.add_group("g") == CONCURRENT_TRANSACTIONS
        assert producer.write(topic, b"b") == CONCURRENT_TRANSACTIONS
        assert producer.write(topic, b"b", version=11) == 19  # NOT_ENOUGH_REPLICAS, which they try again
        assert producer.commit_offsets("g", (topic, 0, 1)) == [CONCURRENT_TRANSACTIONS]
        assert producer.commit_offsets("g", (topic, 0, 1), version=4) == [14]  # COORDINATOR_LOAD_IN_PROGRESS
    finally:
        admin.run(admin.broker.transactions._complete_prepared())
    assert visible(admin, topic) == 2
