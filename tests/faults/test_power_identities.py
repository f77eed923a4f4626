"""Identities under a power cut, where a write counts before it is synced: no identity is given out twice.

`log.sync.interval.ms` is an hour: what nobody had synced for its own sake is gone after the cut.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

import pytest

from tests.faults.client import BATCH_HEADER, Connection, array, check, encode_batch, string, varlen
from tests.faults.gateway_process import EAGER, Gateway
from tests.faults.power import cut_power, start_shadowed
from tests.faults.tiered import MIB, QUICK, until, verify

UNSYNCED: Final = {"log.sync.mode": "interval", "log.sync.interval.ms": 3_600_000}
IDLE: Final = {**EAGER, **UNSYNCED, "checkpoint.interval.ms": 3_600_000, "checkpoint.bytes": 1 << 40}
GROUP: Final = "g"
TOPIC: Final = "t"
NO_TAGS: Final = b"\0"
TIMEOUT_MS: Final = 60_000
RECORDS: Final = 40
RECORD_BYTES: Final = 20_000

Identity = tuple[int, int]
Member = tuple[int, str]  # generation, id


def init_producer(connection: Connection, transactional_id: str | None) -> Identity:
    """InitProducerId 1."""
    answer = connection.call(22, 1, string(transactional_id) + struct.pack(">i", TIMEOUT_MS))
    _, code, producer_id, epoch = answer.take("ihqh")
    check("InitProducerId", code)
    return producer_id, epoch


def abort(connection: Connection, transactional_id: str, identity: Identity) -> Identity:
    """EndTxn 5: with each end the producer has another epoch."""
    body = varlen(transactional_id) + struct.pack(">qhb", *identity, 0) + NO_TAGS
    connection.send(26, 5, body, flexible=True)
    _, _, code, producer_id, epoch = connection.receive().take("bihqh")
    check("EndTxn", code)
    return producer_id, epoch


def join(connection: Connection, member_id: str = "") -> Member:
    """JoinGroup 2 and SyncGroup 1 of the only member."""
    protocols = array([string("range") + struct.pack(">i", 0)])
    head = string(GROUP) + struct.pack(">ii", TIMEOUT_MS, TIMEOUT_MS) + string(member_id) + string("consumer")
    answer = connection.call(11, 2, head + protocols)
    _, code, generation = answer.take("ihi")
    check("JoinGroup", code)
    answer.string()
    answer.string()
    member_id = answer.string() or ""
    share = array([string(member_id) + struct.pack(">i", 1) + b"x"])
    answer = connection.call(14, 1, string(GROUP) + struct.pack(">i", generation) + string(member_id) + share)
    check("SyncGroup", answer.take("ih")[1])
    return generation, member_id


def leader_epoch(connection: Connection) -> int:
    """The leader epoch of a batch that is written for this."""
    produced = connection.produce(TOPIC, 0, encode_batch([b"x"]))
    check("Produce", produced.code)
    return int(BATCH_HEADER.unpack_from(connection.fetch(TOPIC, 0, produced.offset).records)[2])


def topic(connection: Connection) -> None:
    connection.create_topic(TOPIC, 1)


@pytest.mark.timeout(400)
def test_nothing_is_given_twice(tmp_path: Path, shadow: Path) -> None:
    """Producer ids, epochs of transactional ids, generations of groups and leader epochs after two power cuts."""
    given: list[Identity] = []
    epochs: list[int] = []
    generations: list[int] = []
    member = ""
    with Gateway(tmp_path, {**IDLE, "group.initial.rebalance.delay.ms": 0}) as gateway:
        start_shadowed(gateway, shadow)
        for _ in range(3):
            with gateway.connect() as connection:
                given += (init_producer(connection, None) for _ in range(2))
                given += (init_producer(connection, "by init") for _ in range(3))
                given.append(init_producer(connection, "by end"))
                given += (abort(connection, "by end", given[-1]) for _ in range(3))
                generation, member = join(connection, member)
                generations.append(generation)
                generations.append(join(connection, member)[0])
                topic(connection)  # what was not synced is gone: it can be made again
                epochs.append(leader_epoch(connection))
            cut_power(gateway, shadow)

    assert len(set(given)) == len(given), given
    assert generations == sorted(set(generations))
    assert epochs == sorted(set(epochs))


@pytest.mark.timeout(400)
def test_new_producer_is_not_taken_for_one_before_the_cut(tmp_path: Path, shadow: Path) -> None:
    """The first batch of a producer that came after the cut is stored, whatever others had sent before."""
    with Gateway(tmp_path, IDLE) as gateway:
        start_shadowed(gateway, shadow)
        with gateway.connect() as connection:
            first = init_producer(connection, None)
            topic(connection)
        cut_power(gateway, shadow)
        with gateway.connect() as connection:
            second = init_producer(connection, None)
            topic(connection)
            offsets = [
                connection.produce(TOPIC, 0, encode_batch([b"x"], *identity, sequence=0)).offset
                for identity in (first, second)
            ]
    assert offsets == [0, 1]


@pytest.mark.timeout(400)
def test_no_object_is_left_that_nobody_knows(tmp_path: Path, shadow: Path) -> None:
    """Every object put before the power went is a known chunk, or is deleted, because an intent is synced before."""
    with Gateway(tmp_path, {**QUICK, **UNSYNCED, "chunk.bytes": MIB // 8}) as gateway:
        start_shadowed(gateway, shadow)
        for number in range(3):
            with gateway.connect() as connection:
                put_something(gateway, connection, f"{TOPIC}-{number}")
            cut_power(gateway, shadow)
        assert gateway.stop() == 0
        found = verify(gateway)
    assert (found["missing"], found["damaged"], found["orphaned"]) == ([], [], [])


def put_something(gateway: Gateway, connection: Connection, name: str) -> None:
    """Write until an object lies in long-term storage that was not there."""

    def objects() -> set[Path]:
        return {path for path in (gateway.data / "tier2" / "chunks").rglob("*") if path.is_file()}

    before = objects()
    connection.create_topic(name, 1)
    for _ in range(RECORDS):
        check("Produce", connection.produce(name, 0, encode_batch([bytes(RECORD_BYTES)])).code)
    until(lambda: objects() - before, "a chunk was put")
