"""Memory stays bounded by configuration, whatever clients ask for and however slowly they take it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tests.faults.client import Connection, encode_batch
from tests.faults.gateway_process import Gateway

MIB: Final = 1 << 20
CACHE: Final = 32 * MIB
RESPONSES: Final = 32 * MIB
REQUESTS: Final = 32 * MIB
SETTINGS: Final = {
    "log.cache.bytes": CACHE,
    "queued.max.response.bytes": RESPONSES,
    "queued.max.request.bytes": REQUESTS,
}
BASE: Final = 130 * MIB  # an idle gateway and its allocator's slack
SLOW_CONSUMERS: Final = 1000
CONNECTION: Final = 64 * 1024  # what each costs by itself
BOUND: Final = BASE + 2 * CACHE + 2 * RESPONSES + REQUESTS + SLOW_CONSUMERS * CONNECTION
PARTITIONS: Final = 10_000
VALUE_BYTES: Final = 100_000
VALUES: Final = 400


def test_a_thousand_slow_consumers(tmp_path: Path) -> None:
    """Each asks for a megabyte three times and reads nothing; afterwards each gets all of it."""
    with Gateway(tmp_path, SETTINGS) as gateway:
        gateway.forked = False  # the modules of others would count as its memory
        gateway.start()
        with gateway.connect() as connection:
            connection.create_topic("slow", 1)
            for _ in range(VALUES):
                produced = connection.produce("slow", 0, encode_batch([bytes(VALUE_BYTES)]))
                assert produced.code == 0
            consumers = [gateway.connect() for _ in range(SLOW_CONSUMERS)]
            for number, consumer in enumerate(consumers):
                for again in range(3):
                    wanted = {"slow": {0: (number + again) % (VALUES - 20)}}
                    consumer.send_fetch(wanted, max_wait_ms=0, max_bytes=MIB)
            assert connection.list_offset("slow", 0, -1) == VALUES, "others are still served"
            highest = gateway.rss_bytes()
            for consumer in consumers:
                read_three(consumer)
                highest = max(highest, gateway.rss_bytes())
    print(f"rss with {SLOW_CONSUMERS} slow consumers: {highest / 1e6:.0f} MB, bound {BOUND / 1e6:.0f}")
    assert highest < BOUND


def read_three(consumer: Connection) -> None:
    for _ in range(3):
        fetched = consumer.receive_fetched()["slow", 0]
        assert fetched.code == 0
        assert len(fetched.records) >= VALUE_BYTES
    consumer.close()


def test_ten_thousand_partitions_in_one_fetch(tmp_path: Path) -> None:
    """One request for all partitions of a large topic is answered whole, its size bounded by max_bytes."""
    with Gateway(tmp_path, SETTINGS) as gateway:
        gateway.forked = False  # the modules of others would count as its memory
        gateway.start()
        with gateway.connect() as connection:
            connection.create_topic("wide", PARTITIONS)
            batch = encode_batch([bytes(4_000)])
            for first in range(0, PARTITIONS, 1000):
                for partition in range(first, first + 1000):
                    connection.send_produce("wide", partition, batch)
                for _ in range(1000):
                    assert connection.receive_produced().code == 0
            wanted = {"wide": dict.fromkeys(range(PARTITIONS), 0)}
            read = 0
            for _ in range(20):
                connection.send_fetch(wanted, max_wait_ms=0, max_bytes=8 * MIB)
                answer = connection.receive_fetched()
                assert len(answer) == PARTITIONS
                read = sum(len(fetched.records) for fetched in answer.values())
                assert VALUE_BYTES < read < 9 * MIB
            rss = gateway.rss_bytes()
    print(f"rss after fetches of {PARTITIONS} partitions: {rss / 1e6:.0f} MB, bound {BOUND / 1e6:.0f}")
    assert rss < BOUND
