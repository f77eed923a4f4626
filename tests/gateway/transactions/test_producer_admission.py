"""Producers that a partition does not know: how many there may be, and who may bring them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import pytest

from core.clock import ManualClock
from core.container.forgetting import SILENT_MS_MIN
from core.errors import TooManyWriters
from core.streams.known_writers import KnownWriters
from gateway.broker import Broker
from gateway.transactions.producer_admission import ADDRESSES_MAX, NewProducers
from tests.gateway.harness import Client, batch, running_broker

LIMIT: Final = 800
NOT_ENOUGH_REPLICAS, POLICY_VIOLATION = 19, 44
DESCRIBE_PRODUCERS: Final = 61


class Partitions:
    """A stand-in for the store: an admitted producer is known from then on."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.known = KnownWriters(LIMIT)
        self.admission = NewProducers(self.known, self.clock)

    def bring(self, host: str, count: int) -> int:
        """The number of these that are taken."""
        for number in range(count):
            try:
                self.known.admit()
                self.admission.admit(host)
            except TooManyWriters:
                return number
            self.known.added()
        return count


def test_one_address_gets_half() -> None:
    """While there is much room it may bring as many as it likes; the other half is for others."""
    partitions = Partitions()

    assert partitions.bring("stranger", LIMIT) == LIMIT // 2
    assert partitions.bring("honest", 90) == 90


def test_an_address_gets_an_eighth_of_what_is_scarce() -> None:
    """An address with little use goes on while much is used, up to an eighth; the bound holds for all."""
    partitions = Partitions()
    partitions.bring("stranger", LIMIT)
    taken = [partitions.bring(f"host {number}", LIMIT) for number in range(6)]

    assert taken == [LIMIT // 8] * 4 + [0, 0]
    assert partitions.known.count == LIMIT


def test_counts_begin_anew() -> None:
    """After the time that silent producers are kept for, an address may bring more."""
    partitions = Partitions()
    partitions.bring("stranger", LIMIT)
    partitions.clock.advance(SILENT_MS_MIN / 1000)

    assert partitions.bring("stranger", LIMIT) == LIMIT // 8


def test_many_addresses() -> None:
    """The memory of addresses is bounded; addresses that are not told apart share one part."""
    partitions = Partitions()
    for number in range(ADDRESSES_MAX):
        partitions.admission.admit(f"host {number}")
    partitions.known.added(LIMIT // 2)

    assert sum(partitions.bring(f"one more {number}", 1) for number in range(LIMIT)) == LIMIT // 8
    assert len(partitions.admission._brought) == ADDRESSES_MAX + 1


def run(directory: Path, scenario: Callable[[Broker, Client], Coroutine[Any, Any, None]], *settings: str) -> None:
    async def main() -> None:
        async with running_broker(directory, *settings) as broker:
            client = await Client.connect(broker)
            await client.create("t", 2)
            await scenario(broker, client)
            client.close()

    asyncio.run(main())


def made_up(producer_id: int, sequence: int = 0) -> bytearray:
    return batch(b"a", producer_id=producer_id, producer_epoch=0, base_sequence=sequence)


def test_what_a_new_producer_is_told(tmp_path: Path) -> None:
    """An error that every client tries again, and the key; producers that are known, and plain batches, are stored."""

    async def scenario(broker: Broker, client: Client) -> None:
        for producer_id in range(500):
            assert (await client.produce("t", made_up(producer_id))).error_code == 0
        refused = await client.produce("t", made_up(500))

        assert refused.error_code == NOT_ENOUGH_REPLICAS
        assert "producer.states.max" in refused.error_message
        assert (await client.produce("t", made_up(7, sequence=1))).error_code == 0
        assert (await client.produce("t", made_up(7, sequence=1))).base_offset == 500  # a duplicate
        assert (await client.produce("t", made_up(7), partition=1)).error_code == NOT_ENOUGH_REPLICAS
        assert (await client.produce("t", batch(b"plain"))).error_code == 0
        numbers = {(n.name, dict(n.labels).get("key")): n.read() for n in broker.metrics.numbers}
        assert numbers["penstock_limit", "producer.states.max"] == 1_000
        assert numbers["penstock_limit_used", "producer.states.max"] == 500
        assert numbers["penstock_producers_refused_total", None] == 2

    run(tmp_path, scenario, "producer.states.max=1000")


def test_describing_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A partition is described once, however often it is named, and no answer describes more than there is a bound."""
    monkeypatch.setattr("gateway.apis.describe_producers.PRODUCERS_MAX", 5)

    async def scenario(broker: Broker, client: Client) -> None:
        for producer_id in range(4):
            await client.produce("t", made_up(producer_id))
            await client.produce("t", made_up(producer_id), partition=1)

        async def described(*indexes: int) -> list[tuple[int, int, int]]:
            topics = [{"name": "t", "partition_indexes": [index]} for index in indexes]
            (topic,) = (await client.ask(DESCRIBE_PRODUCERS, 0, {"topics": topics})).topics
            return [(p.partition_index, p.error_code, len(p.active_producers)) for p in topic.partitions]

        assert await described(1, 1, 1) == [(1, 0, 4)]
        assert await described(0, 1) == [(0, 0, 4), (1, POLICY_VIOLATION, 0)]

    run(tmp_path, scenario)
