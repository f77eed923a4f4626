"""Beginning, adding, ending over the wire, in every version: errors, fencing, retries (SEMANTICS 33-36)."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.transactions.transaction import Identity
from tests.gateway.apis.harness import WAIT_SECONDS_MAX, Admin, admin_of, new_name
from tests.gateway.transactions.client import (
    CONCURRENT_TRANSACTIONS,
    INVALID_PRODUCER_EPOCH,
    INVALID_PRODUCER_ID_MAPPING,
    INVALID_REQUEST,
    INVALID_TIMEOUT,
    INVALID_TXN_STATE,
    NONE,
    OPERATION_NOT_ATTEMPTED,
    PRODUCER_FENCED,
    TRANSACTION_ABORTABLE,
    UNKNOWN_TOPIC_OR_PARTITION,
    UNSTABLE_OFFSET_COMMIT,
    Producer,
    offset,
    state,
    visible,
)

pytestmark = pytest.mark.slow

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
    """A producer that names its id gets the next epoch, and the same one if it asks again, whatever was under way."""
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
    """A producer with another id, or a stale one, is fenced."""
    producer = Producer(admin, new_name())
    before = producer.who
    producer.init()

    assert producer.init(version, expected=before) == code
    assert producer.init(version, expected=Identity(before.producer_id, 9)) == code
    assert producer.init(version, expected=Identity(before.producer_id + 10_000, before.epoch)) == code


def test_init_aborts(admin: Admin, topic: str, producer: Producer) -> None:
    """The former producer's open transaction is aborted, with its offsets, before the next producer is answered."""
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
    """A fenced producer, and an unknown one, do nothing in any API; the error is that of its version."""
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


def test_a_client_says_the_id_of_a_topic(admin: Admin, topic: str, producer: Producer) -> None:
    """Only nodes mean something by it: a client's right to write is to the topic that it names."""
    other = admin.slot(admin.create(1)).stream
    named = [{"name": topic, "partitions": [0], "topic_id": other.uuid}]
    who = {f"v3_and_below_{name}": value for name, value in producer.identified().items()}
    answer = admin.ask("AddPartitionsToTxn", 3, **who, v3_and_below_topics=named)

    (added,) = answer.results_by_topic_v3_and_below
    assert (added.name, added.results_by_partition[0].partition_error_code) == (topic, NONE)
    assert [t.topic for t in state(admin, producer.name).topics] == [topic]


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


# EndTxn


@pytest.mark.parametrize("version", range(6))
@pytest.mark.parametrize("committed", [True, False])
def test_end(admin: Admin, topic: str, version: int, committed: bool) -> None:
    """EndTxn is answered when everything has ended; from version 5 on with the producer's new epoch."""
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
        66: (0, 2),
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
    """While one end is in flight, every other request must wait: here, the end of another container."""
    producer.write(topic, b"a")
    known = admin.broker.transactions.of(producer.name).get(producer.name)
    assert known is not None
    prepared = known.ending(committed=True, following=known.bumped(-1), remembers=True, now_ms=1)
    admin.broker.transactions.of(producer.name)._known.set(prepared)
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
        admin.run(admin.broker.transactions.of(producer.name).complete_prepared())
    assert visible(admin, topic) == 2
