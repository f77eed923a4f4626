"""One producer at a time: a producer that takes over a transactional id ends its open transaction, and so does time."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import pytest

from compat_tests.harness.records import Record, Refused
from compat_tests.scenarios import (
    INVALID_PRODUCER_EPOCH,
    INVALID_TRANSACTION_TIMEOUT,
    PRODUCER_FENCED,
    World,
    numbered,
    scenario,
    values,
)
from compat_tests.scenarios.transactions import in_transaction, read_to_the_end

TIMEOUT_MS: Final = 2_000
TIMED_OUT_WITHIN_S: Final = 30


def assert_fenced(*calls: Callable[[], object]) -> None:
    """One of these calls, made in order, is refused because another producer has taken over."""

    def make_all() -> None:
        for call in calls:
            call()

    with pytest.raises(Refused) as caught:
        make_all()
    by_number = caught.value.code in (INVALID_PRODUCER_EPOCH, PRODUCER_FENCED)
    assert by_number or "fenced" in str(caught.value).lower(), str(caught.value)


@scenario()
def a_zombie_is_fenced(world: World) -> None:
    """A second producer of the same id aborts what the first has open, and the first can do nothing more."""
    topic, identity = world.topic(), world.name("id")
    zombie = world.client.transactional(identity)
    in_transaction(zombie, topic, Record(value=b"first", partition=0))
    zombie.begin_transaction()
    zombie.send(topic, Record(value=b"open", partition=0))

    successor = world.fellow(1).transactional(identity)
    assert_fenced(
        lambda: zombie.send(topic, Record(value=b"too late", partition=0)),
        zombie.commit_transaction,
    )
    in_transaction(successor, topic, Record(value=b"second", partition=0))
    successor.close()

    assert values(read_to_the_end(world, topic)) == [b"first", b"second"]


@scenario()
def a_zombie_cannot_commit_either(world: World) -> None:
    """A fenced producer that sends nothing more learns it from its commit."""
    topic, identity = world.topic(), world.name("id")
    zombie = world.client.transactional(identity)
    zombie.begin_transaction()
    zombie.send(topic, Record(value=b"open", partition=0))

    successor = world.fellow(1).transactional(identity)
    assert_fenced(zombie.commit_transaction)
    in_transaction(successor, topic, Record(value=b"second", partition=0))
    with pytest.raises(Refused):
        in_transaction(zombie, topic, Record(value=b"too late", partition=0))
    successor.close()

    assert values(read_to_the_end(world, topic)) == [b"second"]


@scenario()
def a_producer_dies(world: World) -> None:
    """The next producer of the same id ends what a killed one has left open, and goes on at once."""
    topic, identity = world.topic(), world.name("id")
    process = world.another_process()
    doomed = process.transactional(identity)
    doomed.begin_transaction()
    doomed.send(topic, *numbered(10))
    process.agent.kill()

    successor = world.client.transactional(identity)
    in_transaction(successor, topic, *numbered(3, start=10))
    successor.close()

    assert values(read_to_the_end(world, topic)) == [b"10", b"11", b"12"]


@scenario()
def a_transaction_times_out(world: World) -> None:
    """The server aborts what stays open too long: others are read on, and the late commit is refused."""
    topic, identity = world.topic(), world.name("id")
    late = world.client.transactional(identity, transaction_timeout_ms=TIMEOUT_MS)
    late.begin_transaction()
    late.send(topic, Record(value=b"late", partition=0))
    world.client.write(topic, Record(value=b"waits", partition=0))

    consumer = world.client.reader(topic, isolation="read_committed")
    received = consumer.take(1, within_s=TIMED_OUT_WITHIN_S)
    consumer.close()
    with pytest.raises(Refused):
        late.commit_transaction()
    successor = world.fellow(1).transactional(identity)
    in_transaction(successor, topic, Record(value=b"next", partition=0))
    successor.close()

    assert values(received) == [b"waits"]
    assert values(read_to_the_end(world, topic)) == [b"waits", b"next"]


@scenario()
def a_time_out_that_is_too_long(world: World) -> None:
    """A transaction may not stay open longer than transaction.max.timeout.ms."""
    with pytest.raises(Refused) as caught:
        world.client.transactional(world.name("id"), transaction_timeout_ms=3_600_000)

    by_number = caught.value.code == INVALID_TRANSACTION_TIMEOUT
    assert by_number or re.search("transaction ?timeout", str(caught.value), re.I), str(caught.value)
